"""`joey rich upgrade`: another image, with a way back."""

from __future__ import annotations

import os

from ....compat.errors import UsageError
from ....runtime.options import Arguments, Command, Option
from .. import changing, images
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    policy = arguments.text("changes")
    if policy not in ("keep", "discard"):
        raise UsageError(f'--changes: unknown "{policy}"', "keep, discard")
    reference, rootfs = arguments.text("image"), arguments.text("rootfs")
    if bool(reference) == bool(rootfs):
        raise UsageError("which image?", "--image oci:DIR:NAME, or --rootfs DIR")
    with container.store.alone("images", shared=True):
        lower = os.path.realpath(rootfs) if rootfs else images.files_of(container.store, reference)[0]
        changing.upgrade(container, lower, reference, policy == "keep")
    print(f"{container.name} is upgraded: `joey rich confirm` keeps it, `joey rich rollback` goes back")
    return 0


COMMAND = Command(
    "rich upgrade",
    "give a rich container another image, with a way back",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(
        STORE,
        Option("--image", "IMAGE", "the new image, as oci:DIR:NAME"),
        Option("--rootfs", "DIR", "or a directory with its files"),
        Option("--changes", "POLICY", "what it has written itself: keep, or discard", "keep"),
    ),
    detail=(
        "Name, network, volumes, limits, ssh host keys and machine-id stay. Where the new one does not come up, or is\n"
        "not well by its health check, the old one is put back and started: exit status 1. What was before stays\n"
        "until `joey rich confirm`."
    ),
    examples=("joey rich upgrade --image oci:images:shop-2 shop",),
)
