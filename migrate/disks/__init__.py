"""Disks: from image files to the file systems in them, joined as the guest's fstab says.

formats.py, convert.py, stream.py, ova.py: a file of any format -> a raw disk · partitions.py, lvm.py, mdraid.py: a disk
-> volumes, by volumes.py · filesystems.py: what is on a volume · guest.py: volumes -> the guest's mounts · mounting.py:
mounts -> a tree.
"""
