"""The loop of a tracer: it stops threads at system calls and lets handlers decide what becomes of them (ptrace(2)).

Two ways to stop: at every call (any kernel), or by a seccomp filter at those in question (Linux 3.5, filter.py).

A tracer that dies takes its tracees along: by PTRACE_O_EXITKILL (Linux 3.8), else by a guard, a process of its own that
knows their pids.
"""

from __future__ import annotations

import os
from struct import pack

from .. import cdata, files, signals
from .. import constants as k
from ..errors import JoeyError
from ..process import close_all_but
from . import guard, ptrace, refusal
from .errands import EXECS, FAULTS, Errand, is_fault
from .stops import CALL_STOP, Inside, Stops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .errands import Work
    from .handler import Handler

_SIGSTOP, _SIGCONT, _SIGKILL = 19, 18, 9
_STOPPING = frozenset((19, 20, 21, 22))
_GETPID = 39
_GROUP_STOP_POLL = 0.02  # seconds
_ENOSYS = -38 & ptrace.NO_CALL
_OLDEST_LAST = 298  # calls up to here are in every kernel: they never answer ENOSYS


class Options:
    """How to trace: `seccomp`: the tracees install the filter; `seize` and `exitkill`: the kernel has PTRACE_SEIZE and
    PTRACE_O_EXITKILL. `handlers` in the order in which they are asked. `native`: not Python alone (stops.py)."""

    __slots__ = ("exitkill", "handlers", "native", "seccomp", "seize")

    def __init__(
        self, handlers: list[Handler], seccomp: bool, seize: bool, exitkill: bool, native: bool = True
    ) -> None:
        self.handlers = handlers
        self.seccomp = seccomp
        self.seize = seize
        self.exitkill = exitkill
        self.native = native


