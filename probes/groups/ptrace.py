"""What a tracer can do: the ground of joey's emulations."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from struct import pack

from ...compat import constants as k
from ...compat import libc
from ...compat.errors import KernelError
from ...compat.seccomp import load
from ..catalog import Answer, Answered, Group
from ..trying import NUMBERS, call, check

GROUP = Group("ptrace", "tracing")

_OPTIONS = {
    "sysgood": (k.PTRACE_O_TRACESYSGOOD, "system call stops look like SIGTRAP"),
    "fork": (k.PTRACE_O_TRACEFORK, "children escape the tracer"),
    "vfork": (k.PTRACE_O_TRACEVFORK, "children escape the tracer"),
    "clone": (k.PTRACE_O_TRACECLONE, "threads escape the tracer"),
    "exec": (k.PTRACE_O_TRACEEXEC, "exec looks like SIGTRAP"),
    "exit": (k.PTRACE_O_TRACEEXIT, "ends are seen late"),
    "exitkill": (k.PTRACE_O_EXITKILL, "a dead tracer leaves its tracees running"),
    "seccomp": (k.PTRACE_O_TRACESECCOMP, "every system call stops, not just the wanted ones"),
    "suspend-seccomp": (k.PTRACE_O_SUSPEND_SECCOMP, "no CRIU of filtered processes"),
}


def _tracee(body: Callable[[], None] | None = None) -> int:
    """A child that asked to be traced and stopped itself; it runs `body` when continued."""
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(k.PR_SET_PDEATHSIG, k.SIGKILL)
            check("ptrace", k.PTRACE_TRACEME, 0, 0, 0)
            os.kill(os.getpid(), 19)
            if body:
                body()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise Answered("blocked", "PTRACE_TRACEME was refused")
    return pid


def _finish(pid: int) -> None:
    os.kill(pid, k.SIGKILL)
    os.waitpid(pid, 0)


def _traced(action: Callable[[int], Answer]) -> Callable[[], Answer]:
    def attempt() -> Answer:
        pid = _tracee()
        try:
            return action(pid)
        finally:
            _finish(pid)

    return attempt


@GROUP.probe("ptrace.traceme", "PTRACE_TRACEME and PTRACE_CONT", "no emulation at all")
def traceme() -> Answer:
    pid = _tracee()
    check("ptrace", k.PTRACE_CONT, pid, 0, 0)
    return f"exit status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


@GROUP.probe(
    "ptrace.syscall", "PTRACE_SYSCALL: the call's number read and its result rewritten", "no emulated system calls"
)
def syscall_stop() -> Answer:
    if libc.MACHINE != "x86_64":
        raise Answered("absent", f"not tried on {libc.MACHINE}")
    read_end, write_end = os.pipe()

    def body() -> None:
        os.write(write_end, str(call("getppid")).encode())

    pid = _tracee(body)
    check("ptrace", k.PTRACE_SETOPTIONS, pid, 0, k.PTRACE_O_TRACESYSGOOD)
    registers = (ctypes.c_ulong * 27)()  # struct user_regs_struct: rax is word 10, orig_rax word 15
    address = ctypes.addressof(registers)
    entered = False
    while True:
        check("ptrace", k.PTRACE_SYSCALL, pid, 0, 0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            break
        check("ptrace", k.PTRACE_GETREGS, pid, 0, address)
        if registers[15] == NUMBERS["getppid"]:
            if entered:
                registers[10] = 4242
                check("ptrace", k.PTRACE_SETREGS, pid, 0, address)
            entered = not entered
    answer = os.read(read_end, 64)
    if answer != b"4242":
        raise Answered("broken", f"the rewritten result came out as {answer.decode()}")
    return "result rewritten"


def _option(value: int) -> Callable[[int], Answer]:
    def action(pid: int) -> Answer:
        check("ptrace", k.PTRACE_SETOPTIONS, pid, 0, value)
        return None

    return action


for _name, (_value, _cost) in _OPTIONS.items():
    GROUP.probe(f"ptrace.{_name}", f"PTRACE_SETOPTIONS({_name})", _cost)(_traced(_option(_value)))


def _eio_is_absent(action: Callable[[int], Answer]) -> Callable[[int], Answer]:
    def inner(pid: int) -> Answer:
        try:
            return action(pid)
        except KernelError as error:
            if error.errno == 5:
                raise Answered("absent", "EIO") from None
            raise

    return inner


def _regset(request: int, kind: int) -> Callable[[int], Answer]:
    def action(pid: int) -> Answer:
        buffer = ctypes.create_string_buffer(4096)
        vector = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 4096)
        check("ptrace", k.PTRACE_GETREGSET, pid, kind, ctypes.addressof(vector))
        if request == k.PTRACE_SETREGSET:
            check("ptrace", request, pid, kind, ctypes.addressof(vector))
        return f"{vector[1]} bytes"

    return action


for _name, _request, _kind, _call in (
    ("getregset", k.PTRACE_GETREGSET, k.NT_PRSTATUS, "PTRACE_GETREGSET(NT_PRSTATUS)"),
    ("setregset", k.PTRACE_SETREGSET, k.NT_PRSTATUS, "PTRACE_SETREGSET(NT_PRSTATUS)"),
    ("xstate", k.PTRACE_GETREGSET, k.NT_X86_XSTATE, "PTRACE_GETREGSET(NT_X86_XSTATE)"),
):
    GROUP.probe(f"ptrace.{_name}", _call, "registers by PTRACE_GETREGS")(
        _traced(_eio_is_absent(_regset(_request, _kind)))
    )


@GROUP.probe("ptrace.seize", "PTRACE_SEIZE (Linux 3.4)", "group stops look like signals")
def seize() -> Answer:
    pid = os.fork()
    if pid == 0:
        os.read(os.pipe()[0], 1)
        os._exit(0)
    try:
        check("ptrace", k.PTRACE_SEIZE, pid, 0, 0)
    except KernelError as error:
        # 2.6.32 knows no such request and answers ESRCH or EIO for a process it does not trace
        raise Answered("blocked" if error.errno == 1 else "absent", str(error).split(": ")[1]) from None
    finally:
        _finish(pid)
    return None


def _peek_siginfo(pid: int) -> Answer:
    buffer = ctypes.create_string_buffer(128)
    arguments = (ctypes.c_ulong * 2)(0, 1 << 32)
    check("ptrace", k.PTRACE_PEEKSIGINFO, pid, ctypes.addressof(arguments), ctypes.addressof(buffer))
    return None


def _syscall_info(pid: int) -> Answer:
    buffer = ctypes.create_string_buffer(88)
    return check("ptrace", k.PTRACE_GET_SYSCALL_INFO, pid, 88, ctypes.addressof(buffer))


GROUP.probe("ptrace.peeksiginfo", "PTRACE_PEEKSIGINFO (Linux 3.10)", "no CRIU")(_traced(_eio_is_absent(_peek_siginfo)))
GROUP.probe(
    "ptrace.syscall-info", "PTRACE_GET_SYSCALL_INFO (Linux 5.3)", "entries and exits are told apart by counting"
)(_traced(_eio_is_absent(_syscall_info)))


def _poke(pid: int) -> Answer:
    word = ctypes.c_ulong(7)
    check("ptrace", k.PTRACE_POKEDATA, pid, ctypes.addressof(word), 99)
    if check("ptrace", k.PTRACE_PEEKDATA, pid, ctypes.addressof(word), ctypes.addressof(word)) < 0 or word.value != 99:
        raise Answered("broken", "the word did not change")
    return None


def _vm_read(pid: int) -> Answer:
    text = ctypes.create_string_buffer(b"joey", 4)
    target = ctypes.create_string_buffer(4)
    local = (ctypes.c_ulong * 2)(ctypes.addressof(target), 4)
    remote = (ctypes.c_ulong * 2)(ctypes.addressof(text), 4)
    return check("process_vm_readv", pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0)


def _mem_write(pid: int) -> Answer:
    text = ctypes.create_string_buffer(b"joey", 4)
    fd = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    try:
        return os.pwrite(fd, b"JOEY", ctypes.addressof(text))
    finally:
        os.close(fd)


GROUP.probe("ptrace.poke", "PTRACE_POKEDATA and PEEKDATA", "no emulated system calls with buffers")(_traced(_poke))
GROUP.probe("ptrace.vm-read", "process_vm_readv of a tracee (Linux 3.2)", "memory is read word by word")(
    _traced(_vm_read)
)
GROUP.probe("ptrace.mem-write", "write to /proc/PID/mem of a tracee", "memory is written word by word")(
    _traced(_mem_write)
)


@GROUP.probe("ptrace.seccomp-stop", "a stop by SECCOMP_RET_TRACE", "every system call stops, not just the wanted ones")
def seccomp_stop() -> Answer:
    def body() -> None:
        libc.prctl(k.PR_SET_NO_NEW_PRIVS, 1)
        code = pack("<HBBI", 0x20, 0, 0, 0) + pack("<HBBI", 0x15, 0, 1, NUMBERS.get("getppid", 110))
        code += pack("<HBBI", 6, 0, 0, k.SECCOMP_RET_TRACE) + pack("<HBBI", 6, 0, 0, k.SECCOMP_RET_ALLOW)
        load.install(code)
        os.getppid()

    pid = _tracee(body)
    try:
        check("ptrace", k.PTRACE_SETOPTIONS, pid, 0, k.PTRACE_O_TRACESECCOMP)
        check("ptrace", k.PTRACE_CONT, pid, 0, 0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            pid = 0
            raise Answered("broken", "the tracee was not stopped")
        return f"event {status >> 16}"
    finally:
        if pid:
            _finish(pid)
