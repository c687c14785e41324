"""Limits without a cgroup controller: weaker, or dearer, than the kernel's.

forks.py    a tracer's handler that refuses new threads and processes beyond a limit
watch.py    the memory and the number of a container's processes added up, and what is done when they are too many
throttle.py  when processes are to be stopped, so that they use no more than their part of the CPUs
shares.py   CPU and disk shares as a nice value and an I/O priority
"""
