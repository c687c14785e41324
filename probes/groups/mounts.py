"""Root change, propagation, read-only binds, overlay, FUSE and the file systems a container needs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from ...compat import files, libc, mounting
from ...compat.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MNT_DETACH,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_MOVE,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    OPEN_TREE_CLONE,
    SIGCHLD,
    UMOUNT_NOFOLLOW,
)
from ..catalog import Answer, Answered, Group
from ..trying import (
    become_namespace_root,
    check,
    child_in_pid_namespace,
    expect_errno,
    private_namespaces,
    scratch,
    touch,
)

GROUP = Group("mounts", "mounts and file systems")


@GROUP.probe("mount.pivot-root", "pivot_root on a bind mount", "the root changes by MS_MOVE and chroot")
def pivot_root() -> Answer:
    scratch()
    os.mkdir("root")
    libc.mount("root", "root", "", MS_BIND)
    mounting.enter_by_pivot_root("root")
    if os.listdir("/"):
        raise Answered("broken", "the new root is not the directory it should be")
    return None


@GROUP.probe("mount.move", "mount(MS_MOVE) and chroot", "no root change without pivot_root")
def move() -> Answer:
    place = scratch()
    os.mkdir("root")
    libc.mount("root", f"{place}/root", "", MS_BIND)
    os.chdir(f"{place}/root")
    libc.mount(f"{place}/root", "/", "", MS_MOVE)
    os.chroot(".")
    return None


def _propagation(flag: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        scratch()
        libc.mount("", "/", "", flag | MS_REC)
        return None

    return attempt


for _name, _flag in (("private", MS_PRIVATE), ("slave", MS_SLAVE), ("shared", MS_SHARED)):
    GROUP.probe(f"mount.{_name}", f"mount(MS_REC|MS_{_name.upper()})", "mounts of host and container mix")(
        _propagation(_flag)
    )


@GROUP.probe("mount.bind-readonly", "mount(MS_REMOUNT|MS_BIND|MS_RDONLY), then a write", "no read-only paths")
def bind_readonly() -> Answer:
    scratch()
    os.mkdir("here")
    libc.mount("here", "here", "", MS_BIND)
    libc.mount("", "here", "", MS_REMOUNT | MS_BIND | MS_RDONLY)
    expect_errno(lambda: touch("here/file"), errno.EROFS)
    return "EROFS"


@GROUP.probe("mount.bind-file", "bind /dev/null over a file", "no masked paths")
def bind_file() -> Answer:
    scratch()
    touch("file")
    libc.mount("/dev/null", "file", "", MS_BIND)
    if not stat.S_ISCHR(os.stat("file").st_mode):
        raise Answered("broken", "the file is not covered")
    return None


@GROUP.probe("mount.setattr-recursive", "mount_setattr(AT_RECURSIVE, RDONLY), then a write", "read-only mount by mount")
def setattr_recursive() -> Answer:
    scratch()
    os.makedirs("here/below")
    libc.mount("here", "here", "", MS_BIND)
    libc.mount("below", "here/below", "tmpfs", 0)
    mounting.setattr_tree("here", MOUNT_ATTR_RDONLY, 0)
    expect_errno(lambda: touch("here/below/file"), errno.EROFS)
    return "EROFS below"


@GROUP.probe(
    "mount.new-api", "open_tree(OPEN_TREE_CLONE) and move_mount", "old mount calls, which name targets by path"
)
def new_api() -> Answer:
    scratch()
    os.makedirs("from")
    os.makedirs("to")
    touch("from/file")
    libc.move_mount(libc.open_tree(AT_FDCWD, "from", OPEN_TREE_CLONE), "to")
    os.stat("to/file")
    return None


@GROUP.probe("mount.nosymfollow", "mount(MS_NOSYMFOLLOW)", "links on hostile volumes are followed")
def nosymfollow() -> Answer:
    scratch()
    os.mkdir("here")
    libc.mount("t", "here", "tmpfs", MS_NOSYMFOLLOW)
    os.symlink("target", "here/link")
    touch("here/target")
    try:
        os.stat("here/link")
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "ELOOP"
        raise
    raise Answered("absent", "the flag is ignored")


@GROUP.probe("mount.umount-nofollow", "umount2(UMOUNT_NOFOLLOW)", "unmounting follows links")
def umount_nofollow() -> Answer:
    scratch()
    os.mkdir("here")
    libc.mount("t", "here", "tmpfs", 0)
    libc.umount("here", UMOUNT_NOFOLLOW | MNT_DETACH)
    return None


@GROUP.probe(
    "mount.idmapped",
    "mount_setattr(MOUNT_ATTR_IDMAP) on the root file system",
    "volumes must be chowned for user namespaces",
)
def idmapped() -> Answer:
    if os.geteuid() != 0:
        raise Answered("blocked", "needs root")
    private_namespaces()
    read_end, write_end = os.pipe()
    pid = libc.clone(CLONE_NEWUSER | SIGCHLD)
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    try:
        for name in ("uid_map", "gid_map"):
            files.write_text(f"/proc/{pid}/{name}", "0 100000 65536\n")
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        tree = libc.open_tree(AT_FDCWD, "/usr", OPEN_TREE_CLONE)
        libc.mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, libc.MountAttr(MOUNT_ATTR_IDMAP, 0, 0, namespace))
    finally:
        os.close(write_end)
        os.waitpid(pid, 0)
    return None


def _mountable(fstype: str, flags: int = 0, data: str = "") -> Callable[[], Answer]:
    def attempt() -> Answer:
        scratch(flags)
        os.mkdir("here")
        libc.mount(fstype, "here", fstype, 0, data)
        return None

    return attempt


GROUP.probe("fs.tmpfs", "mount -t tmpfs", "no /dev or /run of its own")(_mountable("tmpfs"))
GROUP.probe("fs.devpts-newinstance", "mount -t devpts -o newinstance", "terminals of host and container mix")(
    _mountable("devpts", 0, "newinstance,ptmxmode=0666,mode=0620")
)
GROUP.probe("fs.mqueue", "mount -t mqueue", "no /dev/mqueue")(_mountable("mqueue", CLONE_NEWIPC))
GROUP.probe("fs.sysfs", "mount -t sysfs in a network namespace", "/sys is the host's")(
    _mountable("sysfs", CLONE_NEWNET)
)
GROUP.probe("fs.debugfs", "mount -t debugfs", "nothing for containers")(_mountable("debugfs"))
GROUP.probe("fs.securityfs", "mount -t securityfs", "no AppArmor policy from here")(_mountable("securityfs"))
GROUP.probe("fs.hugetlbfs", "mount -t hugetlbfs", "no huge page files")(_mountable("hugetlbfs"))
GROUP.probe("fs.binfmt-misc", "mount -t binfmt_misc", "no foreign binaries")(_mountable("binfmt_misc"))
GROUP.probe("fs.devtmpfs", "mount -t devtmpfs", "devices are made by mknod")(_mountable("devtmpfs"))


@GROUP.probe("fs.proc", "mount -t proc in a pid namespace", "/proc is the host's")
def proc() -> Answer:
    def inside() -> int:
        libc.mount("proc", "/proc", "proc", 0)
        return 0 if os.readlink("/proc/self") == "1" else 1

    if child_in_pid_namespace(inside):
        raise Answered("broken", "/proc/self is not 1")
    return "/proc/self is 1"


@GROUP.probe("proc.host", "mount -t proc in a mount namespace", "containers without a PID namespace have no /proc")
def proc_of_the_host() -> Answer:
    private_namespaces()
    libc.mount("proc", "/proc", "proc", 0)
    os.stat("/proc/self/status")
    return None


@GROUP.probe("proc.read", "/proc/self/stat", "nothing can be known of processes", alone=False)
def proc_read() -> Answer:
    if not files.read_line("/proc/self/stat").startswith(f"{os.getpid()} ("):
        raise Answered("absent", "/proc is not mounted, or not of this PID namespace")
    return None


def _overlay_here() -> None:
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(name)
    touch("lower/below")
    libc.mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work")
    touch("merged/above")
    if sorted(os.listdir("merged")) != ["above", "below"] or os.listdir("upper") != ["above"]:
        raise Answered("broken", "the layers do not show")


@GROUP.probe("overlay", "mount -t overlay on tmpfs, then a write", "image layers by fuse-overlayfs, links or copies")
def overlay() -> Answer:
    if os.geteuid() != 0:
        raise Answered("blocked", "needs root; see overlay.in-userns")
    scratch()
    _overlay_here()
    return None


@GROUP.probe("overlay.in-userns", "mount -t overlay in a user namespace", "plain users need fuse-overlayfs")
def overlay_in_userns() -> Answer:
    become_namespace_root(CLONE_NEWNS)
    libc.mount("", "/", "", MS_REC | MS_PRIVATE)
    libc.mount("joey-probe", "/tmp", "tmpfs", 0)
    os.chdir("/tmp")
    _overlay_here()
    return None


@GROUP.probe("overlay.metacopy", "mount -t overlay -o metacopy=on", "chown of a file copies it up")
def overlay_metacopy() -> Answer:
    scratch()
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(name)
    libc.mount("o", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work,metacopy=on,redirect_dir=on")
    return None


def _fuse_here() -> str:
    fd = os.open("/dev/fuse", os.O_RDWR)
    os.mkdir("here")
    libc.mount("joey-probe", "here", "fuse", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0")
    request = os.read(fd, 1 << 20)
    major, minor = int.from_bytes(request[40:44], "little"), int.from_bytes(request[44:48], "little")
    libc.umount("here", MNT_DETACH)
    return f"protocol {major}.{minor}"


@GROUP.probe("fuse", "mount -t fuse on an own /dev/fuse", "no lxcfs view of /proc, no fuse-overlayfs")
def fuse() -> Answer:
    if os.geteuid() != 0:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    scratch()
    return _fuse_here()


@GROUP.probe("fuse.in-userns", "mount -t fuse in a user namespace", "plain users need fusermount")
def fuse_in_userns() -> Answer:
    become_namespace_root(CLONE_NEWNS)
    libc.mount("", "/", "", MS_REC | MS_PRIVATE)
    libc.mount("joey-probe", "/tmp", "tmpfs", 0)
    os.chdir("/tmp")
    return _fuse_here()


@GROUP.probe("fuse.overlayfs", "fuse-overlayfs(1)", "no layers for plain users where overlay is refused", alone=False)
def fuse_overlayfs() -> Answer:
    return find_program("fuse-overlayfs")


def find_program(name: str) -> str:
    """Where a program is; Answered("absent") where it is not."""
    path = files.find_program(name)
    if not path:
        raise Answered("absent", "not installed")
    return path


@GROUP.probe("tmpfs.xattr-trusted", "setxattr(trusted.*) on tmpfs", "no overlay on tmpfs with whiteouts")
def xattr_trusted() -> Answer:
    scratch()
    touch("file")
    check("setxattr", b"file", b"trusted.joey", b"1", 1, 0)
    return None


@GROUP.probe("tmpfs.xattr-user", "setxattr(user.*) on tmpfs", "no recorded ownership on tmpfs")
def xattr_user() -> Answer:
    scratch()
    touch("file")
    check("setxattr", b"file", b"user.joey", b"1", 1, 0)
    return None


@GROUP.probe("device.mknod", "mknod of a character device on tmpfs", "devices are bound from the host")
def mknod() -> Answer:
    if os.geteuid() != 0:
        raise Answered("blocked", "needs root")
    scratch()
    os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.close(os.open("null", os.O_RDWR))
    return None


@GROUP.probe("device.mknod-in-userns", "mknod in a user namespace", "devices are bound from the host")
def mknod_in_userns() -> Answer:
    become_namespace_root(CLONE_NEWNS)
    libc.mount("", "/", "", MS_REC | MS_PRIVATE)
    libc.mount("joey-probe", "/tmp", "tmpfs", 0)
    os.mknod("/tmp/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    return None


@GROUP.probe("device.no-mknod", "mknod refused to root of this user namespace", "device rules need a cgroup")
def no_mknod() -> Answer:
    """A process outside of the first user namespace makes no device nodes: what device rules are for. Linux 3.8."""
    if os.geteuid() == 0:
        scratch()
    else:
        become_namespace_root(CLONE_NEWNS)
        libc.mount("", "/", "", MS_REC | MS_PRIVATE)
        libc.mount("joey-probe", "/tmp", "tmpfs", 0)
        os.chdir("/tmp")
    try:
        os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        return "EPERM, as it should"
    raise Answered("absent", "made one: this is root of the first user namespace")


@GROUP.probe("device.loop", "/dev/loop-control or a free /dev/loopN", "no loop images", alone=False)
def loop() -> Answer:
    import fcntl

    try:
        fd = os.open("/dev/loop-control", os.O_RDWR)
    except FileNotFoundError:
        os.close(os.open("/dev/loop0", os.O_RDONLY))
        return "no /dev/loop-control (Linux 3.1); /dev/loop0 is there"
    try:
        return f"next is /dev/loop{fcntl.ioctl(fd, 0x4C82)}"
    finally:
        os.close(fd)


def _filesystem(name: str) -> Callable[[], Answer]:
    def attempt() -> Answer:
        for line in files.read_text("/proc/filesystems").splitlines():
            if line.split()[-1] == name:
                return "listed in /proc/filesystems"
        raise Answered("absent", "not in /proc/filesystems (a module may still bring it)")

    return attempt


for _fs in ("ext4", "xfs", "btrfs", "squashfs"):
    GROUP.probe(f"fs.{_fs}", f"{_fs}", f"no {_fs} disks or images", alone=False)(_filesystem(_fs))
