"""Limiting how much a directory may hold, several ways.

words.py     what a user writes ("10G", "/data=10G", "/&/data=10g", patterns), and which directories it means
places.py    the file system a directory is on, and its device
projects.py  project quota of XFS and ext4
qgroups.py   quota groups of btrfs subvolumes
images.py    a file system in a sparse file, by a loop device; grown while it is mounted
"""
