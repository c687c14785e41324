"""`joey exec`: a further process in a running container."""

from __future__ import annotations

import sys

from ...compat import files, jsonio
from ...compat.constants import CAPABILITIES
from ...compat.errors import BundleError, JoeyError, StateError, UsageError
from ...compat.process import check_passed_fds
from .. import bundle as bundles
from .. import launch, log, schema
from ..enter import enter_steps
from ..foreground import Foreground
from ..needs import copy_needs, exec_needs
from ..options import Arguments, Command, Option
from ..state import State
from .common import container_of
from .planning import PLAN_OPTIONS, plan_here, say_capabilities, seal, trace_as_chosen

EXEC_FAILED = 255
# what a process that leaves it out has of the container's own
_INHERITED = ("apparmorProfile", "capabilities", "ioPriority", "oomScoreAdj", "rlimits", "scheduler", "selinuxLabel")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(arguments: Arguments) -> int:
    check_passed_fds(arguments.number("preserve-fds", 0))  # before joey opens any of its own
    try:
        return _exec(arguments, container_of(arguments))
    except JoeyError as error:
        # runc's status for what it could not run, so that its clients tell it from the program's own
        raise JoeyError(f"exec failed: {error.message}", error.hint, error.slug, EXEC_FAILED) from None


def _exec(arguments: Arguments, state: State) -> int:
    status = state.status()
    if status == "paused" and not arguments.switch("ignore-paused"):
        raise StateError(f"cannot exec in a paused container: {state.id}", "resume it, or use --ignore-paused")
    if status not in ("running", "created", "paused"):
        raise StateError(f"cannot exec in a container that is {status}: {state.id}", slug="not-running")
    bundle = state.config()
    by_agent = state.mechanisms.get("enter") == "agent"
    if copy_needs(bundle):
        seal(plan_here(exec_needs(bundle, by_agent), arguments))  # before anything is read or made: it may start anew
    bundle.process = _process(arguments, bundle)
    schema.PROCESS(bundle.process, "process")
    bundles.check_process(bundle.process)
    detach = arguments.switch("detach")
    socket = arguments.text("console-socket")
    if bundle.process.get("terminal") and detach and not socket:
        raise UsageError("a detached process with a terminal needs --console-socket")
    plan = plan_here(exec_needs(bundle, by_agent), arguments)
    seal(plan, again=arguments.text("process") != "-")  # standard input can't be read twice
    # its programs as the container's are, its profile by this plan
    trace_as_chosen(lambda feature: plan.mechanism(feature) or state.mechanisms.get(feature, ""), bundle)
    say_capabilities(bundle)
    foreground = None if detach else Foreground(subreaper=False)
    keep = arguments.number("preserve-fds", 0)
    start = enter_steps(state, bundle, plan, socket, keep, sub_groups(arguments.many("cgroup")))
    launch.listen_for_seccomp(start, bundle, state, status)
    launch.run_parent(start.parent)
    try:
        if arguments.given("pid-file"):
            files.write_atomically(arguments.text("pid-file"), str(start.clone.pid), 0o644)
        if foreground:
            foreground.forward()
        launch.release(start.channel)
    except BaseException:
        start.clone.undo()
        raise
    if foreground is None:
        return 0
    return foreground.wait(start.clone.pid, start.channel.master, start.clone.connection)


