"""Rich containers: a whole machine's life in a container, by its own init.

    model.py       what a rich container is: the options of `joey rich create`, kept as rich.json
    store.py       where containers are: a folder each, its lock, what it is to be and what became of it
    guest.py       reading in a root file system that may be hostile
    inits.py       which init a machine has, how it is started, stopped and known to be up
    fixes.py       what is changed of a machine for its new life, each with its reason: a layer of its own
    config.py      the bundle of a container
    supervisor.py  the process that starts it, keeps its log, starts it again
    control.py     start, stop, waiting until it is up, from outside
    disk.py        a disk quota where the file system has none: a file system in a file
    shifted.py     an image's files with the ids that a container's have on the host
    seccomp.py     the profile of them all
    ports.py       ports that are published on the host
    changing.py    updates, and upgrades with a way back
    parity.py      a container beside the machine it came from
    images.py      the images they are made of, unpacked
    logs.py        its log: times, rotation, reading
    health.py      health checks

The container itself is one of joey's runtime (`joey --root ... list` shows it); what happens to it goes through that
command line, so a rich container is nothing that the runtime could not run alone.
"""
