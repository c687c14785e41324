"""Tries what a host's kernel can do, where no joey is and Python is old: 2.6 and later, nothing but its library.

It is sent to the host over SSH and runs from standard input: a line of JSON with tables, then end of file. It prints
one line of JSON: {"findings": {feature: [state, answer, detail]}, "machine": {...}, "key": {...}}. Each thing is tried
in a forked child with a time limit, in namespaces that end with it. Nothing is written on the host but, for a moment,
an empty control group. The features and their meaning are those of probes/groups/, which says more about each.
"""

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import stat
import struct
import sys
import time

CONFIG = {}
NUMBERS = {}
LIMIT = 5.0
CLONE = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
         "pid": 0x20000000, "net": 0x40000000, "time": 0x80}
SIGCHLD = 17
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 1, 32, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Known(Exception):
    """A probe that knows its state."""

    def __init__(self, state, answer, detail=None):
        Exception.__init__(self, answer)
        self.state, self.answer, self.detail = state, answer, detail or {}


def name_of(number):
    return errno.errorcode.get(number, "errno %d" % number)


def state_of(number):
    if number in CONFIG["absent"]:
        return "absent"
    return number in CONFIG["blocked"] and "blocked" or "broken"


def call(name, *args):
    """A system call's result, or minus its errno."""
    if name not in NUMBERS:
        return -errno.ENOSYS
    words = []
    for arg in args:
        if isinstance(arg, bytes):
            words.append(ctypes.c_char_p(arg))
        elif arg is None or isinstance(arg, (int, type(1 << 70))):
            words.append(ctypes.c_long(arg or 0))
        else:
            words.append(arg)  # something of ctypes
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    if result == -1:
        return -ctypes.get_errno()
    return result


def check(name, *args):
    result = call(name, *args)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def read(path):
    try:
        f = open(path)
    except (IOError, OSError):
        return ""
    try:
        return f.read(1 << 20)
    except (IOError, OSError, ValueError):
        return ""
    finally:
        f.close()


def mount(source, target, kind, flags, data=""):
    check("mount", source.encode("ascii"), target.encode("ascii"), kind.encode("ascii"), flags, data.encode("ascii"))


def clone(flags):
    return check("clone", flags | SIGCHLD, 0, 0, 0, 0)


def child(function, flags=0):
    """The status of a child that runs `function`; minus a signal. Its errors are raised here."""
    ends = os.pipe()
    if flags:
        pid = clone(flags)
    else:
        pid = os.fork()
    if pid == 0:
        status = 250
        try:
            try:
                call("prctl", 1, 9, 0, 0, 0)
                status = function() or 0
            except Known:
                known = sys.exc_info()[1]
                os.write(ends[1], ("known\n%s\n%s" % (known.state, known.answer)).encode("ascii", "replace"))
            except (OSError, IOError):
                os.write(ends[1], ("os\n%d" % (sys.exc_info()[1].errno or 0)).encode("ascii"))
        finally:
            os._exit(status)
    os.close(ends[1])
    words = os.read(ends[0], 4096).decode("ascii").split("\n")
    os.close(ends[0])
    status = os.waitpid(pid, 0)[1]
    if words[0] == "os":
        raise OSError(int(words[1]), os.strerror(int(words[1])))
    if words[0] == "known":
        raise Known(words[1], words[2])
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def need_root():
    if os.geteuid() != 0:
        raise Known("blocked", "needs root")


def become_root(extra=0):
    """Root of a new user namespace, with other new namespaces."""
    uid, gid = os.geteuid(), os.getegid()
    check("unshare", CLONE["user"] | extra)
    if os.path.exists("/proc/self/setgroups"):
        write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", "0 %d 1\n" % uid)
    write("/proc/self/gid_map", "0 %d 1\n" % gid)


def private(flags=0):
    if os.geteuid() == 0:
        check("unshare", CLONE["mnt"] | flags)
    else:
        become_root(CLONE["mnt"] | flags)
    mount("", "/", "", MS_REC | MS_PRIVATE)


