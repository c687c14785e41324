"""`joey run`: create, start, wait, delete. `joey create` shares its first half (see create.py)."""

from __future__ import annotations

import os

from ...compat import files
from ...compat.process import check_passed_fds
from .. import bundle as bundles
from .. import container, launch, log, prepare
from ..build import Options, steps
from ..launch import Start
from ..needs import layer_words
from ..options import Arguments, Command, Option
from ..state import State, check_id
from ..steps import Step
from .common import root_of
from .planning import (
    BUNDLE_OPTION,
    LAYER_OPTION,
    NETWORK_OPTION,
    PLAN_OPTIONS,
    QUOTA_OPTION,
    VIEWS_OPTION,
    plan_container_here,
    say_capabilities,
    say_losses,
    seal,
)

CREATE_OPTIONS = (
    BUNDLE_OPTION,
    Option("--console-socket", "PATH", "send the master of the container's terminal to this unix socket"),
    Option("--pid-file", "FILE", "write the process's pid to FILE"),
    Option("--no-pivot", "", "change the root by MS_MOVE and chroot (for a root on the initial ramfs)"),
    Option("--no-new-keyring", "", "keep the caller's session keyring"),
    Option("--preserve-fds", "N", "pass N more descriptors than the standard three", default="0"),
    LAYER_OPTION,
    QUOTA_OPTION,
    VIEWS_OPTION,
    NETWORK_OPTION,
    Option("--dry-run", "", "print the steps and do nothing"),
    *PLAN_OPTIONS,
)


def make(arguments: Arguments, detach: bool, wait_for_start: bool) -> tuple[State, Start] | None:
    """Create the container of a command line; None after --dry-run."""
    name = arguments.words[0]
    check_id(name)
    path = arguments.text("bundle")
    bundle = bundles.load(path)
    if not arguments.many("layer") and not layer_words(bundle):
        bundles.check_rootfs(bundle)
    plan = plan_container_here(bundle, arguments, make_root=not arguments.switch("dry-run"))
    if not arguments.switch("dry-run"):
        seal(plan)
    say_capabilities(bundle)
    _tell_of_sockets(bundle)
    options = Options(
        console_socket=arguments.text("console-socket"),
        detach=detach,
        new_keyring=not arguments.switch("no-new-keyring"),
        wait_for_start=wait_for_start,
        keep_fds=passed_sockets() + arguments.number("preserve-fds", 0),
    )
    if arguments.switch("dry-run"):
        state = State(f"{root_of(arguments)}/{name}", name, bundle.path, bundle.rootfs)
        start = steps(bundle, plan, state, options)
        _print_steps("parent", start.parent)
        _print_steps("child", start.child)
        return None
    say_losses(plan)
    text = files.read_text(f"{bundle.path}/config.json", bundles.CONFIG_LIMIT)
    made, start = prepare.create(root_of(arguments), name, bundle, plan, options, text)
    if arguments.given("pid-file"):
        try:
            files.write_atomically(arguments.text("pid-file"), str(made.pid), 0o644)
        except OSError:
            container.take_down(made)
            raise
    return made, start


def passed_sockets() -> int:
    """How many sockets a service manager passes to this process, for the container's program. sd_listen_fds(3)."""
    count = os.environ.get("LISTEN_FDS", "")
    ours = os.environ.get("LISTEN_PID", "") in ("", str(os.getpid()))
    return int(count) if count.isdigit() and ours else 0


def passed_fds(arguments: Arguments) -> int:
    """How many descriptors after the standard three the container gets; checked, before joey opens any of its own."""
    count = passed_sockets() + arguments.number("preserve-fds", 0)
    check_passed_fds(count)
    return count


def _tell_of_sockets(bundle: bundles.Bundle) -> None:
    """The environment by which the container's program, pid 1, finds the passed sockets."""
    count = passed_sockets()
    if count:
        names = os.environ.get("LISTEN_FDNAMES", "")
        told = [f"LISTEN_FDS={count}", "LISTEN_PID=1", *([f"LISTEN_FDNAMES={names}"] if names else [])]
        bundle.process["env"] = [*(bundle.process.get("env") or []), *told]


def _print_steps(side: str, steps_of_side: tuple[Step, ...]) -> None:
    for number, step in enumerate(steps_of_side, 1):
        print(f"{side:<6} {number:>2}  {step.describe()}")


def run(arguments: Arguments) -> int:
    detach = arguments.switch("detach")
    foreground = None
    passed_fds(arguments)
    if not detach and not arguments.switch("dry-run"):
        from ..foreground import Foreground

        foreground = Foreground(subreaper=not arguments.switch("no-subreaper"))
    made = make(arguments, detach, wait_for_start=False)
    if made is None:
        return 0
    state, start = made
    if foreground:
        foreground.forward()
    try:
        launch.release(start.channel)
        container.poststart(state)
    except BaseException:
        container.take_down(state)
        raise
    if foreground is None:
        return 0
    try:
        status = foreground.wait(state.pid, start.channel.master)
    finally:
        if not arguments.switch("keep"):
            container.take_down(state)
    log.write("debug", f"container {state.id} ended with status {status}")
    return status


COMMAND = Command(
    "run",
    "create a container, start it, and wait for its end",
    run,
    words="ID",
    least=1,
    most=1,
    options=(
        *CREATE_OPTIONS,
        Option("--detach -d", "", "return once the container runs"),
        Option("--keep", "", "keep the container's state after its end"),
        Option("--no-subreaper", "", "leave orphans of a container without a pid namespace to the host's init"),
    ),
    detail=(
        "The exit status is the container's: its code, or 128 and the number of the signal that ended it. Signals\n"
        "that joey gets are passed on. Exit status 1: joey could not run it, and says why."
    ),
    examples=(
        "joey run -b /srv/bundle web          in the foreground",
        "joey run --detach -b /srv/bundle web in the background",
        "joey run --dry-run -b /srv/bundle x  print the steps",
        "joey --debug run -b /srv/bundle x    print the steps as they run",
    ),
)
