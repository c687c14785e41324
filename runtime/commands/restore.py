"""`joey restore`: a container goes on where `joey checkpoint` saved it."""

from __future__ import annotations

from ...compat import files
from .. import bundle as bundles
from .. import container, criu, prepare
from ..foreground import Foreground
from ..options import Arguments, Command, Option
from ..state import check_id
from .common import root_of
from .planning import BUNDLE_OPTION, PLAN_OPTIONS, plan_container_here, say_losses


def run(arguments: Arguments) -> int:
    program = criu.find()
    name = arguments.words[0]
    check_id(name)
    bundle = bundles.load(arguments.text("bundle"))
    bundles.check_rootfs(bundle)
    criu.refuse_what_it_can_not(bundle)
    images, work = criu.folder_of(arguments, create=False)
    plan = plan_container_here(bundle, arguments, make_root=True)
    say_losses(plan)
    detach = arguments.switch("detach")
    foreground = None if detach else Foreground(subreaper=not arguments.switch("no-subreaper"))
    text = files.read_text(f"{bundle.path}/config.json", bundles.CONFIG_LIMIT)
    call = [program, "restore", "--images-dir", images, "--work-dir", work, "--log-file", "restore.log", "-v4",
            "--manage-cgroups=ignore", "--restore-detached", "--restore-sibling", *criu.flags(arguments)]  # fmt: skip
    made = prepare.restore(root_of(arguments), name, bundle, plan, text, call, images, f"{work}/restore.log")
    try:
        if arguments.given("pid-file"):
            files.write_atomically(arguments.text("pid-file"), str(made.pid), 0o644)
        if foreground:
            foreground.forward()
        container.poststart(made)
    except BaseException:
        container.take_down(made)
        raise
    if foreground is None:
        return 0
    try:
        return foreground.wait(made.pid, -1)
    finally:
        container.take_down(made)


COMMAND = Command(
    "restore",
    "make a container from a checkpoint and let it go on",
    run,
    words="ID",
    least=1,
    most=1,
    options=(
        BUNDLE_OPTION,
        *criu.IMAGE_OPTIONS,
        *criu.SHARED_OPTIONS,
        Option("--detach -d", "", "return once the container runs"),
        Option("--pid-file", "FILE", "write the process's pid to FILE"),
        Option("--no-subreaper", "", "leave orphans of a container without a pid namespace to the host's init"),
        *PLAN_OPTIONS,
    ),
    detail=(
        "The bundle must be that of the checkpoint, with the same root file system. Limits and device rules are those\n"
        "of its config.json; poststart hooks run, those of the creation do not. Needs CRIU and root."
    ),
    examples=("joey restore --bundle B --image-path /var/tmp/web --detach web",),
)