def scratch(flags=0):
    """A fresh tmpfs over /tmp, in namespaces of its own; the working directory is in it."""
    private(flags)
    place = os.path.isdir("/tmp") and "/tmp" or "/mnt"
    mount("joey-probe", place, "tmpfs", 0, "size=4m,mode=755")
    os.chdir(place)
    return place


def touch(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, int("644", 8)))


def waiting(flags):
    """A clone that waits until the returned descriptor is closed."""
    ends = os.pipe()
    pid = clone(flags)
    if pid == 0:
        os.close(ends[1])
        os.read(ends[0], 1)
        os._exit(0)
    os.close(ends[0])
    return pid, ends[1]


PROBES = []


def probe(feature, *args):
    def register(function):
        PROBES.append((feature, function, args))
        return function

    return register


# --- flags and behaviours


@probe("fstatat.empty-path", b"", 0x1000)
@probe("fstatat.no-automount", b"/", 0x800)
def fstatat(path, flag):
    check("newfstatat", os.open("/", os.O_RDONLY), path, ctypes.create_string_buffer(256), flag)


@probe("open.path")
def open_path():
    fd = os.open("/", int("10000000", 8))
    result = call("getdents64", fd, ctypes.create_string_buffer(1024), 1024)
    if result != -errno.EBADF:
        raise Known("absent", "the flag is ignored: a real open")
    return "reads give EBADF"


@probe("open.tmpfile")
def open_tmpfile():
    result = call("open", os.geteuid() == 0 and scratch().encode("ascii") or b"/tmp", int("20200000", 8) | 2, 384)
    if result == -errno.EISDIR:
        raise Known("absent", "EISDIR")
    if result < 0:
        raise OSError(-result, "")


@probe("uname.release")
def uname_release():
    release = os.uname()[2]
    numbers = []
    for part in release.split("-")[0].split(".")[:2]:
        numbers.append(int("".join([c for c in part if c.isdigit()]) or 0))
    if numbers < [3, 2]:
        raise Known("absent", release)
    return release


@probe("tmpfs.fallocate")
def tmpfs_fallocate():
    scratch()
    check("fallocate", os.open("file", os.O_CREAT | os.O_RDWR), 0, 0, 4096)


@probe("vsyscall")
def vsyscall():
    if os.uname()[4] != "x86_64":
        raise Known("absent", "no such page on %s" % os.uname()[4])
    mode = "none"
    for line in read("/proc/self/maps").splitlines():
        if line.endswith("[vsyscall]"):
            word = line.split()[1]
            mode = {"r-xp": "native or emulated", "--xp": "execute only"}.get(word, word)

    def inside():
        ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(0xFFFFFFFFFF600400)(None)

    status = child(inside)
    if status:
        raise Known("absent", "%s; the call died of signal %d; boot with vsyscall=emulate" % (mode, -status))
    return mode, {"mode": mode}


# --- namespaces


def by_clone(name):
    if name == "time":
        raise Known("absent", "clone(2) has no such flag; unshare and clone3 do")
    if name == "cgroup":  # CLONE_STOPPED, once
        result = child(lambda: -call("unshare", CLONE[name]))
        if result > 0:
            raise Known(state_of(result), "not tried: unshare answered %s" % name_of(result))
    child(lambda: 0, CLONE[name])


def by_unshare(name):
    check("unshare", CLONE[name])


def in_userns(name):
    become_root(CLONE[name])


for _name in CLONE:
    PROBES.append((_name + "ns.clone", by_clone, (_name,)))
    PROBES.append((_name + "ns.unshare", by_unshare, (_name,)))
    if _name != "user":
        PROBES.append((_name + "ns.in-userns", in_userns, (_name,)))


@probe("pidns.init")
def pid_one():
    if os.geteuid() != 0:
        become_root()
    pid = child(os.getpid, CLONE["pid"])
    if pid != 1:
        raise Known("broken", "the first process has pid %d" % pid)
    return "pid 1"


@probe("userns.maps")
def userns_maps():
    try:
        become_root()
    except (OSError, IOError):
        number = sys.exc_info()[1].errno
        raise Known(number == errno.ENOENT and "absent" or "blocked", name_of(number))
    return "uid 0 inside"


