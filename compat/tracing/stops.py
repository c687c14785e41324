"""What a tracer's threads have stopped for, as wait(2) tells: begins and ends of calls that nobody looks at go on here.

They are nearly all of a tracer's stops. A piece of machine code (tools/tracer/stops.c) waits and lets them go on, in a
third of the time; where it can't be mapped (SELinux without execmem, another processor), the same is done in Python.
"""

from __future__ import annotations

import errno
import mmap
import os

from .. import cdata, libc
from . import ptrace
from .errands import EXECS
from .handler import ALWAYS, ANY_BIT, Condition, Handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CALL_STOP = (5 | 0x80) << 8 | 0x7F  # SIGTRAP, with PTRACE_O_TRACESYSGOOD
_NUMBERS = 512  # of calls that handlers are asked about beforehand
_NEVER = 3  # beside the ways of a condition
_WORD = 8  # bytes
_FAIR_AFTER = 16  # stops
_ROOM = 256
_PIDS = 1 << 22  # PID_MAX_LIMIT of 64-bit kernels
_OUTSIDE, _INSIDE, _AWAITED = range(3)


class _Room(cdata.Structure):
    """struct room of stops.c."""

    _fields_ = (
        ("calls", cdata.c_ulong),
        ("limit", cdata.c_long),
        ("go", cdata.c_long),
        ("conditions", cdata.c_uint * (2 * _NUMBERS)),
        ("turn", cdata.c_uint),
        ("count", cdata.c_int),
        ("waiting", cdata.c_int * (2 * _ROOM)),
    )


