"""A container for a user without any privilege, on a kernel that gives none: a tracer makes a directory look like the
root, and its user like root. No namespace, no mount, no chroot(2): what runs in there is that user's own process.

Every call that names a file is made with the host's name in its place; a program is loaded by the tracer, for the
kernel would look for its loader in the host's root. Owners, modes and device nodes are written down beside the files.

    tree.py      paths inside and outside
    owners.py    who owns what: in attributes of the files, and in a table for what can't have any
    person.py    who a thread believes to be
    pretence.py  the tracer's handler: which call goes where
    named.py     calls that name files
    owned.py     stat, chown, chmod, access, mknod, attributes
    identity.py  ids, groups, capabilities
    sockets.py   addresses that are files, and credentials in messages
    loading.py   exec

Not a boundary: it keeps a program from what it does not look for. docs/features/users.md says so, and what is lost.
"""
