"""What is hard on a tracer: forks, threads, signals, stops, ends. Prints the same everywhere."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time


def fork_storm():
    def burst(depth):
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os.getrandom(8)
                if depth:
                    burst(depth - 1)
                os._exit(0)
        while True:
            try:
                os.wait()
            except ChildProcessError:
                return

    burst(3)
    print("storm", len([subprocess.run(["true"]) for _ in range(20)]))


def many_threads():
    barrier = threading.Barrier(201)
    seen = []

    def work():
        barrier.wait()
        for _ in range(20):
            seen.append(len(os.getrandom(16)) + os.stat("/").st_nlink * 0)

    made = [threading.Thread(target=work) for _ in range(200)]
    [thread.start() for thread in made]
    barrier.wait()
    [thread.join() for thread in made]
    print("threads", len(seen), sum(seen))


def signals():
    seen = 0

    def count(number, frame):
        nonlocal seen
        seen += 1

    signal.signal(signal.SIGUSR1, count)
    target = os.getpid()
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        for _ in range(500):
            os.kill(target, signal.SIGUSR1)
        os._exit(0)
    total = 0
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        total += len(os.getrandom(8))
    print("signals", seen > 0, total % 8)


def stops():
    child = subprocess.Popen([sys.executable, "-c", "import time\nwhile True: print('tick', flush=True); time.sleep(0.02)"], stdout=subprocess.PIPE)
    child.stdout.readline()
    for _ in range(3):
        os.kill(child.pid, signal.SIGSTOP)
        pid, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status
        os.set_blocking(child.stdout.fileno(), False)
        time.sleep(0.1)
        while child.stdout.read(65536):
            pass
        time.sleep(0.3)
        quiet = child.stdout.read(65536) or b""
        os.kill(child.pid, signal.SIGCONT)
        os.waitpid(child.pid, os.WCONTINUED)
        os.set_blocking(child.stdout.fileno(), True)
        print("stopped", len(quiet), "goes on", child.stdout.readline() != b"")
    child.kill()
    print("killed", child.wait())
    code = """import os, threading, time
def tick(n):
    while True: os.write(1, b"%d\\n" % n); time.sleep(0.02)
[threading.Thread(target=tick, args=(n,)).start() for n in range(4)]"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    for _ in range(3):
        while {child.stdout.readline() for _ in range(100)} < {b"0\n", b"1\n", b"2\n", b"3\n"}:
            pass
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        time.sleep(0.1)
        os.kill(child.pid, signal.SIGCONT)
    print("all threads go on", len({child.stdout.readline() for _ in range(200)}))
    child.kill()
    child.wait()


def executions():
    """A thread that executes a program while others work; a killed child; a set-uid program."""
    code = "import os, threading, time\n[threading.Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(10)]\nthreading.Thread(target=os.execv, args=('/bin/echo', ['echo', 'from a thread'])).start()\ntime.sleep(60)"
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50).stdout.strip())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        print(sorted(set(pool.map(lambda n: subprocess.run(["sh", "-c", f"kill -9 $$"]).returncode, range(16)))))
    if os.geteuid() == 0:
        subprocess.run(["sh", "-c", "cp $(readlink -f $(command -v id)) /tmp/set-uid-id && chmod 4755 /tmp/set-uid-id"], check=True)
        pid = os.fork()
        if pid == 0:
            os.setgid(65534)
            os.setuid(65534)
            os.execv("/tmp/set-uid-id", ["id", "-u"])
        os.waitpid(pid, 0)


for part in (fork_storm, many_threads, signals, stops, executions):
    part()
    sys.stdout.flush()
