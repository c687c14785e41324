"""Images that rich containers are made of: unpacked once, in the store."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from ...compat.errors import JoeyError
from ..image import bundle
from ..image.layout import Layout
from ..image.read import Image, open_image
from ..image.reference import parse
from ..progress import Progress
from . import shifted
from .model import Health, Rich

if TYPE_CHECKING:
    from .store import Store


def files_of(store: Store, reference: str) -> tuple[str, Image]:
    """Where the files of an image are, unpacked if they are not there yet; and the image."""
    found = parse(reference, ("oci",), "oci")
    image = open_image(Layout(found.place), found.name)
    folder = store.image(image.descriptor["digest"])
    if not os.path.exists(f"{folder}/config.json"):
        os.makedirs(os.path.dirname(folder), 0o700, exist_ok=True)
        with Progress() as progress:
            bundle.unpack(image, folder, bundle.Limits(), progress)
    return f"{folder}/rootfs", image


def settle(rich: Rich, image: Image) -> None:
    """What an image's own settings say, where it has no init: its program, user, folder and environment."""
    settings = image.settings
    for word in settings.get("Env") or []:
        name, _, value = str(word).partition("=")
        rich.env.setdefault(name, value)
    check = settings.get("Healthcheck")
    words = [str(word) for word in check.get("Test") or []] if isinstance(check, dict) else []
    if rich.health is None and len(words) > 1 and words[0] in ("CMD", "CMD-SHELL"):
        rich.health = Health(["sh", "-c", words[1]] if words[0] == "CMD-SHELL" else words[1:])
    rich.cwd = str(settings.get("WorkingDir") or "/")
    if rich.init in ("none", "tini"):
        rich.argv = [str(word) for key in ("Entrypoint", "Cmd") for word in settings.get(key) or []]
        from ..trees.folder import FolderTree

        rich.user = bundle.user_of(str(settings.get("User") or ""), FolderTree(rich.lower))


def drop_unused(store: Store) -> None:
    """Remove images that no container is made of any more. Not while one is being made of an image."""
    with store.alone("images", wait=False) as alone:
        if alone:
            _drop_unused(store)


def _drop_unused(store: Store) -> None:
    folder = f"{store.path}/.images"
    used, shifts = set(), set()
    for container in store.all():
        try:
            rich = container.rich()
            used.add(rich.lower)
            shifts.add(shifted.lower_of(container, rich))
        except JoeyError:
            return  # nobody knows what a damaged one is made of
        before = f"{container.folder}/before/rich.json"
        if os.path.exists(before):
            from .model import load

            old = load(before)
            used.add(old.lower)
            shifts.add(shifted.lower_of(container, old))
    copies = f"{store.path}/.shifted"
    for name in os.listdir(copies) if os.path.isdir(copies) else []:
        if f"{copies}/{name}/rootfs" not in shifts:
            shutil.rmtree(f"{copies}/{name}", ignore_errors=True)
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if f"{folder}/{name}/rootfs" not in used:
            shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