@probe("userns.emulated")
def userns_emulated():
    need_root()
    status = child(as_another_user)
    if status:
        raise Known("broken", ("an id changed without the capability", "wrong ids or capabilities after it")[status - 1])


def set_capabilities(effective, permitted):
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", effective, permitted, 0, 0, 0, 0))
    check("capset", header, data)


def as_another_user():
    kept = 1 << 7 | 1 << 6  # CAP_SETUID, CAP_SETGID
    check("prctl", 28, 4, 0, 0, 0)
    check("setresuid", 1, 1, 1)
    set_capabilities(0, kept)
    if call("setresuid", 0, 1, 1) == 0:
        return 1
    set_capabilities(kept, kept)
    check("setresuid", 0, -1, -1)
    set_capabilities(0, kept)
    return (os.getuid(), os.geteuid()) != (0, 1) and 2 or 0


def enter(name):
    fd = os.open("/proc/self/ns/" + name, os.O_RDONLY)
    result = call("setns", fd, CLONE[name])
    os.close(fd)
    if name == "user" and result == -errno.EINVAL:
        return "EINVAL for one's own, as it should"
    if result == -errno.EPERM and name != "user" and os.geteuid() != 0:
        become_root(CLONE[name])
        if name == "pid":
            return "in a user namespace"  # one enters it with a child; what setns lacks was seen above
        check("setns", os.open("/proc/self/ns/" + (name == "time" and "time_for_children" or name), os.O_RDONLY),
              CLONE[name])
        return "in a user namespace"
    if result < 0:
        raise OSError(-result, "")
    return None


for _name in CLONE:
    PROBES.append(("setns." + _name, enter, (_name,)))


# --- mounts


@probe("mount.pivot-root")
def pivot_root():
    scratch()
    os.mkdir("root")
    mount("root", "root", "", MS_BIND)
    os.chdir("root")
    check("pivot_root", b".", b".")
    check("umount2", b".", 2)
    os.chdir("/")
    if os.listdir("/"):
        raise Known("broken", "the new root is not the directory it should be")


@probe("mount.move")
def move():
    place = scratch()
    os.mkdir("root")
    mount("root", place + "/root", "", MS_BIND)
    os.chdir(place + "/root")
    mount(place + "/root", "/", "", MS_MOVE)
    os.chroot(".")


@probe("mount.private", MS_PRIVATE)
@probe("mount.slave", MS_SLAVE)
@probe("mount.shared", MS_SHARED)
def propagation(flag):
    scratch()
    mount("", "/", "", flag | MS_REC)


def refused(path, wanted):
    try:
        touch(path)
    except OSError:
        number = sys.exc_info()[1].errno
        if number == wanted:
            return
        raise Known("broken", "expected %s, got %s" % (name_of(wanted), name_of(number)))
    raise Known("broken", "expected %s, and it succeeded" % name_of(wanted))


@probe("mount.bind-readonly")
def bind_readonly():
    scratch()
    os.mkdir("here")
    mount("here", "here", "", MS_BIND)
    mount("", "here", "", MS_REMOUNT | MS_BIND | MS_RDONLY)
    refused("here/file", errno.EROFS)
    return "EROFS"


@probe("mount.bind-file")
def bind_file():
    scratch()
    touch("file")
    mount("/dev/null", "file", "", MS_BIND)
    if not stat.S_ISCHR(os.stat("file").st_mode):
        raise Known("broken", "the file is not covered")


@probe("mount.setattr-recursive")
def setattr_recursive():
    scratch()
    os.makedirs("here/below")
    mount("here", "here", "", MS_BIND)
    mount("below", "here/below", "tmpfs", 0)
    check("mount_setattr", -100, b"here", 0x8000, ctypes.create_string_buffer(struct.pack("=4Q", 1, 0, 0, 0)), 32)
    refused("here/below/file", errno.EROFS)
    return "EROFS below"


@probe("mount.new-api")
def new_api():
    scratch()
    os.makedirs("from")
    os.makedirs("to")
    touch("from/file")
    tree = check("open_tree", -100, b"from", 1)
    check("move_mount", tree, b"", -100, b"to", 4)
    os.stat("to/file")


