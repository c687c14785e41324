"""`joey fleet`: many hosts from one desk."""

from __future__ import annotations

from ....runtime.options import Command


def _verb(module: str, summary: str) -> tuple[str, str]:
    return f"migrate.fleet.commands.{module}", summary


COMMAND = Command(
    "fleet",
    "look at many hosts over SSH, and roll out to them",
    None,
    verbs={
        "probe": _verb("probe", "ask every host what its kernel can do; nothing is installed there"),
        "show": _verb("show", "show what is known of the hosts, as a table or as a page"),
        "check": _verb("check", "say on which hosts an image would run, and why not"),
        "deploy": _verb("deploy", "bring the host kit to hosts, or go back to the one before"),
        "run": _verb("run", "run an image as a rich container on hosts, in waves"),
        "upgrade": _verb("upgrade", "give it another image, in waves, with a way back"),
        "rollback": _verb("rollback", "take an upgrade back"),
        "confirm": _verb("confirm", "keep an upgrade"),
        "stop": _verb("stop", "shut it down"),
        "ps": _verb("ps", "list the rich containers of hosts"),
        "logs": _verb("logs", "show the last lines of its log"),
        "exec": _verb("exec", "run a command on hosts"),
        "journal": _verb("journal", "show what was done to hosts, when and by whom"),
    },
    detail=(
        "Hosts are named on the command line, or in a file: --hosts FILE, fleet.yaml in this folder, or - for\n"
        "standard input. SSH is as your ssh_config, agent and keys have it; host keys are always checked.\n"
        "A host that is down or slow is told, and the rest goes on: exit status 1 then, 0 where all went well."
    ),
    examples=(
        "joey fleet probe root@db1 web1 web2",
        "joey fleet probe --hosts fleet.yaml 'web*' '!web7'",
        "joey fleet check oci:images:shop",
        "joey fleet show --html fleet.html",
    ),
)
