"""What today's Python does with a kernel: processes, threads, sockets, files, clocks. Prints the same everywhere."""

import asyncio
import concurrent.futures
import ctypes
import fcntl
import hashlib
import mmap
import multiprocessing
import os
import resource
import select
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time


def processes():
    done = subprocess.run(["sh", "-c", "echo out; echo err >&2; exit 4"], capture_output=True, text=True, close_fds=True)
    print(done.returncode, done.stdout.strip(), done.stderr.strip())
    first = subprocess.Popen(["seq", "10"], stdout=subprocess.PIPE)
    print(subprocess.run(["wc", "-l"], stdin=first.stdout, capture_output=True, text=True).stdout.strip(), first.wait())
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(pool.map(abs, [-1, 2, -3]))
    try:
        subprocess.run(["sleep", "9"], timeout=0.2)
    except subprocess.TimeoutExpired:
        print("timed out")
    pid = os.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", "exit 9"])
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if sys.version_info >= (3, 9) else 9)


def threads():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        print(sum(pool.map(lambda n: len(hashlib.sha256(bytes([n]) * 1000).digest()), range(64))))
    event, seen = threading.Event(), []
    made = [threading.Thread(target=lambda n=n: (event.wait(5), seen.append(n))) for n in range(50)]
    [thread.start() for thread in made]
    event.set()
    [thread.join() for thread in made]
    print(len(seen))


async def asynchronous():
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def ask(n):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"ask {n}\n".encode())
        answer = await reader.readline()
        writer.close()
        return answer.decode().strip()

    print(await asyncio.gather(*(ask(n) for n in range(5))))
    process = await asyncio.create_subprocess_exec("echo", "child", stdout=subprocess.PIPE)
    print((await process.communicate())[0], process.returncode)
    server.close()
    await asyncio.sleep(0.01)