@probe("fs.tmpfs", "tmpfs", 0, "")
@probe("fs.devpts-newinstance", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620")
@probe("fs.mqueue", "mqueue", CLONE["ipc"], "")
@probe("fs.sysfs", "sysfs", CLONE["net"], "")
@probe("fs.devtmpfs", "devtmpfs", 0, "")
def mountable(kind, flags, data):
    scratch(flags)
    os.mkdir("here")
    mount(kind, "here", kind, 0, data)


@probe("fs.proc")
def fs_proc():
    def inside():
        mount("proc", "/proc", "proc", 0)
        return os.readlink("/proc/self") != "1" and 1 or 0

    if os.geteuid() == 0:
        private()
        status = child(inside, CLONE["pid"])
    else:
        private(CLONE["pid"])
        status = child(inside)
    if status:
        raise Known("broken", "/proc/self is not 1")
    return "/proc/self is 1"


@probe("proc.host")
def proc_of_the_host():
    private()
    mount("proc", "/proc", "proc", 0)
    os.stat("/proc/self/status")


@probe("proc.read")
def proc_read():
    if not read("/proc/self/stat").startswith("%d (" % os.getpid()):
        raise Known("absent", "/proc is not mounted, or not of this PID namespace")


def overlay_here():
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(name)
    touch("lower/below")
    mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work")
    touch("merged/above")
    if sorted(os.listdir("merged")) != ["above", "below"] or os.listdir("upper") != ["above"]:
        raise Known("broken", "the layers do not show")


@probe("overlay")
def overlay():
    if os.geteuid() != 0:
        raise Known("blocked", "needs root; see overlay.in-userns")
    scratch()
    overlay_here()


@probe("overlay.in-userns")
def overlay_in_userns():
    become_root(CLONE["mnt"])
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("joey-probe", "/tmp", "tmpfs", 0)
    os.chdir("/tmp")
    overlay_here()


@probe("device.mknod")
def mknod():
    need_root()
    scratch()
    os.mknod("null", int("666", 8) | stat.S_IFCHR, os.makedev(1, 3))
    os.close(os.open("null", os.O_RDWR))


@probe("device.mknod-in-userns")
def mknod_in_userns():
    become_root(CLONE["mnt"])
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("joey-probe", "/tmp", "tmpfs", 0)
    os.mknod("/tmp/null", int("666", 8) | stat.S_IFCHR, os.makedev(1, 3))


@probe("device.no-mknod")
def no_mknod():
    if os.geteuid() == 0:
        scratch()
    else:
        become_root(CLONE["mnt"])
        mount("", "/", "", MS_REC | MS_PRIVATE)
        mount("joey-probe", "/tmp", "tmpfs", 0)
        os.chdir("/tmp")
    try:
        os.mknod("null", int("666", 8) | stat.S_IFCHR, os.makedev(1, 3))
    except OSError:
        if sys.exc_info()[1].errno == errno.EPERM:
            return "EPERM, as it should"
        raise
    raise Known("absent", "made one: this is root of the first user namespace")


# --- control groups


def hierarchies():
    """(version, mount, controllers) of what is mounted."""
    out = []
    known = [line.split()[0] for line in read("/proc/cgroups").splitlines() if line and line[0] != "#"]
    for line in read("/proc/self/mounts").splitlines():
        words = line.split()
        if len(words) > 3 and words[2] == "cgroup":
            out.append((1, words[1], [word for word in words[3].split(",") if word in known]))
        elif len(words) > 3 and words[2] == "cgroup2":
            out.append((2, words[1], read(words[1] + "/cgroup.controllers").split()))
    return out


def files_of(place):
    """The files of a child group, which is there for a moment; of the group where it can't be made."""
    group = "%s/joey-probe-%d" % (place, os.getpid())
    try:
        os.mkdir(group)
    except OSError:
        return sorted(os.listdir(place))
    try:
        return sorted([name for name in os.listdir(group) if os.path.isfile(group + "/" + name)])
    finally:
        os.rmdir(group)


def controller(name):
    for version, place, names in hierarchies():
        own = version == 2 and name == "blkio" and "io" or name
        if own in names:
            found = [each for each in files_of(place) if each.startswith(own + ".")]
            if version == 2 and not found:  # its parent does not hand it down: what the root of the hierarchy has
                found = [each for each in os.listdir(place) if each.startswith(own + ".")]
            detail = {"version": version, "mount": place, "files": found}
            if not os.access(place, os.W_OK):
                raise Known("blocked", "v%d at %s, not writable" % (version, place), detail)
            return "v%d at %s" % (version, place), detail
    enabled = [line.split()[0] for line in read("/proc/cgroups").splitlines()
               if line and line[0] != "#" and line.split()[-1] == "1"]
    if name not in enabled:
        raise Known("absent", "not in /proc/cgroups")
    if os.geteuid() != 0:
        raise Known("blocked", "not mounted, and mounting needs root")
    place = scratch()
    os.mkdir("group")
    result = call("mount", b"cgroup", b"group", b"cgroup", 0, name.encode("ascii"))
    if result < 0:
        raise Known(result == -errno.EBUSY and "blocked" or "absent", "not mounted; mount: " + name_of(-result))
    found = sorted([each for each in os.listdir(place + "/group") if each.startswith(name + ".")])
    return "v1, not mounted: joey can mount it", {"version": 1, "mount": "", "files": found}


def knob(name, names):
    detail = controller(name)[1]
    for each in names:
        if each in detail["files"]:
            return each
    raise Known("absent", "no " + " or ".join(names))


@probe("cgroup.layout")
def layout():
    found = hierarchies()
    one = [each for each in found if each[0] == 1 and each[2]]
    two = [each for each in found if each[0] == 2]
    kind = one and two and "hybrid" or one and "v1" or two and "v2" or "none"
    if kind == "none":
        raise Known("absent", "no hierarchy is mounted", {"kind": kind})
    return kind, {"kind": kind, "mounts": dict([(",".join(e[2]) or "unified", e[1]) for e in found])}


@probe("cgroup.v2")
def v2():
    for version, place, names in hierarchies():
        if version == 2:
            return "%s: %s" % (place, " ".join(names) or "no controllers"), {"mount": place}
    for line in read("/proc/filesystems").splitlines():
        if line.split()[-1:] == ["cgroup2"]:
            raise Known("absent", "known to the kernel, not mounted")
    raise Known("absent", "ENODEV")


# --- security


def install(code, flag=None):
    """A seccomp filter of these instructions. Source: seccomp(2)."""
    text = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(text)))
    if flag is None:
        check("prctl", 22, 2, program, 0, 0)
    else:
        check("seccomp", 1, flag, program)


