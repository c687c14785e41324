"""A container's own view of files that show the host: memory, CPUs, uptime, load, swap, disks.

contents.py  what such a file says, from the container's cgroups and processes
fuse.py      a small FUSE file system that serves such files, by the kernel's own protocol
lxcfs.py     a running lxcfs, or one that joey starts
"""

# name in a folder of views -> where a container reads it
TARGETS = {
    **{name: f"/proc/{name}" for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "stat", "swaps", "uptime")},
    "online": "/sys/devices/system/cpu/online",
}
