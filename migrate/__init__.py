"""Machines, disks and tarballs to OCI images and rich containers; fleets of hosts. Nothing is built yet."""