def line(code, yes, no, value):
    return struct.pack("=HBBI", code, yes, no, value)


ALLOW = line(6, 0, 0, 0x7FFF0000)


@probe("seccomp.filter")
def seccomp_filter():
    check("prctl", 38, 1, 0, 0, 0)
    install(line(0x20, 0, 0, 0) + line(0x15, 0, 1, NUMBERS["sched_yield"]) + line(6, 0, 0, 0x50000 | errno.EXDEV) + ALLOW)
    result = call("sched_yield")
    if result != -errno.EXDEV:
        raise Known("broken", "the denied call answered %d" % result)
    return "EXDEV from the filter"


@probe("seccomp.filter-privileged")
def filter_privileged():
    install(ALLOW)


@probe("seccomp.tsync", 1)
@probe("seccomp.log-flag", 2)
@probe("seccomp.spec-allow", 4)
@probe("seccomp.wait-killable", 8 | 32)
def seccomp_flag(flag):
    check("prctl", 38, 1, 0, 0, 0)
    install(ALLOW, flag)


@probe("seccomp.log", 0x7FFC0000)
@probe("seccomp.kill-process", 0x80000000)
@probe("seccomp.notify", 0x7FC00000)
def seccomp_action(action):
    check("seccomp", 2, 0, ctypes.byref(ctypes.c_uint32(action)))
    if action == 0x7FC00000:
        check("prctl", 38, 1, 0, 0, 0)
        result = call("seccomp", 1, 8, ctypes.create_string_buffer(16))
        if result == -errno.EINVAL:  # no filter was given: the flag is known, or not
            install(ALLOW, 8)