def _process(arguments: Arguments, bundle: bundles.Bundle) -> dict[str, Any]:
    """The process to run: from --process, or the container's own with the command line's changes."""
    if arguments.given("process"):
        path = arguments.text("process")
        try:
            text = sys.stdin.read() if path == "-" else files.read_text(path, bundles.CONFIG_LIMIT)
            value = schema.without_nulls(jsonio.loads(text))
        except OSError as error:
            raise JoeyError(f"--process {path}: {error.strerror}") from None
        except ValueError as error:
            raise BundleError("", f"--process {path} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise BundleError("process", "expected an object")
        kept = {key: bundle.process[key] for key in _INHERITED if key in bundle.process}
        return {**kept, **value}
    words = arguments.words[1:]
    if not words:
        raise UsageError("no program given", "joey exec ID PROGRAM [ARGUMENT...], or --process FILE")
    process = {key: value for key, value in bundle.process.items() if key not in ("consoleSize", "terminal")}
    process["args"] = words
    process["terminal"] = arguments.switch("tty")
    if arguments.given("cwd"):
        process["cwd"] = arguments.text("cwd")
    process["env"] = [*(process.get("env") or []), *arguments.many("env")]
    user = dict(process.get("user") or {})
    if arguments.given("user"):
        user.update(_user(arguments.text("user")))
    if arguments.many("additional-gids"):
        gids = [_id(word) for word in arguments.many("additional-gids")]
        user["additionalGids"] = [*(user.get("additionalGids") or []), *gids]
    process["user"] = user
    if arguments.given("apparmor"):
        process["apparmorProfile"] = arguments.text("apparmor")
    if arguments.given("process-label"):
        process["selinuxLabel"] = arguments.text("process-label")
    if arguments.switch("no-new-privs"):
        process["noNewPrivileges"] = True
    sets = {name: list(names) for name, names in (process.get("capabilities") or {}).items()}
    for name in arguments.many("cap"):
        if name not in CAPABILITIES:
            log.warn(f"--cap: nobody knows {name}; ignored")
            continue
        for key in ("bounding", "effective", "permitted"):
            sets.setdefault(key, []).append(name)
    process["capabilities"] = sets
    return process


def sub_groups(words: list[str]) -> dict[str, str]:
    """--cgroup words, "controller[,controller]:path" or "path" (for all), as controller (or "") -> path."""
    out = {}
    for word in words:
        controllers, colon, path = word.rpartition(":")
        if ".." in path.split("/"):
            raise UsageError(f'--cgroup: "{word}" leaves the container\'s cgroup by ".."')
        for controller in controllers.split(",") if colon else [""]:
            out[controller] = path.strip("/")
    return out


def _user(word: str) -> dict[str, int]:
    """The ids a --user names; who gives no group keeps the container's."""
    uid, colon, gid = word.partition(":")
    return {"uid": _id(uid), **({"gid": _id(gid)} if colon else {})}


def _id(word: str) -> int:
    if not word.isdigit():
        raise UsageError(f'"{word}" is not a numeric id', "ids are numbers here: UID[:GID]")
    return int(word)


COMMAND = Command(
    "exec",
    "run a process in a running container",
    run,
    words="ID PROGRAM [ARGUMENT...]",
    least=1,
    most=-1,
    options=(
        Option("--process -p", "FILE", "the process as JSON, as in config.json; - reads it from stdin"),
        Option("--tty -t", "", "give it a terminal"),
        Option("--detach -d", "", "return once it runs"),
        Option("--console-socket", "PATH", "send the terminal's master to this unix socket"),
        Option("--pid-file", "FILE", "write its pid to FILE"),
        Option("--cwd", "DIR", "its working directory"),
        Option("--env -e", "NAME=VALUE", "add to its environment; may be repeated", many=True),
        Option("--user -u", "UID[:GID]", "its user"),
        Option("--additional-gids -g", "GID", "one more group; may be repeated", many=True),
        Option("--apparmor", "PROFILE", "its AppArmor profile"),
        Option("--process-label", "LABEL", "its SELinux label"),
        Option(
            "--cgroup", "[CONTROLLER:]PATH", "run it in this group below the container's; may be repeated", many=True
        ),
        Option("--cap -c", "CAPABILITY", "one more capability; may be repeated", many=True),
        Option("--no-new-privs", "", "set no_new_privs"),
        Option("--ignore-paused", "", "exec in a paused container all the same"),
        Option("--preserve-fds", "N", "pass N more descriptors than the standard three", default="0"),
        *PLAN_OPTIONS,
    ),
    detail="The exit status is the process's own; 255 where joey could not run it.",
    examples=("joey exec web ps aux", "joey exec -t web bash", "joey exec --user 33:33 web id"),
    stop_at_word=True,
)
