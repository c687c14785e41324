/*
 * System calls of newer kernels made of those of Linux 2.6.32, inside the process that calls them.
 *
 * One piece of position-independent code for both ways of getting there: call sites of a rewritten C library jump to
 * it (compat/shim/rewrite.py), and the tracer diverts a stopped thread into it (compat/shim/divert.py). It has no data
 * that changes, so threads, signal handlers and vfork children may all be in it at once. It uses no vector registers,
 * for a system call leaves those alone, and little stack, for goroutines have little.
 *
 * tools/gen_code compiles this file into compat/shim/code.py.
 *
 * A path or a structure at an address that can't be read is a SIGSEGV here where the kernel answers EFAULT.
 *
 * Sources: syscalls(2) and each call's own manual page; the numbers are those of asm/unistd_64.h.
 */

typedef unsigned int u32;
typedef unsigned long u64;
typedef unsigned short u16;

/* What the kernel lacks; the bits are those of compat/shim/emulations.py. */
enum {
    EMPTY_PATH = 1 << 0,
    NO_AUTOMOUNT = 1 << 1,
    RELEASE = 1 << 2,
    PRLIMIT = 1 << 3,
    GETRANDOM = 1 << 4,
    OPEN_PATH = 1 << 5,
    TMPFILE = 1 << 6,
    RENAMEAT2 = 1 << 7,
    MEMFD = 1 << 8,
    STATX = 1 << 9,
    FACCESSAT2 = 1 << 10,
    EPOLL_PWAIT2 = 1 << 11,
    COPY_FILE_RANGE = 1 << 12,
    CLOSE_RANGE = 1 << 13,
    ACCEPT4 = 1 << 14,
    RECVMMSG = 1 << 15,
    SENDMMSG = 1 << 16,
    EXECVEAT = 1 << 17,
    SYNCFS = 1 << 18,
    BOOTTIME = 1 << 19,
};

/* The head of the code: two ways in, and what is filled in for one kernel. Offsets are known to compat/shim/. */
struct config {
    u32 missing;
    char release[65];
};
__asm__(
    ".section .head, \"ax\"\n"
    /* +0: called by a stub, with the red zone already stepped over; the registers are a system call's */
    "jmp 1f\n"
    ".balign 8\n"
    /* +8: the tracer puts a thread here, with the address to go on at in rcx, where `syscall` leaves it too */
    "lea -128(%rsp), %rsp\n"
    "push %rcx\n"
    "call 1f\n"
    "pop %rcx\n"
    "lea 128(%rsp), %rsp\n"
    "jmp *%rcx\n"
    ".balign 32\n"
    /* +32 */
    ".globl config\n"
    "config: .fill 72, 1, 0\n"
    "1:\n"
    "pushfq\n cld\n"
    "push %rdi\n push %rsi\n push %rdx\n push %r8\n push %r9\n push %r10\n push %rbp\n"
    "mov %rsp, %rbp\n"
    "and $-16, %rsp\n"
    "push %r9\n push %r8\n push %r10\n push %rdx\n push %rsi\n push %rdi\n"
    "mov %rsp, %rsi\n"
    "mov %rax, %rdi\n"
    "call emulate\n"
    "mov %rbp, %rsp\n"
    "pop %rbp\n pop %r10\n pop %r9\n pop %r8\n pop %rdx\n pop %rsi\n pop %rdi\n"
    "popfq\n"
    "ret\n"
    ".text\n");
extern const volatile struct config config __attribute__((visibility("hidden")));

