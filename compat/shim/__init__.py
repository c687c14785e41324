"""Programs made for newer kernels, on an older one: what it lacks is emulated inside the process that calls it.

emulations.py   what can be emulated, and which finding says that the kernel lacks it
code.py         the machine code that emulates (tools/gen_shim makes it from tools/shim/)
x86.py          where instructions begin and end
elffile.py      what joey reads of an ELF file
rewrite.py      copies of a C library whose call sites lead to that code
glibc.py        where a root file system has its C library
vdso.py         the kernel's version in the vDSO
divert.py       threads stopped by a tracer (compat/tracing/) at a call and sent through that code, for other programs
"""
