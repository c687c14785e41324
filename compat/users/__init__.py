"""Emulated user namespaces: host ids of an unprivileged range, which a tracer makes look like the container's.

Each process of the container really runs as the host ids that the bundle maps its own to, so the kernel itself keeps it
off the host's files and off other containers'. What it could do as root of a user namespace, the tracer does for it,
to files of the range only:

    mapping.py     ids inside and outside
    privileges.py  the capabilities a process believes to have, by the kernel's rules
    emulate.py     the tracer's handler: which call goes where
    identity.py    ids, groups, capabilities, exec
    paths.py       what a path of the container leads to, and what denies the way
    permissions.py root's way past permissions
    ownership.py   stat, chown, chmod, access, mknod
    messages.py    ids in messages and in /proc/PID/status

What a process really holds beside its ids: CAP_SETUID and CAP_SETGID, permitted but never effective outside a call that
the tracer makes, and what namespaces of its own contain (KILL, SYS_CHROOT, NET_*, IPC_OWNER).
"""