@probe("no-new-privs", 38, 1)
@probe("capabilities.bounding", 24, 0)
@probe("capabilities.ambient", 47, 4)
@probe("capabilities.keep", 8, 1)
@probe("process.subreaper", 36, 1)
def prctl(option, value):
    check("prctl", option, value, 0, 0, 0)
    if option == 38:
        return str(check("prctl", 39, 0, 0, 0, 0))
    return None


@probe("keyring")
def keyring():
    check("keyctl", 1, b"_joey-probe", 0, 0, 0)


@probe("lsm.apparmor")
def apparmor():
    if read("/sys/module/apparmor/parameters/enabled").strip() != "Y":
        raise Known("absent", "not enabled")
    return read("/proc/self/attr/current").strip("\0\n") or "enabled"


@probe("lsm.selinux")
def selinux():
    for place in ("/sys/fs/selinux", "/selinux"):
        value = read(place + "/enforce").strip()
        if value:
            return value == "1" and "enforcing" or "permissive"
    raise Known("absent", "not enabled")


# --- tracing (the registers are x86-64's)


def tracee(body):
    pid = os.fork()
    if pid == 0:
        try:
            call("prctl", 1, 9, 0, 0, 0)
            check("ptrace", 0, 0, 0, 0)
            os.kill(os.getpid(), 19)
            body()
        finally:
            os._exit(0)
    if not os.WIFSTOPPED(os.waitpid(pid, 0)[1]):
        raise Known("blocked", "PTRACE_TRACEME was refused")
    return pid


@probe("ptrace.syscall")
def ptrace_syscall():
    if os.uname()[4] != "x86_64":
        raise Known("absent", "not tried on %s" % os.uname()[4])
    ends = os.pipe()
    pid = tracee(lambda: os.write(ends[1], str(call("getppid")).encode("ascii")))
    check("ptrace", 0x4200, pid, 0, 1)
    registers = (ctypes.c_ulong * 27)()
    entered = False
    while True:
        check("ptrace", 24, pid, 0, 0)
        if not os.WIFSTOPPED(os.waitpid(pid, 0)[1]):
            break
        check("ptrace", 12, pid, 0, ctypes.byref(registers))
        if registers[15] == NUMBERS["getppid"]:
            if entered:
                registers[10] = 4242
                check("ptrace", 13, pid, 0, ctypes.byref(registers))
            entered = not entered
    answer = os.read(ends[0], 64)
    if answer != b"4242":
        raise Known("broken", "the rewritten result came out as %s" % answer.decode("ascii"))
    return "result rewritten"


@probe("ptrace.seccomp-stop")
def ptrace_seccomp_stop():
    def body():
        check("prctl", 38, 1, 0, 0, 0)
        install(line(0x20, 0, 0, 0) + line(0x15, 0, 1, NUMBERS["getppid"]) + line(6, 0, 0, 0x7FF00000) + ALLOW)
        call("getppid")

    pid = tracee(body)
    check("ptrace", 0x4200, pid, 0, 0x80)
    check("ptrace", 7, pid, 0, 0)
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSTOPPED(status):
        raise Known("broken", "the tracee was not stopped")
    os.kill(pid, 9)
    return "event %d" % (status >> 16)


# --- networks


def attribute(kind, data):
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def rtnetlink(flags, body):
    """A RTM_NEWLINK message and its acknowledgement."""
    sock = socket.socket(16, socket.SOCK_RAW, 0)
    sock.bind((0, 0))
    sock.send(struct.pack("=IHHII", len(body) + 16, 16, flags | 1 | 4, 1, 0) + body)
    answer = sock.recv(65536)
    sock.close()
    kind, number = struct.unpack("=H", answer[4:6])[0], struct.unpack("=i", answer[16:20])[0]
    if kind == 2 and number:
        raise OSError(-number, os.strerror(-number))


def own_network():
    if os.geteuid() == 0:
        check("unshare", CLONE["net"])
    else:
        become_root(CLONE["net"])