class Inside:
    """The threads that are in a call, and what is to be done at its end: a mapping of their pids."""

    def __init__(self) -> None:
        self.states = mmap.mmap(-1, _PIDS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # what is not written takes no room
        self._after: dict[int, Callable[[int], None]] = {}

    def __contains__(self, pid: int) -> bool:
        return self.states[pid] != _OUTSIDE

    def __setitem__(self, pid: int, after: Callable[[int], None] | None) -> None:
        if after is None:
            self._after.pop(pid, None)
            self.states[pid] = _INSIDE
        else:
            self._after[pid] = after
            self.states[pid] = _AWAITED

    def get(self, pid: int) -> Callable[[int], None] | None:
        return self._after.get(pid)

    def pop(self, pid: int) -> Callable[[int], None] | None:
        """Take a thread out; what is to be done."""
        self.states[pid] = _OUTSIDE
        return self._after.pop(pid, None)


class Stops:
    """The stops and ends that a tracer has to look at, for its handlers. `go`: the ptrace(2) request by which other
    threads go on. `native` = False does without machine code.
    """

    def __init__(self, handlers: list[Handler], go: int, inside: Inside, native: bool = True) -> None:
        self._conditions = _conditions(handlers)
        self._go = go
        self._inside = inside
        self._waiting: list[tuple[int, int]] = []
        self._turn = 0
        self._code, self._memory = _mapped() if native else (None, None)
        self._room = room = _Room()
        room.limit = _PIDS
        room.go = go
        room.calls = cdata.addressof(cdata.c_int.from_buffer(inside.states))
        for number, (how, index, value) in enumerate(self._conditions):
            room.conditions[2 * number] = how | ptrace.ARGUMENTS[index] * _WORD << 16
            room.conditions[2 * number + 1] = value

    @property
    def native(self) -> bool:
        return self._code is not None

    def next(self, wait: bool, every: bool) -> tuple[int, int]:
        """The next one's pid and wait status; (0, 0) where `wait` is false and there is none yet. `every`: quiet ones,
        too. Raises ChildProcessError where no tracee is left."""
        options = ptrace.WALL | (0 if wait else os.WNOHANG)
        if every or self._waiting or self._code is None:
            return self._by_python(options, every)
        return self._by_code(self._code, options)

    def _by_code(self, code: Callable[..., int], options: int) -> tuple[int, int]:
        room = self._room
        while (result := code(cdata.addressof(room), options)) == -errno.EINTR:
            pass  # a signal's handler has been called meanwhile
        if result < 0:
            raise ChildProcessError(-result, os.strerror(-result))
        return (room.waiting[2 * room.count], room.waiting[2 * room.count + 1]) if result else (0, 0)

    def _by_python(self, options: int, every: bool) -> tuple[int, int]:
        self._take_over()
        waiting, states = self._waiting, self._inside.states
        while True:
            if not waiting:
                if self._code and not every:
                    return self._by_code(self._code, options)
                waiting.append(os.waitpid(-1, options))
                self._turn += 1
                if self._turn % _FAIR_AFTER == 0:
                    self._collect()
            found = waiting.pop()  # the newest: an older one of the same pid was another thread's
            pid, status = found
            if every or status != CALL_STOP or (state := states[pid]) > _INSIDE:
                return found
            if state == _OUTSIDE and not self.is_quiet(pid):
                return found
            states[pid] = not state
            ptrace.request(self._go, pid, 0, 0)

    def _collect(self) -> None:
        """Take all that wait by now before any goes on: wait(2) would give the first of its list again and again, as
        long as that one stops again at once (seen on Linux 2.6.32)."""
        try:
            while (found := os.waitpid(-1, ptrace.WALL | os.WNOHANG))[0]:
                self._waiting.append(found)
        except ChildProcessError:
            pass  # the one at hand is the last

    def is_quiet(self, pid: int) -> bool:
        """Whether the call that a thread begins is one that nobody looks at."""
        number = ptrace.request(ptrace.PEEKUSER, pid, ptrace.ORIG_RAX * _WORD, 0)
        how, index, value = self._conditions[number] if 0 <= number < _NUMBERS else (ALWAYS, 0, 0)
        if how in (ALWAYS, _NEVER):
            return how == _NEVER
        argument = ptrace.request(ptrace.PEEKUSER, pid, ptrace.ARGUMENTS[index] * _WORD, 0) & 0xFFFFFFFF
        return not argument & value if how == ANY_BIT else argument != value

    def again(self, pid: int, status: int) -> None:
        """Have one be the next."""
        self._take_over()
        self._waiting.append((pid, status))

    def drop(self, pid: int) -> None:
        """Forget what waits of a thread that is no more."""
        self._take_over()
        self._waiting = [found for found in self._waiting if found[0] != pid]

    def _take_over(self) -> None:
        """What the code has taken already is looked at before it waits again."""
        room = self._room
        if room.count:
            words = room.waiting[: 2 * room.count]
            self._waiting[:0] = zip(words[::2], words[1::2], strict=True)
            room.count = 0


def _conditions(handlers: list[Handler]) -> list[Condition]:
    """When a call of each number is looked at by one of the handlers."""
    wanted: list[set[Condition]] = [{(ALWAYS, 0, 0)} if number in EXECS else set() for number in range(_NUMBERS)]
    for handler in handlers:
        known = handler.conditions() or {}
        for number, conditions in enumerate(wanted):
            if handler.looks_at(number):
                conditions.add(known.get(number, (ALWAYS, 0, 0)))
    never: Condition = (_NEVER, 0, 0)
    return [(conditions or {never}).pop() if len(conditions) < 2 else (ALWAYS, 0, 0) for conditions in wanted]


def _mapped() -> tuple[Callable[..., int] | None, mmap.mmap | None]:
    """The machine code, where it can be run, and its memory, which is to be kept."""
    if libc.MACHINE != "x86_64":
        return None, None
    from .stopscode import CODE

    memory = mmap.mmap(-1, len(CODE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(CODE)
    address = cdata.addressof(cdata.c_int.from_buffer(memory))
    protect = cdata.function("mprotect", cdata.c_int, cdata.c_ulong, cdata.c_size_t, cdata.c_int)
    if protect(address, len(CODE), mmap.PROT_READ | mmap.PROT_EXEC) < 0:
        return None, None
    return cdata.function_at(address, cdata.c_long, cdata.c_ulong, cdata.c_long), memory
