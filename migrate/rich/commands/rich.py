"""`joey rich`: machines that live on in containers."""

from __future__ import annotations

from ....runtime.options import Command


def _verb(module: str, summary: str) -> tuple[str, str]:
    return f"migrate.rich.commands.{module}", summary


COMMAND = Command(
    "rich",
    "run a whole machine in a container, by its own init",
    None,
    verbs={
        "create": _verb("create", "make a rich container of an image or a root file system"),
        "run": _verb("run", "make one and start it"),
        "start": _verb("start", "start it, and wait until its services are up"),
        "stop": _verb("stop", "shut it down by its init's own way"),
        "restart": _verb("restart", "stop it and start it"),
        "pause": _verb("pause", "stop every process of it where it is"),
        "resume": _verb("resume", "let a paused one go on"),
        "ps": _verb("ps", "list rich containers"),
        "top": _verb("top", "list the processes of one"),
        "stats": _verb("stats", "show what one uses of memory, CPUs and processes"),
        "logs": _verb("logs", "show what its init has printed"),
        "attach": _verb("attach", "show what its init prints from now on"),
        "exec": _verb("exec", "run a command in it"),
        "inspect": _verb("inspect", "show all about one, what was changed of the machine too"),
        "update": _verb("update", "change limits, environment and policies of one, running or not"),
        "rename": _verb("rename", "give a stopped one another name"),
        "upgrade": _verb("upgrade", "give it another image, with a way back"),
        "rollback": _verb("rollback", "go back to what was before an upgrade"),
        "confirm": _verb("confirm", "keep an upgrade: what was before it is removed"),
        "commit": _verb("commit", "make an image of what one has become"),
        "export": _verb("export", "write the files of one to a tar"),
        "verify": _verb("verify", "compare one with the machine it came from"),
        "rm": _verb("rm", "remove one and what it has written"),
        "boot": _verb("boot", "start those that ran when the host went down"),
        "supervise": _verb("supervise", ""),
        "settle": _verb("settle", ""),
        "wire": _verb("wire", ""),
        "check-health": _verb("check_health", ""),
    },
    detail=(
        "A rich container has a machine's own init, services, cron and sshd, with limits and an address of its own.\n"
        "It is kept in /var/lib/joey/rich (or --store, or $JOEY_RICH) and outlives reboots of the host."
    ),
    examples=(
        "joey migrate centos6.vmdk --to oci:images:shop",
        "joey rich run --name shop --memory 2G --disk-quota 20G --network bridge oci:images:shop",
        "joey rich exec -t shop bash",
    ),
)
