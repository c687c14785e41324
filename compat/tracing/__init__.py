"""Watching processes by ptrace(2): a tracer stops threads at system calls, handlers decide what becomes of them.

ptrace.py     the requests, registers and memory of a stopped thread (x86-64)
handler.py    what a handler is: which calls it looks at, and what it may do
tracer.py     the loop: attach, stops, births and ends, group stops
refusal.py    what becomes of 32-bit programs
naming.py     which arguments of a call name files
filter.py     a seccomp filter that stops threads at the calls in question only
guard.py      what ends the tracees of a tracer that died, where the kernel does not

Handlers live where their subject is: compat/shim/divert.py, compat/seccomp/enforce.py, compat/limits/forks.py.
"""