class Tracer:
    """Traces one process and all that come from it, until the last has ended.

    `registers` are those of the stopped thread that a handler was called for.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.by_filter = options.seccomp
        self.registers = (cdata.c_ulong * ptrace.REGISTERS)()
        self.inside = Inside()
        self.errands: dict[int, Errand] = {}  # calls that are being made in a thread's name
        self._handlers = options.handlers
        self._go = k.PTRACE_CONT if options.seccomp else k.PTRACE_SYSCALL
        self._stops = Stops(self._handlers, self._go, self.inside, options.native)
        self._known: set[int] = set()
        self.on_broken: Callable[[int, Exception], None] = _ignore  # before a process is killed that can't go on
        self._parking: dict[int, int] = {}  # threads in an exec, and the first of each one's process
        self._parked: dict[int, int] = {}  # such first ones, and the stop each is in
        self._unborn: set[int] = set()  # new ones whose first SIGSTOP is still to come
        self._parents: dict[int, int] = {}  # of new ones that have not stopped yet
        self._stopped: set[int] = set()  # in a group stop, on kernels that can't listen for its end
        self._infos: dict[int, tuple[int, bytes]] = {}  # what a signal that is sent next is to come with
        self._guard = 0
        self._guard_pipe = -1
        self._address = cdata.addressof(self.registers)
        for handler in self._handlers:
            handler.tracer = self

    # --- life ---------------------------------------------------------------------------------------------------

    def attach(self, pid: int) -> None:
        """Take a process over. It goes on at once. Raises KernelError."""
        flags = k.PTRACE_O_TRACESYSGOOD | k.PTRACE_O_TRACEFORK | k.PTRACE_O_TRACEVFORK | k.PTRACE_O_TRACECLONE
        flags |= k.PTRACE_O_TRACEEXEC
        if self.options.exitkill:
            flags |= k.PTRACE_O_EXITKILL
        if self.options.seccomp:
            flags |= k.PTRACE_O_TRACESECCOMP
        if self.options.seize:
            ptrace.must(k.PTRACE_SEIZE, pid, 0, flags)
            ptrace.must(ptrace.INTERRUPT, pid, 0, 0)
            os.waitpid(pid, ptrace.WALL)
        else:
            ptrace.must(k.PTRACE_ATTACH, pid, 0, 0)
            os.waitpid(pid, ptrace.WALL)
            ptrace.must(k.PTRACE_SETOPTIONS, pid, 0, flags)
        self._add(pid)
        ptrace.must(self._go, pid, 0, 0)

    def run(self) -> None:
        """Trace until no tracee is left."""
        signals.block_child_signal()
        try:
            self._run()
        except BaseException:
            for pid in self._known:  # none goes on untraced
                guard.kill(pid)
            raise
        if self._guard:
            os.kill(self._guard, _SIGKILL)  # nothing is left to guard; a pid may be somebody else's by now

    def _run(self) -> None:
        request, go, inside, stops = ptrace.request, self._go, self.inside, self._stops
        while self._known:
            every = bool(self._parking)
            try:
                pid, status = stops.next(not self._stopped, every)
            except ChildProcessError:
                return
            if every and self._is_parked(pid, status):
                continue
            if status == CALL_STOP:
                if pid not in inside:
                    inside[pid] = None
                    if (every and stops.is_quiet(pid)) or not self._entered(pid):
                        request(go, pid, 0, 0)
                elif after := inside.pop(pid):
                    after(pid)
                else:
                    request(go, pid, 0, 0)
            elif pid == 0:
                self._look_at_stopped()
                signals.wait_for_child(_GROUP_STOP_POLL)
            elif status & 0x7F == 0x7F:
                self._stop(pid, status)
            else:
                self._ended(pid)
                self.on_end(pid, status)

    def park_first(self, pid: int) -> None:
        """A thread is let go on to its exec. Where it is not the first of its process, that one stays where it stops
        next, until the thread is seen again: its pid is the thread's by then, and what was meant for it would let the
        new program go on before it is known of."""
        first = _first_of(pid)
        if first != pid:
            self._parking[pid] = first

    def _is_parked(self, pid: int, status: int) -> bool:
        """Whether a stop is to be looked at later. A thread whose exec has come back lets its process's first go on."""
        event = status >> 16
        first = self._parking.pop(pid, 0) if event != ptrace.EVENT_SECCOMP else 0  # on the way into its exec
        if first in self._parked:
            self._stops.again(first, self._parked.pop(first))
        stopped = status & 0x7F == 0x7F and event != ptrace.EVENT_EXEC
        if stopped and pid in self._parking.values():
            self._parked[pid] = status
            return True
        return False

    def _add(self, pid: int) -> None:
        if pid not in self._known:
            self._known.add(pid)
            self._tell_guard(pid)
            parent = self._parents.pop(pid, 0)
            if not parent and len(self._known) > 1:  # its parent's word is still to come
                parent = _maker(pid)
            for handler in self._handlers:
                handler.born(pid, parent)

    def forget(self, pid: int) -> None:
        """A thread is no more."""
        self._known.discard(pid)
        for table in (self.errands, self._infos, self._parents, self._parking, self._parked):
            table.pop(pid, None)
        self.inside.pop(pid)
        self._stops.drop(pid)
        self._unborn.discard(pid)
        self._stopped.discard(pid)
        for handler in self._handlers:
            handler.ended(pid)
        self._tell_guard(-pid)

    def _ended(self, pid: int) -> None:
        if pid == self._guard:
            self._guard = 0
            os.close(self._guard_pipe)
            self.start_guard()
            return
        self.forget(pid)

    def on_end(self, pid: int, status: int) -> None:
        """Called for each thread and process that has ended, with its wait status."""

    # --- the guard ----------------------------------------------------------------------------------------------

    def start_guard(self) -> None:
        """Have a process kill the tracees should this one die; where the kernel does, there is none."""
        if self.options.exitkill:
            return
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                close_all_but({read_end}, first=0)  # nobody is to wait for the end of a pipe that only a guard holds
                os.setsid()
                guard.watch(read_end, set(self._known))
            finally:
                os._exit(0)
        os.close(read_end)
        self._guard, self._guard_pipe = pid, write_end

    def _tell_guard(self, number: int) -> None:
        if self._guard:
            try:
                os.write(self._guard_pipe, pack("<i", number))
            except BrokenPipeError:
                pass  # it has ended: wait() tells, and the next one is given all

    # --- stops --------------------------------------------------------------------------------------------------

    def _stop(self, pid: int, status: int) -> None:
        kind = status >> 8 & 0xFF
        event = status >> 16
        signal = 0
        request = self._go
        if event:
            if event == ptrace.EVENT_SECCOMP:
                if pid in self.inside:  # a handler's, on the way to its end
                    request = k.PTRACE_SYSCALL
                elif self._entered(pid):
                    return
            elif event == ptrace.EVENT_EXEC:
                request = self._exec(pid)
            elif event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
                child = ptrace.event_message(pid)
                if child and child not in self._known:
                    self._parents[child] = pid
                    self._tell_guard(child)  # now: its parent goes on before it has stopped for the first time
                if self.inside.get(pid):  # somebody waits for the end of this call
                    request = k.PTRACE_SYSCALL
            elif event == ptrace.EVENT_STOP:
                self._add(pid)
                if kind in _STOPPING:
                    request = ptrace.LISTEN
                elif self.inside.get(pid):
                    request = k.PTRACE_SYSCALL
        elif pid not in self._known or (kind == _SIGSTOP and pid in self._unborn):
            # a new thread or process: the kernel's SIGSTOP comes, and perhaps another signal before it
            self._add(pid)
            if kind == _SIGSTOP:
                self._unborn.discard(pid)
            else:
                self._unborn.add(pid)
                signal = kind
        else:
            signal = kind
            held, sent = self.errands.get(pid), self._infos.get(pid)
            info = ptrace.signal_info(pid) if held or sent or kind in _STOPPING or kind in FAULTS else b""
            if held and info:  # not now: its handler would run amid the calls in the thread's name
                held.hold(kind, info)
                self.resume(pid, k.PTRACE_SYSCALL)
                return
            if kind in FAULTS and is_fault(info) and _would_survive(pid, kind):
                guard.kill(pid)
                return
            if sent and sent[0] == kind and info:
                ptrace.set_signal_info(pid, self._infos.pop(pid)[1])
            if kind in _STOPPING and not self.options.seize and not info:
                self._stopped.add(pid)  # a group stop: it ends with a SIGCONT
                return
        self.resume(pid, request, signal)

    def resume(self, pid: int, request: int = -1, signal: int = 0) -> None:
        """Let a thread go on. One that was killed meanwhile is told of by wait(2)."""
        ptrace.request(self._go if request < 0 else request, pid, 0, signal)

    def _look_at_stopped(self) -> None:
        """Let those in a group stop go on whose process got a SIGCONT: it stays pending until the first takes it."""
        found = {pid: _status(pid) for pid in self._stopped}
        going = {group for group, continues in found.values() if continues}
        for pid, (group, _) in found.items():
            if group in going:
                self._stopped.discard(pid)
                self.resume(pid)

    def _entered(self, pid: int) -> bool:
        """A system call's begin. True: a handler has taken it, and the thread is on its way already."""
        if ptrace.request(k.PTRACE_GETREGS, pid, 0, self._address) < 0:
            return False
        number = self.registers[ptrace.ORIG_RAX]
        if any(handler.entered(pid, number) for handler in self._handlers):
            return True
        if number in EXECS:
            self.park_first(pid)
        return False

    def _exec(self, pid: int) -> int:
        """A new program: other threads are gone; a 32-bit one is refused."""
        if ptrace.request(ptrace.PEEKUSER, pid, ptrace.CS * 8, 0) == ptrace.CS_32BIT:
            self.inside[pid] = lambda at: refusal.say_and_kill(self, at)
            return k.PTRACE_SYSCALL
        # what was the first thread's, whose place another has taken by its exec
        self._stops.drop(pid)
        self._parked.pop(pid, None)
        self._parking = {thread: first for thread, first in self._parking.items() if first != pid}
        former = ptrace.event_message(pid)  # the thread that made the call, where it was not the first
        gone = [former] if former != pid else []
        if not former:  # before Linux 3.0
            gone = [other for other in self._known if not os.path.exists(f"/proc/{other}")]
        maker = next((other for other in (*gone, pid) if other in self.errands), 0)
        errand, after = self.errands.pop(maker, None), self.inside.get(maker)
        for other in gone:
            self.forget(other)
        for handler in self._handlers:
            handler.executed(pid)
        if errand:
            errand.executed = True
            self.errands[pid], self.inside[pid] = errand, after
            return k.PTRACE_SYSCALL
        if not self.options.seccomp:
            self.inside[pid] = None
        else:
            self.inside.pop(pid)
        return self._go

    # --- what handlers use --------------------------------------------------------------------------------------

    def load(self, pid: int) -> None:
        """Have `registers` be those of a stopped thread."""
        ptrace.request(k.PTRACE_GETREGS, pid, 0, self._address)

    def put(self, pid: int) -> None:
        """Give a stopped thread the `registers`."""
        ptrace.request(k.PTRACE_SETREGS, pid, 0, self._address)

    def skip(self, pid: int, result: int, signal: int = 0, info: bytes = b"") -> None:
        """Have the call that begins answer `result` (an errno's is negative), and not be made; then send a signal."""
        # a harmless one takes its place: since Linux 4.8 a container's filter judges what is set here
        self.registers[ptrace.ORIG_RAX] = _GETPID
        self.put(pid)

        def skipped(at: int) -> None:
            self.load(at)
            self.registers[ptrace.RAX] = result & ptrace.NO_CALL
            self.put(at)
            if info:
                self.send_with(at, signal, info)
            self.resume(at, signal=signal)

        self.run_to_end(pid, skipped)

    def send_with(self, pid: int, signal: int, info: bytes) -> None:
        """Have the signal that a thread is resumed with come with this siginfo_t."""
        self._infos[pid] = (signal, info)

    def make_calls(self, pid: int, number: int, work: Callable[[Errand], Work]) -> None:
        """Have a generator (errands.py) go through the call that begins; `registers` are those of its begin."""
        errand = Errand(self, pid, number)
        errand.work = work(errand)
        self.errands[pid] = errand
        errand.advance(None)

    def run_to_end(self, pid: int, after: Callable[[int], None]) -> None:
        """Have the call that begins be made, and `after` be called at its end, with the thread stopped."""

        def ended(at: int) -> None:
            if self.by_filter and self._is_begin(at):  # before Linux 4.8 that comes after the filter's stop
                self.inside[at] = after
                self.resume(at, k.PTRACE_SYSCALL)
            else:
                after(at)

        self.inside[pid] = ended
        self.resume(pid, k.PTRACE_SYSCALL)

    def _is_begin(self, pid: int) -> bool:
        result = ptrace.request(ptrace.PEEKUSER, pid, ptrace.RAX * 8, 0) & ptrace.NO_CALL
        number = ptrace.request(ptrace.PEEKUSER, pid, ptrace.ORIG_RAX * 8, 0)
        return result == _ENOSYS and 0 <= number <= _OLDEST_LAST