def add_link(kind):
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, b"probe0\0")
    rtnetlink(0x600, body + attribute(18, attribute(1, kind)))


@probe("net.veth", b"veth")
@probe("net.dummy", b"dummy")
def link(kind):
    own_network()
    add_link(kind)


@probe("net.bridge")
def bridge():
    own_network()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(sock.fileno(), 0x89A0, b"probe0\0")


@probe("net.move-by-pid")
def move_by_pid():
    own_network()
    add_link(b"veth")
    pid, gate = waiting(CLONE["net"])
    try:
        index = libc.if_nametoindex(b"probe0")
        rtnetlink(0, struct.pack("=BxHiII", 0, 0, index, 0, 0) + attribute(19, struct.pack("=I", pid)))
        if libc.if_nametoindex(b"probe0"):
            raise Known("broken", "the link is still here")
    finally:
        os.close(gate)
        os.waitpid(pid, 0)


# --- running them


def attempt(function, args):
    try:
        answer = function(*args)
    except Known:
        known = sys.exc_info()[1]
        return known.state, known.answer, known.detail
    except (OSError, IOError):
        number = sys.exc_info()[1].errno or 0
        return state_of(number), name_of(number), {}
    if isinstance(answer, tuple):
        return "works", answer[0], answer[1]
    if answer is None:
        answer = ""
    return "works", str(answer), {}


def run_one(function, args):
    """[state, answer, detail] from a child of its own; None where it said nothing."""
    ends = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            call("prctl", 1, 9, 0, 0, 0)
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.write(ends[1], json.dumps(attempt(function, args)).encode("ascii"))
        finally:
            os._exit(0)
    os.close(ends[1])
    text = b""
    end = time.time() + LIMIT
    while True:
        left = end - time.time()
        if left <= 0 or not select.select([ends[0]], [], [], left)[0]:
            break
        chunk = os.read(ends[0], 65536)
        if not chunk:
            break
        text += chunk
    for target in (-pid, pid):
        try:
            os.kill(target, signal.SIGKILL)
        except OSError:
            pass
    os.waitpid(pid, 0)
    os.close(ends[0])
    try:
        return json.loads(text.decode("ascii"))
    except ValueError:
        return ["broken", "no answer within %g s, or it died" % LIMIT, {}]


def syscall(name, args, may_be_denied):
    words = []
    for arg in args:
        if isinstance(arg, type(u"")):
            arg = arg.encode("ascii")
        words.append(arg)
    result = call(name, *words)
    if result == -errno.ENOSYS:
        raise Known("absent", "ENOSYS")
    if result == -errno.EPERM and not may_be_denied:
        raise Known("blocked", "EPERM")
    return result < 0 and name_of(-result) or str(result)


def main():
    CONFIG.update(json.loads(sys.stdin.readline()))
    uname = os.uname()
    NUMBERS.update(CONFIG["numbers"].get(uname[4], {}))
    findings = {}
    if NUMBERS:
        for name, args, may_be_denied in CONFIG["syscalls"]:
            findings["syscall." + name] = run_one(syscall, (name, args, may_be_denied))
    for feature, function, args in PROBES:
        if NUMBERS:
            findings[feature] = run_one(function, args)
    for name in CONFIG["controllers"]:
        findings["cgroup." + name] = run_one(controller, (name,))
    for feature, name, names in CONFIG["knobs"]:
        findings[feature] = run_one(knob, (name, names))
    distribution = ""
    for row in read("/etc/os-release").splitlines():
        if row.startswith("PRETTY_NAME="):
            distribution = row[12:].strip("\"'")
    if not distribution:
        distribution = (read("/etc/redhat-release") or read("/etc/debian_version")).strip()
    machine = {"release": uname[2], "version": uname[3], "machine": uname[4], "host": uname[1],
               "distribution": distribution}
    key = {"boot": read("/proc/sys/kernel/random/boot_id").strip(), "kernel": uname[2], "uid": str(os.geteuid())}
    sys.stdout.write(json.dumps({"findings": findings, "machine": machine, "key": key,
                                 "python": "%d.%d.%d" % sys.version_info[:3]}) + "\n")


if __name__ == "__main__":
    main()
