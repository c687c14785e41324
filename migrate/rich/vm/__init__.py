"""`--isolation vm`: a rich container whose machine has a kernel of its own, in QEMU.

What runs on the host is an ordinary container (namespaces, cgroups, seccomp, hooks, networks, all by joey's runtime)
whose program is QEMU. Its root is a frame of its own with the host's programs read-only; the machine's files, of the
same layers as ever, lie in it at /machine, and are the virtual machine's root by 9p. So limits, networks, volumes,
quotas and upgrades are what they are for others, and who breaks out of the machine is in a container.

kernel.py   which kernel it boots, and that kernel's modules
boot.py     the initial file system that leads from the kernel to the machine's own init
machine.py  the container around it: its bundle, and QEMU's command line
accel.py    whether KVM works here, by trying
wiring.py   its links handed on to the machine
link.py     asking the agent in it to run commands; the agent is tools/guest/agent.c
"""
