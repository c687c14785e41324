"""What a tracer is shown of its threads' stops, with its machine code and without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the tracer is for x86-64")

CALLS = r"""
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *unused) {
    for (int n = 0; n < 500; n++) syscall(SYS_getppid);
    return unused;
}
int main(int count, char **words) {
    pthread_t threads[20];
    if (count > 1) for (;;) syscall(SYS_getppid);
    for (int n = 0; n < 20; n++) pthread_create(&threads[n], 0, work, 0);
    for (int n = 0; n < 20; n++) pthread_join(threads[n], 0);
    syscall(SYS_getuid);
    syscall(SYS_access, "/", 4 | 1L << 32);
    syscall(SYS_access, "/", 1);
    syscall(SYS_socket, 16, 3, 0);
    syscall(SYS_socket, 16 | 1L << 32, 3, 1);
    syscall(SYS_socket, 1, 3, 2);
    syscall(600);
    syscall(-1);
    if (!fork()) { syscall(SYS_getuid); _exit(0); }
    wait(0);
    syscall(SYS_getpgid, 0);
    exit(7);
}
"""

TRACER = """
import os, signal, sys
from joey.compat.tracing import handler, ptrace, tracer

seen, ended = [], []
FIRST = [102, 21, 41, 121]

class Looks(handler.Handler):
    def looks_at(self, number): return number in FIRST
    def conditions(self): return {102: (0, 0, 0), 21: (1, 1, 4), 41: (2, 0, 16)}
    def entered(self, pid, number):
        if number in FIRST or number >= 512:
            seen.append((number, self.tracer.registers[ptrace.RDX] if number == 41 else 0))
        return False

class Second(Looks):
    def looks_at(self, number): return number == 21
    def conditions(self): return {21: (1, 1, int(sys.argv[2]))}
    def entered(self, pid, number): return False

read_end, write_end = os.pipe()
pid = os.fork()
if not pid:
    os.close(write_end)
    os.read(read_end, 1)
    os.execv(sys.argv[3], sys.argv[3:])
os.close(read_end)
made = tracer.Tracer(tracer.Options([Looks(), Second()], False, True, True, sys.argv[1] == "code"))
assert made._stops.native == (sys.argv[1] == "code")
made.on_end = lambda at, status: ended.append(status)
made.attach(pid)
os.close(write_end)
signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
signal.alarm(2 if len(sys.argv) > 4 else 0)
made.run()
print(seen, ended[-1])
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calls")
    (folder / "calls.c").write_text(CALLS)
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", folder / "calls", folder / "calls.c"], check=True)
    return folder / "calls"


def traced(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TRACER, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("way", ["code", "python"])
def test_a_handler_is_shown_what_it_looks_at_and_nothing_else(way: str, program: Path) -> None:
    minus_one = (1 << 64) - 1
    wanted = [(102, 0), (21, 0), (41, 0), (41, 1), (600, 0), (minus_one, 0), (102, 0), (121, 0)]
    assert traced(way, "4", program) == f"{wanted} {7 << 8}"
    wanted.insert(2, (21, 0))  # two handlers with conditions that differ are shown all
    assert traced(way, "1", program) == f"{wanted} {7 << 8}"


@pytest.mark.parametrize("way", ["code", "python"])
def test_signals_of_the_tracer_have_their_turn(way: str, program: Path) -> None:
    assert traced(way, "4", program, "forever") == "[] 9"


@pytest.mark.parametrize("name", ["shim", "stops", "agent"])
def test_machine_code_is_what_its_source_gives(name: str) -> None:
    version = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    if not version.startswith("12."):
        pytest.skip(f"the code is made by Debian 12's gcc, here is {version}")
    subprocess.run([TOP / "tools" / "gen_code", "--check", name], check=True)
