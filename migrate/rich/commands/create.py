"""`joey rich create`: a rich container of an image or a directory."""

from __future__ import annotations

import os
import re
import sys
import time

from ....compat.errors import JoeyError, UsageError
from ....runtime.options import Arguments, Command
from .. import config, inits
from ..guest import Guest
from ..logs import rfc3339
from ..model import Rich
from ..store import Container, Store
from .shared import MAKING, set_making, store_of


def make(arguments: Arguments) -> Container:
    """Make what a command line asks for; nothing stays where that fails."""
    store = store_of(arguments)
    with store.alone("images", shared=True):
        return _make(arguments, store)


def _make(arguments: Arguments, store: Store) -> Container:
    rootfs = arguments.text("rootfs")
    words = list(arguments.words)
    reference = "" if rootfs else words.pop(0) if words else ""
    if not rootfs and not reference:
        raise UsageError("which image?", "joey rich create IMAGE, or --rootfs DIR")
    name = arguments.text("name") or _name_of(reference or os.path.basename(os.path.abspath(rootfs)))
    container = store.new(name)
    try:
        rich = Rich(name, os.path.realpath(rootfs) if rootfs else "", reference, created=rfc3339(time.time()))
        set_making(arguments, rich)
        if rootfs:
            if not os.path.isdir(rootfs):
                raise JoeyError(f"{rootfs} is not a directory")
            if ";" in rich.lower or ":" in rich.lower:
                raise JoeyError(f"--rootfs: {rich.lower} has ; or : in its path, which layers can't have")
        else:
            from .. import images

            rich.lower, image = images.files_of(store, reference)
        guest = Guest(rich.lower)
        init = inits.of(rich.init, guest)
        rich.init = init.kind
        if not rootfs:
            images.settle(rich, image)
        rich.argv = words or rich.argv
        if init.kind == "none" and not rich.argv:
            raise UsageError(
                "the image has no init, and names no program", "joey rich create IMAGE PROGRAM [ARGUMENT...]"
            )
        config.check_kernel(rich, init, guest)
        config.write_fixes(container, rich, init)
        config.config_of(container, rich, init)  # what can't be is told now
        container.save(rich)
    except BaseException:
        container.remove()
        raise
    if rich.privileged:
        print(f"joey: warning: {name} is privileged: its root is as good as the host's", file=sys.stderr)
    return container


def _name_of(reference: str) -> str:
    word = re.split(r"[:/]", reference.rstrip("/"))[-1]
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", word)[:63].strip("-.") or "rich"


def run(arguments: Arguments) -> int:
    print(make(arguments).name)
    return 0


COMMAND = Command(
    "rich create",
    "make a rich container of an image or a root file system; `joey rich start` starts it",
    run,
    words="[IMAGE] [PROGRAM [ARGUMENT...]]",
    most=-1,
    options=MAKING,
    stop_at_word=True,
    detail=(
        "IMAGE is oci:DIR:NAME, as joey migrate makes it. PROGRAM is for images without an init, or arguments of it.\n"
        "What of the machine's files is changed for its new life is a layer of its own: joey rich inspect lists it."
    ),
    examples=(
        "joey rich create --name shop --memory 2G oci:images:shop",
        "joey rich create --rootfs /srv/debian --name web --network bridge,address=10.71.0.9",
    ),
)
