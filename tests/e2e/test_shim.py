"""The shim's ways on this kernel, as if it lacked what they emulate: same output as without them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from joey.compat.shim.divert import BASE

from ..compat.shim.test_rewrite import TOP, through

PROGRAMS = Path(__file__).parent / "programs"
PYTHON = "/usr/bin/python3"
WAYS = ("rewritten-libc", "tracer", "tracer --no-code", "tracer --no-seize --no-exitkill", "tracer-seccomp")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the shim is for x86-64"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"needs {PYTHON}, a Python of the system's C library"),
]

_native: dict[str, str] = {}


def native(program: str) -> str:
    if program not in _native:
        _native[program] = through("none", PYTHON, str(PROGRAMS / program)).stdout
    return _native[program]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", ["modern.py", pytest.param("storm.py", marks=pytest.mark.slow)])
def test_a_program_prints_the_same_by_every_way(program: str, way: str) -> None:
    done = through(way, PYTHON, str(PROGRAMS / program), check=False)
    assert done.stdout == native(program), done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_static_program_sees_another_kernel_under_a_tracer(way: str) -> None:
    done = through(way, "/bin/busybox", "uname", "-r")
    assert done.stdout.startswith("3.17.0+")


@pytest.mark.parametrize("way", WAYS)
def test_the_status_is_the_programs(way: str) -> None:
    assert through(way, "sh", "-c", "exit 7", check=False).returncode == 7
    assert through(way, "sh", "-c", "kill -TERM $$", check=False).returncode in (128 + 15, -15)


def program_of_32_bits(path: Path) -> Path:
    """_exit(3) by int 0x80, as a static ELF file for i386."""
    code = bytes.fromhex("b801000000bb03000000cd80")
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += (
        b"\x02\x00\x03\x00\x01\x00\x00\x00" + (0x8048054).to_bytes(4, "little") + (52).to_bytes(4, "little") + bytes(8)
    )
    header += b"\x34\x00\x20\x00\x01\x00\x00\x00\x00\x00\x00\x00"
    segment = b"".join(
        n.to_bytes(4, "little") for n in (1, 0, 0x8048000, 0x8048000, 84 + len(code), 84 + len(code), 5, 0x1000)
    )
    path.write_bytes(header + segment + code)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_32_bit_program_is_refused_in_words(way: str, tmp_path: Path) -> None:
    program = program_of_32_bits(tmp_path / "narrow")
    if subprocess.run([program], check=False).returncode != 3:
        pytest.skip("this kernel runs no 32-bit programs")
    done = through(way, "sh", "-c", f"{program}; echo $?", check=False)
    assert done.stdout == "137\n"
    assert "narrow: a 32-bit program can't run under the tracer" in done.stderr


FIRST_CALLS = r"""
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
enum { THREADS = 8, ROUNDS = 100 };
static pthread_barrier_t begin, end;
static int failed;
static void *work(void *unused) {
    for (int round = 0; round < ROUNDS; round++) {
        char random[8];
        pthread_barrier_wait(&begin);
        if (syscall(SYS_getrandom, random, 8, 0) != 8) __sync_fetch_and_add(&failed, 1);
        pthread_barrier_wait(&end);
    }
    return unused;
}
int main(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&begin, 0, THREADS + 1);
    pthread_barrier_init(&end, 0, THREADS + 1);
    for (int n = 0; n < THREADS; n++) pthread_create(&threads[n], 0, work, 0);
    for (int round = 0; round < ROUNDS; round++) {
        munmap((void *)0xBASE, 0x3000); /* as in a process that has just begun */
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
    }
    printf("%d failed\n", failed);
}
"""


@pytest.mark.parametrize("way", WAYS[1:])
def test_first_calls_of_threads_at_once(way: str, tmp_path: Path) -> None:
    source = tmp_path / "first.c"
    source.write_text(FIRST_CALLS.replace("BASE", f"{BASE:x}"))
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", tmp_path / "first", source], check=True)
    assert through(way, str(tmp_path / "first"), timeout=60).stdout == "0 failed\n"


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.mark.parametrize("way", ["tracer", "tracer --no-seize --no-exitkill", "tracer-seccomp"])
def test_a_tracer_that_is_killed_takes_its_tracees_along(way: str) -> None:
    command = [sys.executable, str(TOP / "tools" / "shim-run"), "--by", *way.split(), "--"]
    script = "sleep 1000 & sleep 1001 & echo started; wait"
    with subprocess.Popen([*command, "sh", "-c", script], stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout
        assert tracer.stdout.readline() == "started\n"
        family = [pid for child in children_of(tracer.pid) for pid in (child, *children_of(child))]
        assert len(family) >= 3
        tracer.send_signal(signal.SIGKILL)
        end = time.monotonic() + 10
        while any(Path(f"/proc/{pid}/stat").exists() for pid in family) and time.monotonic() < end:
            time.sleep(0.02)
        assert not [pid for pid in family if Path(f"/proc/{pid}/stat").exists()]


def test_a_guard_that_is_killed_is_replaced() -> None:
    command = [sys.executable, str(TOP / "tools" / "shim-run"), "--by", "tracer", "--no-seize", "--no-exitkill", "--"]
    with subprocess.Popen(
        [*command, "sh", "-c", "echo started; exec sleep 1000"], stdout=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stdout
        assert tracer.stdout.readline() == "started\n"
        program, guard = children_of(tracer.pid)
        os.kill(guard, signal.SIGKILL)
        end = time.monotonic() + 10
        while (now := children_of(tracer.pid)) in ([program], [program, guard]) and time.monotonic() < end:
            time.sleep(0.02)
        assert len(now) == 2
        tracer.send_signal(signal.SIGKILL)
        while Path(f"/proc/{program}/stat").exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert not Path(f"/proc/{program}/stat").exists()
