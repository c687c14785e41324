"""One root file system of several directories, the layers: lowest first, as overlay has them.

A layer's directory is as overlay's `upperdir`, docker's overlay2 and containers/storage keep them: a name that is
taken away is a character device 0:0, a directory that hides those below has the attribute trusted.overlay.opaque.

mounted.py  all layers in one mount: the kernel's overlay, or fuse-overlayfs
tree.py     all layers in one directory: cloned, hard-linked or copied, and what that costs
clone.py    files and subvolumes that share their blocks: FICLONE, btrfs snapshots
"""
