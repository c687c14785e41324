"""`joey checkpoint`: a container's processes saved to files, by CRIU."""

from __future__ import annotations

import json
import os
import subprocess

from ...compat.errors import StateError
from ...compat.files import write_atomically
from .. import criu
from .. import state as states
from ..options import Arguments, Command, Option
from .common import container_of

# switches of CRIU's dump alone
DUMP = {
    "leave-running": "let the container go on afterwards",
    "link-remap": "allow open files that were removed",
    "tcp-skip-in-flight": "skip TCP connections that are being made",
    "auto-dedup": "drop pages of earlier images that are saved again",
}


def run(arguments: Arguments) -> int:
    program = criu.find()
    state = container_of(arguments)
    held = states.lock(state.folder)
    try:
        _checkpoint(program, state, arguments)
    finally:
        states.unlock(held)
    return 0


def _checkpoint(program: str, state: states.State, arguments: Arguments) -> None:
    status = state.status()
    if status not in ("running", "paused"):
        raise StateError(f"cannot checkpoint a container that is {status}: {state.id}", slug="not-running")
    bundle = state.config()
    criu.refuse_what_it_can_not(bundle)
    pre_dump = arguments.switch("pre-dump")
    images, work = criu.folder_of(arguments, create=True)
    log = f"{work}/dump.log"
    words = [program, "pre-dump" if pre_dump else "dump", "--tree", str(state.pid), "--images-dir", images]
    words += ["--work-dir", work, "--log-file", "dump.log", "-v4", "--manage-cgroups=ignore", *criu.flags(arguments)]
    words += [f"--{name}" for name in DUMP if arguments.switch(name)]
    if pre_dump or arguments.given("parent-path"):
        words.append("--track-mem")
    if arguments.given("parent-path"):
        words += ["--prev-images-dir", arguments.text("parent-path")]
    places = criu.externals(bundle, state.cgroup, state.bundle)
    for place, (name, _) in criu.masks_only_files(places, f"/proc/{state.pid}/root").items():
        words += ["--external", f"mnt[{place}]:{name}"]
    if bundle.namespaces.get("network"):
        words += ["--external", f"net[{os.stat(f'/proc/{state.pid}/ns/net').st_ino}]:{criu.NETWORK}"]
    freezer = next((g for g in state.cgroup.groups if g.version == 1 and "freezer" in g.controllers), None)
    if freezer:
        words += ["--freeze-cgroup", freezer.path]
    streams = criu.streams_of(state.pid)
    for link in dict.fromkeys(streams):
        words += ["--external", link] if link.startswith("file[") else []
    write_atomically(f"{images}/{criu.DESCRIPTORS}", json.dumps(streams))
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise criu.failed(f"checkpoint {state.id}", log)


COMMAND = Command(
    "checkpoint",
    "save a running container to files, with CRIU",
    run,
    words="ID",
    least=1,
    most=1,
    options=(
        *criu.IMAGE_OPTIONS,
        *(Option(f"--{name}", "", text) for name, text in DUMP.items()),
        *criu.SHARED_OPTIONS,
        Option("--pre-dump", "", "save the memory only, while the container runs, for a shorter stop later"),
        Option("--parent-path", "DIR", "earlier images that these add to, relative to the image folder"),
    ),
    detail="The container ends, unless --leave-running; `joey restore` goes on where it was. Needs CRIU and root.",
    examples=("joey checkpoint --image-path /var/tmp/web web", "joey checkpoint --leave-running web"),
)