def sockets():
    left, right = socket.socketpair()
    socket_fds = [os.open("/etc/passwd", os.O_RDONLY)]
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, bytes(memoryview(__import__("array").array("i", socket_fds))))])
    print(right.recvmsg(1, 100)[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two:
        one.bind(("127.0.0.1", 0))
        two.sendto(b"datagram", one.getsockname())
        print(one.recv(100), select.select([one], [], [], 0)[0])
    print(socket.getaddrinfo("localhost", 80, socket.AF_INET, socket.SOCK_STREAM)[0][4])
    print(ssl.create_default_context().verify_mode.name)


def files():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("a", "wb") as file:
            file.write(b"abc" * 50000)
        shutil.copy2("a", "b")
        print(os.stat("b").st_size, os.path.samefile("a", "a"), sorted(os.listdir(".")))
        with open("a", "rb") as one, open("c", "wb") as two:
            print(os.sendfile(two.fileno(), one.fileno(), 0, 0) if False else shutil.copyfileobj(one, two))
        if hasattr(os, "copy_file_range"):
            source, target = os.open("a", os.O_RDONLY), os.open("d", os.O_RDWR | os.O_CREAT)
            print(os.copy_file_range(source, target, 100000), os.fstat(target).st_size, os.lseek(source, 0, 1))
            print(os.copy_file_range(source, target, 10, 5, 7), os.pread(target, 3, 7))
        print(shutil.rmtree("nothing", ignore_errors=True), os.access("a", os.R_OK), os.access("a", os.X_OK, effective_ids=True))
        os.symlink("a", "link")
        print(os.stat("link", follow_symlinks=False).st_mode & 0o170000 == 0o120000, os.readlink("link"))
        directory = os.open(".", os.O_RDONLY)
        print(os.stat("a", dir_fd=directory).st_size, len(list(os.scandir(directory))))
        os.makedirs("x/y/z")
        os.utime("x", ns=(10**9, 2 * 10**9))
        print(os.stat("x").st_mtime_ns)
        with tempfile.TemporaryFile() as file, tempfile.NamedTemporaryFile() as named, tempfile.SpooledTemporaryFile() as spooled:
            for each in (file, named, spooled):
                each.write(b"x")
            print(file.tell())
        with open("a", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            fcntl.flock(file, fcntl.LOCK_EX)
            print(memory[:3], os.posix_fallocate(file.fileno(), 0, 200000))
        os.chdir("/")
    database = sqlite3.connect(":memory:")
    database.execute("create table t (a, b)")
    database.executemany("insert into t values (?, ?)", [(n, str(n)) for n in range(1000)])
    print(database.execute("select count(*), sum(a) from t").fetchone())


def newer_calls():
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("name", os.MFD_CLOEXEC)
        os.write(fd, b"memory")
        print(os.pread(fd, 10, 0), os.fstat(fd).st_nlink, fcntl.fcntl(fd, fcntl.F_GETFD))
    print(len(os.getrandom(300)), len(os.urandom(16)), len(set(os.getrandom(64))) > 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], resource.prlimit(0, resource.RLIMIT_CORE)[0] >= -1)
    name = os.uname()
    print(name.sysname, [int("".join(filter(str.isdigit, part))) for part in name.release.split(".")[:2]] >= [3, 2])
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one", "two"):
            with open(f"{folder}/{name}", "w") as file:
                file.write(name)
        rename = lambda *names: libc.syscall(316, -100, f"{folder}/{names[0]}".encode(), -100, f"{folder}/{names[1]}".encode(), 1)
        print(rename("one", "two"), ctypes.get_errno(), rename("one", "three"), sorted(os.listdir(folder)))
        fds = [os.dup(0) for _ in range(5)]
        print(libc.syscall(436, fds[1], fds[3], 0))
        left = []
        for fd in fds:
            try:
                os.fstat(fd)
                left.append(fds.index(fd))
            except OSError:
                pass
        print(left)
        buffer = ctypes.create_string_buffer(256)
        print(libc.syscall(332, -100, f"{folder}/two".encode(), 0, 0x7FF, buffer), int.from_bytes(buffer[40:48], "little"))
        print(libc.syscall(439, -100, f"{folder}/two".encode(), 4, 0x200))
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/p")
        print(libc.syscall(316, -100, f"{folder}/p/".encode(), -100, f"{folder}/q/".encode(), 1), os.listdir(folder))
        print(libc.syscall(316, -100, f"{folder}/none".encode(), -100, f"{folder}/r".encode(), 1), ctypes.get_errno())
    limit = (ctypes.c_ulong * 2)(4096, 4096)
    print(libc.prlimit(0, resource.RLIMIT_CORE, limit, limit), resource.getrlimit(resource.RLIMIT_CORE), libc.prlimit(0, 99, None, None))
    if os.geteuid() == 0:
        pid = os.fork()
        if pid == 0:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                os.chroot("/")
            print("descriptors", len(os.listdir("/proc/self/fd")) - before <= 1, len(os.getrandom(3)), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
    epoll = select.epoll()
    print(libc.syscall(441, epoll.fileno(), buffer, 4, (ctypes.c_long * 2)(0, 1000000), None, 8))
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    class Message(ctypes.Structure):
        _fields_ = [("name", ctypes.c_void_p), ("name_size", ctypes.c_uint), ("vector", ctypes.POINTER(Vector)), ("count", ctypes.c_size_t),
                    ("control", ctypes.c_void_p), ("control_size", ctypes.c_size_t), ("flags", ctypes.c_size_t), ("length", ctypes.c_size_t)]

    text = [ctypes.create_string_buffer(b"message %d" % n, 16) for n in range(3)]
    vectors = [Vector(ctypes.addressof(item), 9) for item in text]
    messages = (Message * 3)(*[Message(vector=ctypes.pointer(vector), count=1) for vector in vectors])
    print(libc.sendmmsg(left.fileno(), messages, 3, 0), [message.length for message in messages])
    print(libc.recvmmsg(right.fileno(), messages, 3, 0x10000, None), text[2].value)
    print(time.clock_gettime(7) > 0 if hasattr(time, "CLOCK_BOOTTIME") else True)


def signals():
    seen = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    for _ in range(100):
        os.kill(os.getpid(), signal.SIGUSR1)
    print(len(seen), signal.sigtimedwait([signal.SIGUSR2], 0.01))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.signal(signal.SIGALRM, lambda number, frame: seen.append("alarm"))
    time.sleep(0.3)
    print(seen[-1])


for part in (processes, threads, lambda: asyncio.run(asynchronous()), sockets, files, newer_calls, signals):
    part()