def _ignore(pid: int, error: Exception) -> None:
    """Nobody wants to know."""


def _would_survive(pid: int, signal: int) -> bool:
    """Whether a thread of a pid namespace's first process has no handler for a fault of its own: since Linux 4.15 that
    does not end it while it is traced, and it would make the fault for ever ("signal: Don't clear SIGNAL_UNKILLABLE for
    traced tasks")."""
    try:
        lines = dict(line.partition(":")[::2] for line in files.read_text(f"/proc/{pid}/status").splitlines())
    except (OSError, JoeyError):
        return False
    first = lines.get("NStgid", "").split()[-1:] == ["1"]
    return first and not int(lines.get("SigCgt", "0"), 16) >> signal - 1 & 1


def _first_of(pid: int) -> int:
    """The first thread of a thread's process: itself where it has ended, or is alone."""
    try:
        if len(os.listdir(f"/proc/{pid}/task")) > 1:
            return _status(pid)[0] or pid
    except OSError:
        pass
    return pid


def _maker(pid: int) -> int:
    """The process a new thread belongs to, or the parent of a new process; 0 for one that has ended."""
    numbers = {}
    try:
        text = files.read_text(f"/proc/{pid}/status")
    except (OSError, JoeyError):
        return 0
    for line in text.splitlines():
        if line.startswith(("Tgid:", "PPid:")):
            numbers[line[:4]] = int(line.split()[1])
    group = numbers.get("Tgid", pid)
    return group if group != pid else numbers.get("PPid", 0)


def _status(pid: int) -> tuple[int, bool]:
    """The process a thread belongs to, and whether a SIGCONT is pending for it. One that has ended goes on."""
    group, pending = 0, False
    try:
        text = files.read_text(f"/proc/{pid}/status")
    except (OSError, JoeyError):
        return pid, True
    for line in text.splitlines():
        if line.startswith("Tgid:"):
            group = int(line.split()[1])
        elif line.startswith(("SigPnd:", "ShdPnd:")) and int(line.split()[1], 16) >> _SIGCONT - 1 & 1:
            pending = True
    return group, pending