static inline __attribute__((always_inline)) long call6(long number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
    long result;
    register u64 r10 __asm__("r10") = d;
    register u64 r8 __asm__("r8") = e;
    register u64 r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
static __attribute__((noinline)) long call(long number, u64 a, u64 b, u64 c, u64 d)
{
    return call6(number, a, b, c, d, 0, 0);
}
#define CALL(number, a, b, c, d) call(number, (u64)(a), (u64)(b), (u64)(c), (u64)(d))

enum {
    READ = 0, WRITE = 1, OPEN = 2, CLOSE = 3, FSTAT = 5, MMAP = 9, MUNMAP = 11, PREAD = 17, PWRITE = 18, GETPID = 39,
    ACCEPT = 43, SENDMSG = 46, RECVMSG = 47, EXECVE = 59, UNAME = 63, FCNTL = 72, FCHOWN = 93, GETRLIMIT = 97,
    GETUID = 102, GETGID = 104, GETEUID = 107, GETEGID = 108, SYSCTL = 156, SETRLIMIT = 160, FCHMOD = 91, LSEEK = 8, GETTID = 186, SYNC = 162, GETDENTS = 217,
    CLOCK_GETTIME = 228, CLOCK_NANOSLEEP = 230, OPENAT = 257, FCHOWNAT = 260, NEWFSTATAT = 262, UNLINKAT = 263,
    RENAMEAT = 264, LINKAT = 265, FACCESSAT = 269, UNSHARE = 272, EPOLL_PWAIT = 281, TIMERFD_CREATE = 283,
};
enum {
    ENOENT = 2, EINTR = 4, EBADF = 9, EAGAIN = 11, EACCES = 13, EEXIST = 17, EISDIR = 21, EINVAL = 22, ENOSYS = 38,
    EPERM = 1, ENXIO = 6, ELOOP = 40, EOPNOTSUPP = 95, ENAMETOOLONG = 36, EXDEV = 18,
};
enum {
    AT_FDCWD = -100, AT_SYMLINK_NOFOLLOW = 0x100, AT_EACCESS = 0x200, AT_SYMLINK_FOLLOW = 0x400,
    AT_NO_AUTOMOUNT = 0x800, AT_EMPTY_PATH = 0x1000, AT_STATX_SYNC_TYPE = 0x6000,
};
enum {
    O_RDWR = 2, O_CREAT = 0100, O_EXCL = 0200, O_NOCTTY = 0400, O_NONBLOCK = 04000, O_DIRECTORY = 0200000,
    O_NOFOLLOW = 0400000, O_CLOEXEC = 02000000, O_PATH = 010000000, O_TMPFILE = 020000000,
};

struct stat { /* asm/stat.h */
    u64 dev, ino, nlink;
    u32 mode, uid, gid, pad;
    u64 rdev;
    long size, blksize, blocks;
    u64 atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns;
    long unused[3];
};

/* "PREFIX" and a number's digits, written at `out`; the end. `base` is 10 or 16. */
static char *put_number(char *out, u64 number, u32 base)
{
    char digits[20];
    int count = 0;
    do {
        u32 digit = number % base;
        digits[count++] = digit < 10 ? '0' + digit : 'a' + digit - 10;
    } while (number /= base);
    while (count) *out++ = digits[--count];
    *out = 0;
    return out;
}

static char *put_text(char *out, const char *text)
{
    while ((*out = *text++)) out++;
    return out;
}

enum { NAME = 48 };

/* The folder of this thread's descriptors in /proc, at `out` (NAME bytes); the end. Threads may have tables of their own. */
static char *fd_folder(char *out)
{
    out = put_number(put_text(out, "/proc/self/task/"), CALL(GETTID, 0, 0, 0, 0), 10);
    return put_text(out, "/fd");
}

static char *fd_name(char *out, int fd)
{
    out = fd_folder(out);
    *out++ = '/';
    return put_number(out, (u32)fd, 10);
}

static u64 ticks(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

/* A new file without a name, in a folder. The name it has for a moment is not a secret: O_EXCL guards it. */
static __attribute__((noinline)) long nameless_file(int folder, u32 flags, u32 mode)
{
    char name[40] = ".joey-";
    for (int tries = 0; tries < 100; tries++) {
        put_number(put_number(name + 6, CALL(GETPID, 0, 0, 0, 0), 16), ticks(), 16);
        long fd = CALL(OPENAT, folder, name, flags | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
        if (fd == -EEXIST) continue;
        if (fd >= 0) CALL(UNLINKAT, folder, name, 0, 0);
        return fd;
    }
    return -EEXIST;
}

static int is_empty(const char *path)
{
    return !*path;
}

static long stat_at(int folder, const char *path, struct stat *out, u32 flags)
{
    if (config.missing & NO_AUTOMOUNT) flags &= ~AT_NO_AUTOMOUNT;
    if (flags & AT_EMPTY_PATH && config.missing & EMPTY_PATH) {
        flags &= ~AT_EMPTY_PATH;
        if (is_empty(path)) {
            if (folder != AT_FDCWD) return CALL(FSTAT, folder, out, 0, 0);
            path = ".";
        }
    }
    return CALL(NEWFSTATAT, folder, path, out, flags);
}

static __attribute__((noinline)) long open_path(int folder, const char *path, u32 flags)
{
    /* not for a device to be touched, nor for a pipe to wait */
    u32 kept = (flags & (O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) | O_NONBLOCK | O_NOCTTY;
    long fd = CALL(OPENAT, folder, path, kept, 0);
    /* a link, a socket, what may not be read can't be held; chmod without following links asks, and copes */
    if (flags & O_NOFOLLOW && (fd == -ELOOP || fd == -ENXIO || fd == -EACCES || fd == -EPERM)) return -EOPNOTSUPP;
    return fd;
}

static __attribute__((noinline)) long open_tmpfile(int folder, const char *path, u32 flags, u32 mode)
{
    if (!(flags & 3)) return -EINVAL;
    if (!(flags & O_EXCL)) return -EOPNOTSUPP; /* it may get a name later, which a file that lost its own can't */
    long inside = CALL(OPENAT, folder, path, O_DIRECTORY | O_CLOEXEC, 0);
    if (inside < 0) return inside;
    long fd = nameless_file(inside, flags & ~(O_TMPFILE | O_DIRECTORY | O_EXCL), mode);
    CALL(CLOSE, inside, 0, 0, 0);
    return fd;
}

static long open_at(int folder, const char *path, u32 flags, u32 mode)
{
    if (flags & O_PATH && config.missing & OPEN_PATH) return open_path(folder, path, flags);
    if (flags & O_TMPFILE && config.missing & TMPFILE) return open_tmpfile(folder, path, flags, mode);
    return CALL(OPENAT, folder, path, flags, mode);
}

static long prlimit(u32 pid, u32 resource, const void *new, void *old)
{
    u64 wanted[2] = {0, 0}, found[2];
    if (pid && pid != (u32)CALL(GETPID, 0, 0, 0, 0) && pid != (u32)CALL(GETTID, 0, 0, 0, 0)) return -ENOSYS;
    if (new) wanted[0] = ((const u64 *)new)[0], wanted[1] = ((const u64 *)new)[1]; /* the two may be the same */
    long result = CALL(GETRLIMIT, resource, found, 0, 0);
    if (!result && new) result = CALL(SETRLIMIT, resource, wanted, 0, 0);
    if (!result && old) ((u64 *)old)[0] = found[0], ((u64 *)old)[1] = found[1];
    return result;
}

/* Without a descriptor to spare: sysctl(2) gives random UUIDs, of whose 16 bytes two are not wholly random. */
static __attribute__((noinline)) long random_by_sysctl(char *out, u64 length)
{
    int names[3] = {1, 40, 6}; /* CTL_KERN, KERN_RANDOM, RANDOM_UUID */
    unsigned char uuid[16];
    u64 size, done = 0;
    struct { int *name; int count; void *old; u64 *size; void *new; u64 new_size, unused[4]; } request;
    while (done < length) {
        size = 16;
        request.name = names, request.count = 3, request.old = uuid, request.size = &size;
        request.new = 0, request.new_size = 0;
        if (CALL(SYSCTL, &request, 0, 0, 0) || size != 16) return -ENOSYS;
        for (int place = 0; place < 16 && done < length; place++)
            if (place != 6 && place != 8) out[done++] = uuid[place];
    }
    return done;
}

/*
 * A process about to change its root may find no /dev/urandom there: it takes a descriptor of it along, under one of
 * a few numbers, where get_random looks for it. Daemons that confine themselves close what they don't know before.
 */
static const u16 kept_at[] = {992, 500, 250, 60};
enum { KEPT = sizeof kept_at / sizeof *kept_at, NEIGHBOURS = 4 };

static int is_urandom(int fd)
{
    struct stat found;
    long result = CALL(FSTAT, fd, &found, 0, 0);
    if (result == -EACCES && fd == kept_at[0]) return 1; /* only a filter says so (OpenSSH's does): trust the number */
    return !result && (found.mode & 0170000) == 0020000 && found.rdev == 0x109;
}

static int kept_urandom(void)
{
    for (int place = 0; place < KEPT; place++)
        for (int fd = kept_at[place]; fd < kept_at[place] + NEIGHBOURS; fd++)
            if (is_urandom(fd)) return fd;
    return -1;
}

static __attribute__((noinline)) long change_root(const char *path)
{
    long fd = kept_urandom() >= 0 ? -1 : CALL(OPEN, "/dev/urandom", O_CLOEXEC, 0, 0), kept = -1;
    if (fd >= 0) {
        for (int place = 0; place < KEPT && kept < 0; place++) {
            kept = CALL(FCNTL, fd, 1030, kept_at[place], 0); /* F_DUPFD_CLOEXEC */
            if (kept < kept_at[place] + NEIGHBOURS) continue;
            CALL(CLOSE, kept, 0, 0, 0);
            kept = -1;
        }
        CALL(CLOSE, fd, 0, 0, 0);
    }
    long result = CALL(161, path, 0, 0, 0);
    if (result && kept >= 0) CALL(CLOSE, kept, 0, 0, 0);
    return result;
}

static __attribute__((noinline)) long get_random(char *out, u64 length, u32 flags)
{
    if (flags & ~7u) return -EINVAL;
    if (length > 0x1ffffff) length = 0x1ffffff;
    long fd = CALL(OPEN, "/dev/urandom", O_CLOEXEC, 0, 0);
    int is_kept = 0;
    if (fd < 0) {
        fd = kept_urandom();
        if (fd < 0) return random_by_sysctl(out, length);
        is_kept = 1;
    }
    u64 done = 0;
    long count = 0;
    while (done < length) {
        count = CALL(READ, fd, out + done, length - done, 0);
        if (count == -EINTR && !done) continue;
        if (count <= 0) break;
        done += count;
    }
    if (!is_kept) CALL(CLOSE, fd, 0, 0, 0);
    return done || !length ? (long)done : count ? count : -ENOSYS;
}

static __attribute__((noinline)) long rename_at(int from, const char *old, int to, const char *new, u32 flags)
{
    if (!flags) return CALL(RENAMEAT, from, old, to, new);
    if (flags != 1) return -EINVAL; /* as a file system says that can't exchange */
    struct stat found;
    long result = CALL(NEWFSTATAT, from, old, &found, AT_SYMLINK_NOFOLLOW);
    if (result) return result;
    if ((found.mode & 0170000) != 0040000) {
        result = call6(LINKAT, from, (u64)old, to, (u64)new, 0, 0);
        if (!result) {
            result = CALL(UNLINKAT, from, old, 0, 0);
            if (result) CALL(UNLINKAT, to, new, 0, 0); /* not ours to move */
            return result;
        }
        if (result != -EPERM) return result;
    }
    /* a folder, or no hard links here: then what comes between is replaced */
    result = CALL(NEWFSTATAT, to, new, &found, AT_SYMLINK_NOFOLLOW);
    if (!result) return -EEXIST;
    return result == -ENOENT ? CALL(RENAMEAT, from, old, to, new) : result;
}

static __attribute__((noinline)) long memory_file(u32 flags)
{
    if (flags & ~0x1bu) return -EINVAL; /* CLOEXEC, ALLOW_SEALING, NOEXEC_SEAL, EXEC; no huge pages */
    u32 mode = flags & 8 ? 0666 : 0777, how = O_RDWR | (flags & 1 ? O_CLOEXEC : 0);
    long result = -ENOSYS;
    for (int place = 0; place < 3; place++) {
        long folder = CALL(OPEN, place == 0 ? "/dev/shm" : place == 1 ? "/tmp" : "/var/tmp", O_DIRECTORY | O_CLOEXEC, 0, 0);
        if (folder < 0) continue;
        result = nameless_file(folder, how, mode);
        CALL(CLOSE, folder, 0, 0, 0);
        if (result >= 0) CALL(FCHMOD, result, mode, 0, 0); /* whatever the umask */
        if (result >= 0) return result;
    }
    return result;
}

struct statx { /* linux/stat.h */
    u32 mask, blksize;
    u64 attributes;
    u32 nlink, uid, gid;
    u16 mode, pad;
    u64 ino, size, blocks, attributes_mask;
    struct { long sec; u32 nsec; int pad; } atime, btime, ctime, mtime;
    u32 rdev_major, rdev_minor, dev_major, dev_minor;
    u64 spare[14];
};

static u32 major(u64 device) { return (device >> 8 & 0xfff) | (device >> 32 & ~0xfffu); }
static u32 minor(u64 device) { return (device & 0xff) | (device >> 12 & ~0xffu); }

static __attribute__((noinline)) long stat_extended(int folder, const char *path, u32 flags, u32 mask, struct statx *out)
{
    struct stat from;
    if (mask >> 31 || flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE)) return -EINVAL;
    long result = stat_at(folder, path, &from, flags & ~AT_STATX_SYNC_TYPE);
    if (result) return result;
    for (u32 place = 0; place < sizeof *out / 8; place++) ((volatile u64 *)out)[place] = 0;
    out->mask = 0x7ff; /* STATX_BASIC_STATS */
    out->blksize = from.blksize;
    out->nlink = from.nlink, out->uid = from.uid, out->gid = from.gid, out->mode = from.mode;
    out->ino = from.ino, out->size = from.size, out->blocks = from.blocks;
    out->atime.sec = from.atime, out->atime.nsec = from.atime_ns;
    out->mtime.sec = from.mtime, out->mtime.nsec = from.mtime_ns;
    out->ctime.sec = from.ctime, out->ctime.nsec = from.ctime_ns;
    out->rdev_major = major(from.rdev), out->rdev_minor = minor(from.rdev);
    out->dev_major = major(from.dev), out->dev_minor = minor(from.dev);
    return 0;
}

static __attribute__((noinline)) long may_access(int folder, const char *path, u32 mode, u32 flags)
{
    struct stat found;
    if (mode & ~7u || flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) return -EINVAL;
    long user = CALL(GETEUID, 0, 0, 0, 0);
    int same = user == CALL(GETUID, 0, 0, 0, 0) && CALL(GETEGID, 0, 0, 0, 0) == CALL(GETGID, 0, 0, 0, 0);
    if (same) flags &= ~AT_EACCESS;
    if (flags & AT_EMPTY_PATH && !is_empty(path)) flags &= ~AT_EMPTY_PATH;
    long result;
    if (!flags) return CALL(FACCESSAT, folder, path, mode, 0);
    if (!(flags & AT_EACCESS) && flags & AT_EMPTY_PATH && folder != AT_FDCWD) {
        char name[NAME];
        result = CALL(FSTAT, folder, &found, 0, 0);
        if (result) return result;
        fd_name(name, folder);
        return CALL(FACCESSAT, AT_FDCWD, name, mode, 0);
    }
    result = stat_at(folder, path, &found, flags & ~AT_EACCESS);
    if (result || !mode) return result;
    if ((found.mode & 0170000) == 0120000) return 0; /* a link's own mode allows everything */
    if (!(flags & AT_EACCESS)) return CALL(FACCESSAT, folder, path, mode, 0);
    if (user) return -ENOSYS; /* by the groups too: the C library does that */
    return mode & 1 && !(found.mode & 0111) && (found.mode & 0170000) != 0040000 ? -EACCES : 0;
}

static long epoll_wait(u64 epoll, u64 events, u64 most, const long *timeout, u64 mask, u64 mask_size)
{
    long milliseconds = -1;
    if (timeout) {
        if (timeout[0] < 0 || timeout[1] < 0 || timeout[1] > 999999999) return -EINVAL;
        milliseconds = timeout[0] >= 2147483 ? 2147483647 : timeout[0] * 1000 + (timeout[1] + 999999) / 1000000;
    }
    return call6(EPOLL_PWAIT, epoll, events, most, milliseconds, mask, mask_size);
}

static __attribute__((noinline)) long copy_range(int from, long *from_at, int to, long *to_at, u64 length, u32 flags)
{
    enum { CHUNK = 1 << 16, MOST = 1 << 24 };
    struct stat found;
    u64 inode = 0, device = 0;
    if (flags) return -EINVAL;
    for (int place = 0; place < 2; place++) {
        long result = CALL(FSTAT, place ? to : from, &found, 0, 0);
        if (result) return result;
        u32 kind = found.mode & 0170000;
        if (kind == 0040000) return -EISDIR;
        if (kind != 0100000) return -EINVAL;
        if (place && found.ino == inode && found.dev == device) {
            long first = from_at ? *from_at : CALL(LSEEK, from, 0, 1, 0), second = to_at ? *to_at : CALL(LSEEK, to, 0, 1, 0);
            long apart = first < second ? second - first : first - second;
            if (apart < 0 || (u64)apart < length) return -EINVAL; /* they overlap */
        }
        inode = found.ino, device = found.dev;
    }
    long how = CALL(FCNTL, to, 3, 0, 0); /* F_GETFL */
    if (!(how & 3) || how & 02000) return -EBADF; /* not for writing, or O_APPEND */
    long buffer = call6(MMAP, 0, CHUNK, 3, 0x22, -1, 0);
    if (buffer < 0 && buffer > -4096) return buffer;
    if (length > MOST) length = MOST;
    u64 done = 0;
    long result = 0;
    while (done < length) {
        u64 wanted = length - done < CHUNK ? length - done : CHUNK;
        result = from_at ? CALL(PREAD, from, buffer, wanted, *from_at) : CALL(READ, from, buffer, wanted, 0);
        if (result <= 0) break;
        u64 got = result, written = 0;
        while (written < got) {
            result = to_at ? CALL(PWRITE, to, buffer + written, got - written, *to_at)
                           : CALL(WRITE, to, buffer + written, got - written, 0);
            if (result <= 0) break;
            written += result;
            if (to_at) *to_at += result;
        }
        if (from_at) *from_at += written;
        else if (written < got) CALL(LSEEK, from, (long)(written - got), 1, 0); /* lseek back over what did not fit */
        done += written;
        if (result <= 0) break;
    }
    CALL(MUNMAP, buffer, CHUNK, 0, 0);
    return done ? (long)done : result;
}

static long close_one(u32 fd, u32 flags)
{
    return flags & 4 ? CALL(FCNTL, fd, 2, 1, 0) : CALL(CLOSE, fd, 0, 0, 0); /* F_SETFD, FD_CLOEXEC */
}

static __attribute__((noinline)) long close_range(u32 first, u32 last, u32 flags)
{
    if (flags & ~6u || first > last) return -EINVAL;
    if (flags & 2) { /* CLOSE_RANGE_UNSHARE */
        long result = CALL(UNSHARE, 0x400, 0, 0, 0);
        if (result) return result;
    }
    char name[NAME];
    fd_folder(name);
    long list = CALL(OPEN, name, O_DIRECTORY | O_CLOEXEC, 0, 0);
    if (list < 0) {
        u64 limit[2] = {1024, 0};
        CALL(GETRLIMIT, 7, limit, 0, 0);
        for (u64 fd = first; fd <= last && fd < limit[0]; fd++) close_one(fd, flags);
        return 0;
    }
    char entries[240]; /* the list goes on from the last number that was read, whatever was closed below it */
    long size;
    while ((size = CALL(GETDENTS, list, entries, sizeof entries, 0)) > 0)
        for (long at = 0; at < size; at += *(u16 *)(entries + at + 16)) {
            const char *digit = entries + at + 19;
            if (*digit < '0' || *digit > '9') continue;
            u64 fd = 0;
            while (*digit) fd = fd * 10 + (*digit++ - '0');
            if (fd >= first && fd <= last && fd != (u64)list) close_one(fd, flags);
        }
    CALL(CLOSE, list, 0, 0, 0);
    return size;
}

static long accept_with(u64 socket, u64 address, u64 length, u32 flags)
{
    if (flags & ~(O_CLOEXEC | O_NONBLOCK)) return -EINVAL;
    long fd = CALL(ACCEPT, socket, address, length, 0);
    if (fd < 0) return fd;
    if (flags & O_CLOEXEC) CALL(FCNTL, fd, 2, 1, 0);
    if (flags & O_NONBLOCK) CALL(FCNTL, fd, 4, CALL(FCNTL, fd, 3, 0, 0) | O_NONBLOCK, 0);
    return fd;
}

struct message {
    char header[56];
    u32 length, pad;
};

static __attribute__((noinline)) long receive_many(u64 socket, struct message *messages, u32 count, u32 flags, long *timeout)
{
    long end[2], now[2], result = 0;
    if (timeout) {
        CALL(CLOCK_GETTIME, 1, end, 0, 0);
        end[0] += timeout[0], end[1] += timeout[1];
    }
    u32 done = 0;
    while (done < count) {
        result = CALL(RECVMSG, socket, &messages[done], flags & ~0x10000, 0);
        if (result < 0) break;
        messages[done++].length = result;
        if (flags & 0x10000) flags |= 0x40; /* MSG_WAITFORONE: MSG_DONTWAIT after the first */
        if (timeout) {
            CALL(CLOCK_GETTIME, 1, now, 0, 0);
            if ((now[0] - end[0]) * 1000000000 + now[1] - end[1] >= 0) break;
        }
    }
    return done ? (long)done : result;
}

static long send_many(u64 socket, struct message *messages, u32 count, u32 flags)
{
    long result = 0;
    if (count > 1024) count = 1024;
    u32 done = 0;
    while (done < count) {
        result = CALL(SENDMSG, socket, &messages[done], flags, 0);
        if (result < 0) break;
        messages[done++].length = result;
    }
    return done ? (long)done : result;
}

static __attribute__((noinline)) long execute_at(int folder, const char *path, u64 argv, u64 envp, u32 flags)
{
    enum { SIZE = 8192 };
    struct stat found;
    char name[NAME];
    if (flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) return -EINVAL;
    if (is_empty(path) && !(flags & AT_EMPTY_PATH)) return -ENOENT;
    if (folder != AT_FDCWD && *path != '/') {
        long result = CALL(FSTAT, folder, &found, 0, 0);
        if (result) return result;
    }
    if (is_empty(path)) {
        if (folder == AT_FDCWD) return -EACCES; /* a folder */
        fd_name(name, folder);
        return CALL(EXECVE, name, argv, envp, 0);
    }
    if (flags & AT_SYMLINK_NOFOLLOW && !CALL(NEWFSTATAT, folder, path, &found, AT_SYMLINK_NOFOLLOW) &&
        (found.mode & 0170000) == 0120000)
        return -ELOOP;
    if (*path == '/' || folder == AT_FDCWD) return CALL(EXECVE, path, argv, envp, 0);
    long buffer = call6(MMAP, 0, SIZE, 3, 0x22, -1, 0);
    if (buffer < 0 && buffer > -4096) return buffer;
    char *out = fd_name((char *)buffer, folder);
    *out++ = '/';
    long result = -ENAMETOOLONG;
    while (out < (char *)buffer + SIZE && (*out++ = *path++)) {}
    if (out < (char *)buffer + SIZE) result = CALL(EXECVE, buffer, argv, envp, 0);
    CALL(MUNMAP, buffer, SIZE, 0, 0);
    return result;
}

static __attribute__((noinline)) long by_name(long number, const u64 *arg)
{
    char name[NAME];
    if (number == FCHOWNAT) {
        if ((int)arg[0] == AT_FDCWD) return call6(FCHOWNAT, AT_FDCWD, (u64)".", arg[2], arg[3], 0, 0);
        return CALL(FCHOWN, arg[0], arg[2], arg[3], 0);
    }
    fd_name(name, arg[0]);
    return call6(LINKAT, AT_FDCWD, (u64)name, arg[2], arg[3], AT_SYMLINK_FOLLOW, 0);
}

__attribute__((used, visibility("hidden"))) long emulate(long number, const u64 *arg)
{
    u32 missing = config.missing;
    switch (number) {
    case OPEN:
        return open_at(AT_FDCWD, (const char *)arg[0], arg[1], arg[2]);
    case OPENAT:
        return open_at(arg[0], (const char *)arg[1], arg[2], arg[3]);
    case NEWFSTATAT:
        return stat_at(arg[0], (const char *)arg[1], (struct stat *)arg[2], arg[3]);
    case UNAME: {
        long result = CALL(UNAME, arg[0], 0, 0, 0);
        if (!result && missing & RELEASE)
            for (int place = 0; place < 65; place++) ((char *)arg[0])[130 + place] = config.release[place];
        return result;
    }
    case FCHOWNAT:
    case LINKAT:
        if (missing & EMPTY_PATH && arg[4] & AT_EMPTY_PATH) {
            if (is_empty((const char *)arg[1])) return by_name(number, arg);
            return call6(number, arg[0], arg[1], arg[2], arg[3], arg[4] & ~AT_EMPTY_PATH, 0);
        }
        break;
    case CLOCK_GETTIME:
    case CLOCK_NANOSLEEP:
    case TIMERFD_CREATE:
        if (missing & BOOTTIME && (u32)arg[0] == 7) /* CLOCK_BOOTTIME: it differs by the time asleep */
            return call6(number, 1, arg[1], arg[2], arg[3], 0, 0);
        break;
    case 161:
        if (missing & GETRANDOM) return change_root((const char *)arg[0]);
        break;
    case 288:
        if (missing & ACCEPT4) return accept_with(arg[0], arg[1], arg[2], arg[3]);
        break;
    case 299:
        if (missing & RECVMMSG) return receive_many(arg[0], (struct message *)arg[1], arg[2], arg[3], (long *)arg[4]);
        break;
    case 302:
        if (missing & PRLIMIT) return prlimit(arg[0], arg[1], (const void *)arg[2], (void *)arg[3]);
        break;
    case 306:
        if (missing & SYNCFS) {
            struct stat found;
            long result = CALL(FSTAT, arg[0], &found, 0, 0);
            if (!result) CALL(SYNC, 0, 0, 0, 0);
            return result;
        }
        break;
    case 307:
        if (missing & SENDMMSG) return send_many(arg[0], (struct message *)arg[1], arg[2], arg[3]);
        break;
    case 316:
        if (missing & RENAMEAT2) return rename_at(arg[0], (const char *)arg[1], arg[2], (const char *)arg[3], arg[4]);
        break;
    case 318:
        if (missing & GETRANDOM) return get_random((char *)arg[0], arg[1], arg[2]);
        break;
    case 319:
        if (missing & MEMFD) return memory_file(arg[1]);
        break;
    case 322:
        if (missing & EXECVEAT) return execute_at(arg[0], (const char *)arg[1], arg[2], arg[3], arg[4]);
        break;
    case 326:
        if (missing & COPY_FILE_RANGE) return copy_range(arg[0], (long *)arg[1], arg[2], (long *)arg[3], arg[4], arg[5]);
        break;
    case 332:
        if (missing & STATX) return stat_extended(arg[0], (const char *)arg[1], arg[2], arg[3], (struct statx *)arg[4]);
        break;
    case 436:
        if (missing & CLOSE_RANGE) return close_range(arg[0], arg[1], arg[2]);
        break;
    case 439:
        if (missing & FACCESSAT2) return may_access(arg[0], (const char *)arg[1], arg[2], arg[3]);
        break;
    case 441:
        if (missing & EPOLL_PWAIT2) return epoll_wait(arg[0], arg[1], arg[2], (const long *)arg[3], arg[4], arg[5]);
        break;
    }
    return call6(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}
