"""`joey image`: what a user needs of images on a host."""

from __future__ import annotations

from ...runtime.options import Command

COMMAND = Command("image", "look at images, check, unpack and move them", None, verbs={})
