"""`joey image`: what a user needs of images on a host."""

from __future__ import annotations

from ...runtime.options import Command

COMMAND = Command(
    "image",
    "look at images, check, unpack and move them",
    None,
    verbs={
        "ls": ("migrate.commands.image_ls", "list the images of a layout"),
        "inspect": ("migrate.commands.image_inspect", "show an image's config and layers"),
        "verify": ("migrate.commands.image_verify", "check an image's digests and that its layers can be unpacked"),
        "push": ("migrate.commands.image_push", "send an image to a registry"),
        "pull": ("migrate.commands.image_pull", "fetch an image from a registry"),
        "diff": ("migrate.commands.image_diff", "show what differs between two images"),
        "share": ("migrate.commands.image_share", "give blobs to other hosts (for joey fleet)"),
        "take": ("migrate.commands.image_take", "fetch blobs from a host that shares them (for joey fleet)"),
        "unpack": ("migrate.commands.image_unpack", "make a bundle of an image"),
    },
    detail="Images are named as TRANSPORT:PLACE[:NAME]; a folder without a transport is an OCI image layout.",
    examples=("joey image ls images", "joey image unpack oci:images:web1 /srv/web1", "joey run -b /srv/web1 web1"),
)
