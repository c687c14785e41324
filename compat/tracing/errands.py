"""Calls that a tracer makes in a thread's name, around the one that the thread has begun.

What is to be done is a generator. It yields OWN to have the thread's call made by the registers in `frame`, or
(number, *arguments) for another call, and is sent each call's result (an errno's is negative). When it ends, the thread
goes on with `result`: that of its own call unless the generator has set another. A generator that yields nothing and
sets no result leaves the call to the kernel.

Signals that come meanwhile wait for the end. A generator that fails ends its process.
"""

from __future__ import annotations

import errno
import os
from struct import unpack_from

from .. import constants as k
from . import guard, ptrace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .tracer import Tracer

    Wanted = tuple[int, ...]
    Work = Generator[Wanted, int, None]

OWN: tuple[int, ...] = ()
EXECS = (59, 322)  # execve, execveat
_RED_ZONE = 128
FAULTS = frozenset((4, 5, 7, 8, 11))  # SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV: of the kernel, with si_code > 0
_RESTARTS = frozenset((-512, -513, -514, -516))  # ERESTARTSYS and its kin: the kernel makes the call again


class Errand:
    """One call of one thread. `frame` are its registers: as they were at the begin, and after it as it left them."""

    __slots__ = ("_begun_as", "_ends", "_former", "_former_code", "_site", "_tracer", "executed", "frame", "held",
                 "number", "pid", "result", "work")  # fmt: skip

    def __init__(self, tracer: Tracer, pid: int, number: int) -> None:
        self.pid = pid
        self.number = number
        self.frame = list(tracer.registers)
        self.result: int | None = None
        self.executed = False  # its own call was an exec that succeeded
        self.held: list[tuple[int, bytes]] = []  # signals, with what came with each
        self.work: Work
        self._begun_as = tuple(self.frame)
        self._ends = 0  # calls that have been made by now
        self._former = False  # the last of them was the thread's own
        self._former_code = b""  # what a system call instruction was written over
        self._site = self.frame[ptrace.RIP] - 2
        self._tracer = tracer

    def argument(self, index: int) -> int:
        return int(self.frame[ptrace.ARGUMENTS[index]])

    def set_argument(self, index: int, value: int) -> None:
        self.frame[ptrace.ARGUMENTS[index]] = value & ptrace.NO_CALL

    def advance(self, result: int | None) -> None:
        """Go on with the generator, and do what it wants next."""
        try:
            wanted = next(self.work) if result is None else self.work.send(result)
        except StopIteration:
            self._finish()
            return
        except OSError as error:
            if self._ends:  # amid its calls
                self._tracer.on_broken(self.pid, error)
                self.end()
            else:
                self.result = -(error.errno or errno.EFAULT)  # its arguments lead nowhere
                self._finish()
            return
        except Exception as error:  # whatever its memory or its files held: this process does not go on
            self._tracer.on_broken(self.pid, error)
            self.end()
            return
        registers = self._tracer.registers
        for place, word in enumerate(self.frame):
            registers[place] = word
        number = wanted[0] if wanted else self.number
        for place, value in zip(ptrace.ARGUMENTS, wanted[1:], strict=False):
            registers[place] = value & ptrace.NO_CALL
        own = not wanted
        if not self._ends:
            registers[ptrace.ORIG_RAX] = number
            self._tracer.put(self.pid)
            if own and number in EXECS:
                self._tracer.park_first(self.pid)
            self._tracer.run_to_end(self.pid, lambda at: self._ended(at, own))
            return
        registers[ptrace.RIP] = self._site
        registers[ptrace.RAX] = number
        registers[ptrace.ORIG_RAX] = ptrace.NO_CALL
        self._tracer.put(self.pid)
        asked = (number, self._site + 2, *(registers[place] for place in ptrace.ARGUMENTS))
        self._tracer.inside[self.pid] = lambda at: self._begun(at, asked, own)
        self._tracer.resume(self.pid, k.PTRACE_SYSCALL)

    def _begun(self, pid: int, asked: tuple[int, ...], own: bool) -> None:
        """The begin of a call: it must be that one, for its instruction may have been changed."""
        registers = self._tracer.registers
        self._tracer.load(pid)
        places = (ptrace.ORIG_RAX, ptrace.RIP, *ptrace.ARGUMENTS)
        if asked != tuple(registers[place] for place in places):
            self.end()
            return
        if own and self.number in EXECS:
            self._tracer.park_first(pid)
        self._tracer.inside[pid] = lambda at: self._ended(at, own)
        self._tracer.resume(pid, k.PTRACE_SYSCALL)

    def _ended(self, pid: int, own: bool) -> None:
        self.pid = pid  # an exec may have changed it
        self._tracer.load(pid)
        result = _signed(self._tracer.registers[ptrace.RAX])
        self._ends += 1
        self._former = own
        if own:
            self.result = result
            self.frame = list(self._tracer.registers)
            if not self.executed:
                for place in ptrace.ARGUMENTS:
                    self.frame[place] = self._begun_as[place]
            if self.executed and not self._former_code:
                self._site = self.frame[ptrace.RIP]
                self._former_code = ptrace.peek(pid, self._site).to_bytes(8, "little")
                ptrace.write(pid, self._site, b"\x0f\x05")
        self.advance(result)

    def _finish(self) -> None:
        """The thread goes on by its frame, with what came for it meanwhile."""
        tracer, pid = self._tracer, self.pid
        tracer.errands.pop(pid, None)
        if self._former_code:
            ptrace.write(pid, self._site, self._former_code)
        for place, word in enumerate(self.frame):
            tracer.registers[place] = word
        if not self._ends:
            if self.result is None:
                tracer.put(pid)
                tracer.resume(pid)
            else:
                tracer.skip(pid, self.result)
            return
        if self.result in _RESTARTS and not self._former:
            for place, word in enumerate(self._begun_as):
                tracer.registers[place] = word
            if self.held:  # the kernel makes the call again or not, as the signal's handler has it
                tracer.registers[ptrace.RAX] = self.result & ptrace.NO_CALL
                tracer.registers[ptrace.ORIG_RAX] = self.number
            else:
                tracer.registers[ptrace.RIP] = self._site
                tracer.registers[ptrace.RAX] = self.number
                tracer.registers[ptrace.ORIG_RAX] = ptrace.NO_CALL
        else:
            tracer.registers[ptrace.RAX] = (self.result or 0) & ptrace.NO_CALL
            if not self._former:
                tracer.registers[ptrace.ORIG_RAX] = ptrace.NO_CALL
        tracer.put(pid)
        for signal, _ in self.held[1:]:
            guard.send(pid, signal)
        signal = 0
        if self.held:
            signal = self.held[0][0]
            tracer.send_with(pid, *self.held[0])
        tracer.resume(pid, signal=signal)

    def hold(self, signal: int, info: bytes) -> None:
        """A signal came: it waits. One that its instruction caused would come again and again."""
        if signal in FAULTS and is_fault(info):
            self.end()
        else:
            self.held.append((signal, info))

    def end(self) -> None:
        """Kill the process: what was begun for it can't be finished."""
        self.work.close()
        self._tracer.errands.pop(self.pid, None)
        guard.kill(self.pid)

    # --- memory -------------------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        """Memory of the thread. Raises OSError where not all of it is mapped."""
        data = ptrace.read(self.pid, address, size)
        if len(data) < size:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return data

    def with_data(self, data: bytes, call: Callable[[int], Wanted]) -> Generator[Wanted, int, tuple[int, bytes]]:
        """Make the call that `call` gives for where `data` is in the thread's memory; its result, and what is there
        after it. What was there is put back."""
        for address in ((self.frame[ptrace.RSP] - _RED_ZONE - len(data)) & ~15, self.frame[ptrace.RSP] & ~7):
            former = ptrace.read(self.pid, address, len(data))
            if len(former) == len(data) and ptrace.write(self.pid, address, data):
                result = yield call(address)
                after = ptrace.read(self.pid, address, len(data))
                ptrace.write(self.pid, address, former)
                return result, after
        return -errno.EFAULT, b""


def is_fault(info: bytes) -> bool:
    """Whether a siginfo_t of such a signal is the kernel's: of what the thread's instruction did."""
    return len(info) >= 12 and bool(unpack_from("<i", info, 8)[0] > 0)


def _signed(word: int) -> int:
    word &= ptrace.NO_CALL
    return word - (1 << 64) if word >> 63 else word
