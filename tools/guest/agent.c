/* joey's agent in a virtual machine: runs commands for the host, which asks by virtio-serial ports.
 *
 * It needs nothing of the machine: no C library, no program, no file but what it was started from. tools/gen_code compiles
 * it into migrate/rich/vm/agentcode.py. x86-64.
 *
 *   agent serve ROOT PORT...        serve requests on ports, from a process in the background; they run in ROOT
 *   agent first ROOT FILE STATUS    be the first process: run the request in FILE in ROOT, write its status to STATUS,
 *                                   and power off
 *
 * A frame is "Jy", a type, 0, the session's number (u32), a length (u32), and as many bytes. The host sends R (a request), I
 * (input), C (no more input), W (rows and columns, u16), K (a signal for it, u32), P (process id and signal, u32: no
 * session). It gets B (the agent begins: sessions of before are over), S (started), F (errno u32, and what failed), O and E (output), X (wait status, u32).
 * A request: flags (1: terminal), uid, gid, rows, columns, numbers of groups, arguments and variables (u32 each), the
 * groups, and strings: directory, arguments, variables.
 *
 * Sources: virtio_console.c (a port reads as ended while the host is away, and sends SIGIO when that changes), pty(7).
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

enum {
    SYS_READ = 0, SYS_WRITE = 1, SYS_OPEN = 2, SYS_CLOSE = 3, SYS_POLL = 7, SYS_SIGPROCMASK = 14, SYS_IOCTL = 16,
    SYS_DUP2 = 33, SYS_NANOSLEEP = 35, SYS_GETPID = 39, SYS_FORK = 57, SYS_EXECVE = 59, SYS_EXIT = 60, SYS_WAIT4 = 61,
    SYS_KILL = 62, SYS_FCNTL = 72, SYS_CHDIR = 80, SYS_FCHDIR = 81, SYS_SETSID = 112, SYS_SETGROUPS = 116,
    SYS_SETRESUID = 117, SYS_SETRESGID = 119, SYS_SIGTIMEDWAIT = 128, SYS_CHROOT = 161, SYS_SYNC = 162, SYS_MOUNT = 165,
    SYS_REBOOT = 169, SYS_SIGNALFD4 = 289, SYS_PIPE2 = 293
};
enum {
    O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_NOCTTY = 0400, O_NONBLOCK = 04000, O_ASYNC = 020000, O_CLOEXEC = 02000000,
    F_SETFL = 4, F_SETOWN = 8, POLLIN = 1, POLLOUT = 4, POLLERR = 8, POLLHUP = 16,
    SIGKILL = 9, SIGPIPE = 13, SIGCHLD = 17, SIGIO = 29, EINTR = 4, ENOENT = 2, EACCES = 13, EAGAIN = 11,
    TIOCSCTTY = 0x540E, TIOCSWINSZ = 0x5414, TIOCGPTN = 0x80045430, TIOCSPTLCK = 0x40045431,
    MS_MOVE = 8192, MOST = 1 << 17, STRINGS = 4096,
    CHUNK = (1 << 15) - 16 /* with its head, what the kernel's driver takes at once */
};

struct head { u8 mark[2], type, zero; u32 session, size; };
struct pollfd { int fd; short events, revents; };
struct timespec { long seconds, nanoseconds; };
struct winsize { unsigned short rows, columns, x, y; };

static u8 body[MOST + 1], input[MOST], output[sizeof(struct head) + CHUNK];
static char *words[STRINGS];
static int root_fd;

static long call6(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
}
#define call(number, a, b, c, d) call6(number, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

static u64 length(const char *text)
{
    u64 size = 0;
    while (text[size])
        size++;
    return size;
}

static void copy(void *to, const void *from, u64 size)
{
    for (u64 place = 0; place < size; place++)
        ((u8 *)to)[place] = ((const u8 *)from)[place];
}

static void nap(long milliseconds)
{
    struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000 };
    call(SYS_NANOSLEEP, &time, 0, 0, 0);
}

static void mask(int how, u64 set)
{
    call(SYS_SIGPROCMASK, how, &set, 0, 8);
}

#define BIT(signal) (1UL << ((signal) - 1))

/* --- frames ---------------------------------------------------------------------------------------------------------- */

/* Whether all was written: the host may have gone. */
static int put(int port, const u8 *data, u64 size)
{
    while (size) {
        long done = call(SYS_WRITE, port, data, size, 0);
        if (done == -EINTR)
            continue;
        if (done == -EAGAIN) {
            nap(2);
            continue;
        }
        if (done <= 0)
            return 0;
        data += done;
        size -= done;
    }
    return 1;
}

static int send(int port, u32 session, u8 type, const void *data, u32 size)
{
    struct head head = { { 'J', 'y' }, type, 0, session, size };
    copy(output, &head, sizeof head);
    if (data)
        copy(output + sizeof head, data, size);
    return put(port, output, sizeof head + size);
}

static int fail(int port, u32 session, u32 error, const char *what)
{
    u8 text[256];
    u64 size = length(what);
    size = size > 250 ? 250 : size;
    copy(text, &error, 4);
    copy(text + 4, what, size);
    return send(port, session, 'F', text, 4 + size);
}

/* Whether as many bytes came before the host went away. */
static int get(int port, void *to, u64 size)
{
    u8 *place = to;
    while (size) {
        long done = call(SYS_READ, port, place, size, 0);
        if (done == -EINTR)
            continue;
        if (done == -EAGAIN) {
            struct pollfd wait = { port, POLLIN, 0 };
            call(SYS_POLL, &wait, 1, 1000, 0);
            if (wait.revents & POLLHUP)
                return 0;
            continue;
        }
        if (done <= 0)
            return 0;
        place += done;
        size -= done;
    }
    return 1;
}

static int is_head(const struct head *head)
{
    return head->mark[0] == 'J' && head->mark[1] == 'y' && head->zero == 0 && head->size <= MOST;
}

/* The next request's head, whatever is left of a caller that was killed; waits for the host. */
static void next_head(int port, struct head *head)
{
    u64 have = 0;
    u8 *bytes = (u8 *)head;
    for (;;) {
        long done = call(SYS_READ, port, bytes + have, sizeof *head - have, 0);
        if (done <= 0) {
            u64 set = BIT(SIGIO);
            struct timespec time = { 1, 0 };
            have = 0;
            call(SYS_SIGTIMEDWAIT, &set, 0, &time, 8);
            continue;
        }
        have += done;
        while (have && (bytes[0] != 'J' || (have == sizeof *head && !is_head(head)))) {
            copy(bytes, bytes + 1, have - 1);
            have--;
        }
        if (have == sizeof *head)
            return;
    }
}

/* --- a command ------------------------------------------------------------------------------------------------------- */

struct request { u32 flags, uid, gid, rows, columns, groups, arguments, variables; };

struct command { struct request *request; u32 *groups; char *directory, **arguments, **variables; };

/* Whether a request of `size` bytes is whole. */
static int understood(u8 *data, u64 size, struct command *out)
{
    struct request *request = (struct request *)data;
    char *text, *end = (char *)data + size;
    u64 strings;
    if (size < sizeof *request || request->groups > 1024 || request->arguments > STRINGS || request->variables > STRINGS)
        return 0;
    strings = 1UL + request->arguments + request->variables;
    if (!request->arguments || strings + 3 > STRINGS || sizeof *request + 4UL * request->groups > size)
        return 0;
    data[size] = 0;
    text = (char *)data + sizeof *request + 4UL * request->groups;
    out->request = request;
    out->groups = (u32 *)(data + sizeof *request);
    for (u64 place = 0, slot = 0; place < strings; place++) {
        if (text >= end)
            return 0;
        if (place == 0)
            out->directory = text;
        else {
            words[slot++] = text;
            if (place == request->arguments)
                words[slot++] = 0;
        }
        text += length(text) + 1;
    }
    out->arguments = words;
    out->variables = words + request->arguments + 1;
    out->variables[request->variables] = 0;
    return 1;
}

/* Execute it: an errno where that fails. Without a slash it is looked for in its own PATH. */
static int execute(struct command *command)
{
    char path[4096];
    const char *name = command->arguments[0], *list = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    int error = ENOENT;
    for (u64 place = 0; name[place]; place++)
        if (name[place] == '/')
            return -call(SYS_EXECVE, name, command->arguments, command->variables, 0);
    for (char **variable = command->variables; *variable; variable++)
        if ((*variable)[0] == 'P' && (*variable)[1] == 'A' && (*variable)[2] == 'T' && (*variable)[3] == 'H' &&
            (*variable)[4] == '=')
            list = *variable + 5;
    while (*list) {
        u64 size = 0, rest = length(name);
        while (list[size] && list[size] != ':')
            size++;
        if (size && size + rest + 2 < sizeof path) {
            long done;
            copy(path, list, size);
            path[size] = '/';
            copy(path + size + 1, name, rest + 1);
            done = -call(SYS_EXECVE, path, command->arguments, command->variables, 0);
            if (done != ENOENT)
                error = done;
        }
        list += size + (list[size] == ':');
    }
    return error;
}

static void tell(int pipe, int error, const char *what)
{
    u8 text[64];
    u64 size = length(what);
    copy(text, &error, 4);
    copy(text + 4, what, size);
    call(SYS_WRITE, pipe, text, 4 + size, 0);
    call(SYS_EXIT, 127, 0, 0, 0);
}

static void resize(int terminal, u32 rows, u32 columns)
{
    struct winsize size = { rows, columns, 0, 0 };
    if (rows && columns)
        call(SYS_IOCTL, terminal, TIOCSWINSZ, &size, 0);
}

/* In the child: be what was asked for. `streams` are its input, output and errors. */
static void become(struct command *command, int *streams, int tty, int failed)
{
    struct request *request = command->request;
    long error;
    call(SYS_SETSID, 0, 0, 0, 0);
    for (int place = 0; place < 3; place++)
        call(SYS_DUP2, streams[place], place, 0, 0);
    if (tty)
        call(SYS_IOCTL, 0, TIOCSCTTY, 0, 0);
    if ((error = call(SYS_SETGROUPS, request->groups, command->groups, 0, 0)) < 0)
        tell(failed, -error, "setgroups");
    if ((error = call(SYS_SETRESGID, request->gid, request->gid, request->gid, 0)) < 0)
        tell(failed, -error, "setresgid");
    if ((error = call(SYS_SETRESUID, request->uid, request->uid, request->uid, 0)) < 0)
        tell(failed, -error, "setresuid");
    if ((error = call(SYS_CHDIR, command->directory, 0, 0, 0)) < 0)
        tell(failed, -error, "chdir");
    mask(2, 0);
    tell(failed, execute(command), "execve");
}

/* A terminal of the machine's own: the master, and the name of the other end. */
static int open_terminal(int *slave)
{
    char name[32] = "/dev/pts/", digits[12];
    u32 number = 0, zero = 0;
    u64 size = 9, count = 0;
    long master = call(SYS_OPEN, "/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC, 0, 0);
    if (master < 0)
        return master;
    if (call(SYS_IOCTL, master, TIOCSPTLCK, &zero, 0) < 0 || call(SYS_IOCTL, master, TIOCGPTN, &number, 0) < 0)
        return -ENOENT;
    do
        digits[count++] = '0' + number % 10;
    while ((number /= 10));
    while (count)
        name[size++] = digits[--count];
    *slave = call(SYS_OPEN, name, O_RDWR | O_NOCTTY | O_CLOEXEC, 0, 0);
    return *slave < 0 ? *slave : master;
}

static void session(int port, u32 number, u64 size)
{
    struct command command;
    int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 }, told[2], streams[3], slave = -1, alive = 1;
    u64 chld = BIT(SIGCHLD), pending = 0, taken = 0;
    int signals, ending = 0, status = 0, child, tty, no_more = 0;
    struct { u32 error; char what[60]; } failure;
    struct head head = { { 0, 0 }, 0, 0, 0, 0 };
    long done;

    if (!understood(body, size, &command)) {
        fail(port, number, 22, "a request that is none");
        return;
    }
    tty = command.request->flags & 1;
    while (call(SYS_WAIT4, -1, 0, 1, 0) > 0)
        ; /* of sessions whose caller went away */
    if ((child = call(SYS_FORK, 0, 0, 0, 0)) == 0) {
        /* a process between, in the machine's root: its terminals are opened there */
        call(SYS_FCHDIR, root_fd, 0, 0, 0);
        call(SYS_CHROOT, ".", 0, 0, 0);
    } else {
        /* the handler stays where it is; it waits for that one */
        call(SYS_WAIT4, child, &status, 0, 0);
        return;
    }
    signals = call(SYS_SIGNALFD4, -1, &chld, 8, O_CLOEXEC);
    if (call(SYS_PIPE2, told, O_CLOEXEC, 0, 0) < 0 || signals < 0) {
        fail(port, number, 24, "pipe");
        call(SYS_EXIT, 0, 0, 0, 0);
    }
    if (tty) {
        int master = open_terminal(&slave);
        if (master < 0) {
            fail(port, number, -master, "a terminal (/dev/ptmx)");
            call(SYS_EXIT, 0, 0, 0, 0);
        }
        resize(master, command.request->rows, command.request->columns);
        in[1] = out[0] = master;
        streams[0] = streams[1] = streams[2] = slave;
    } else {
        if (call(SYS_PIPE2, in, O_CLOEXEC, 0, 0) < 0 || call(SYS_PIPE2, out, O_CLOEXEC, 0, 0) < 0 ||
            call(SYS_PIPE2, err, O_CLOEXEC, 0, 0) < 0) {
            fail(port, number, 24, "pipe");
            call(SYS_EXIT, 0, 0, 0, 0);
        }
        streams[0] = in[0];
        streams[1] = out[1];
        streams[2] = err[1];
    }
    child = call(SYS_FORK, 0, 0, 0, 0);
    if (child == 0)
        become(&command, streams, tty, told[1]);
    call(SYS_CLOSE, told[1], 0, 0, 0);
    for (int place = 0; place < 3; place++)
        if (!tty || place == 0)
            call(SYS_CLOSE, streams[place], 0, 0, 0);
    done = child < 0 ? 4 : call(SYS_READ, told[0], &failure, sizeof failure - 1, 0);
    if (child < 0) {
        failure.error = -child;
        copy(failure.what, "fork", 5);
    }
    call(SYS_CLOSE, told[0], 0, 0, 0);
    if (done >= 4) {
        if (child > 0)
            failure.what[done - 4] = 0;
        fail(port, number, failure.error, failure.what);
        call(SYS_EXIT, 0, 0, 0, 0);
    }
    send(port, number, 'S', 0, 0);
    call(SYS_FCNTL, in[1], F_SETFL, O_NONBLOCK, 0);
    call(SYS_FCNTL, out[0], F_SETFL, O_NONBLOCK, 0);
    if (!tty)
        call(SYS_FCNTL, err[0], F_SETFL, O_NONBLOCK, 0);
    for (;;) {
        struct pollfd wait[5] = {
            { port, pending ? 0 : POLLIN, 0 }, { out[0], POLLIN, 0 }, { err[0], POLLIN, 0 }, { signals, POLLIN, 0 },
            { pending ? in[1] : -1, POLLOUT, 0 },
        };
        int moved = 0;
        if (alive || !ending)
            call(SYS_POLL, wait, 5, ending ? 0 : -1, 0);
        for (int place = 1; place < 3; place++) {
            int fd = place == 1 ? out[0] : err[0];
            static u8 data[CHUNK];
            if (fd < 0 || (!ending && !wait[place].revents))
                continue;
            done = call(SYS_READ, fd, data, CHUNK, 0);
            if (done > 0) {
                moved = 1;
                if (!send(port, number, place == 1 ? 'O' : 'E', data, done))
                    goto gone;
            } else if (done != -EAGAIN && done != -EINTR) {
                if (!(tty && !ending)) {
                    if (place == 1)
                        out[0] = -1;
                    else
                        err[0] = -1;
                } else
                    nap(5); /* a terminal that nobody has open for now */
            }
        }
        if (ending && !moved) {
            send(port, number, 'X', &status, 4);
            call(SYS_EXIT, 0, 0, 0, 0);
        }
        if (wait[3].revents & POLLIN) {
            u8 info[128];
            int found;
            call(SYS_READ, signals, info, sizeof info, 0);
            while ((found = call(SYS_WAIT4, -1, &done, 1, 0)) > 0)
                if (found == child) {
                    status = (int)done;
                    ending = 1;
                }
            alive = !ending;
        }
        if (pending && wait[4].revents) {
            done = call(SYS_WRITE, in[1], input + taken, pending, 0);
            if (done > 0) {
                taken += done;
                pending -= done;
            } else if (done != -EAGAIN && done != -EINTR)
                pending = 0; /* it reads no more */
            if (!pending && no_more && !tty) {
                call(SYS_CLOSE, in[1], 0, 0, 0);
                in[1] = -1;
            }
        }
        if (wait[0].revents & POLLIN) {
            u32 value[2] = { 0, 0 };
            if (!get(port, &head, sizeof head) || !is_head(&head) || head.session != number)
                goto gone;
            if (!get(port, input, head.size)) {
                head.type = 0;
                goto gone;
            }
            copy(value, input, head.size < 8 ? head.size : 8);
            if (head.type == 'I' && in[1] >= 0 && !no_more) {
                pending = head.size;
                taken = 0;
            } else if (head.type == 'C' && !tty) {
                no_more = 1;
                if (in[1] >= 0 && !pending) {
                    call(SYS_CLOSE, in[1], 0, 0, 0);
                    in[1] = -1;
                }
            } else if (head.type == 'C') {
                input[0] = 4; /* what ends the input of a terminal: VEOF */
                pending = 1;
                taken = 0;
            } else if (head.type == 'W' && tty)
                resize(out[0], value[0], value[1]);
            else if (head.type == 'K')
                call(SYS_KILL, child, value[0], 0, 0);
        } else if (wait[0].revents & (POLLHUP | POLLERR))
            goto gone;
    }
gone: /* a command ends with its caller; what was read may be the next caller's request */
    call(SYS_KILL, -child, SIGKILL, 0, 0);
    if (is_head(&head) && head.session != number && head.type == 'R' && get(port, body, head.size))
        session(port, head.session, head.size);
    call(SYS_EXIT, 0, 0, 0, 0);
}

static void serve(int port)
{
    struct head head;
    send(port, 0, 'B', 0, 0); /* a caller of before a reboot is told */
    call(SYS_FCNTL, port, F_SETOWN, call(SYS_GETPID, 0, 0, 0, 0), 0);
    call(SYS_FCNTL, port, F_SETFL, O_ASYNC, 0);
    for (;;) {
        next_head(port, &head);
        if (!get(port, body, head.size))
            continue;
        if (head.type == 'R')
            session(port, head.session, head.size);
        else if (head.type == 'P' && head.size == 8) {
            u32 *value = (u32 *)body, error;
            error = -call(SYS_KILL, value[0], value[1], 0, 0);
            if (error)
                fail(port, head.session, error, "kill");
            else
                send(port, head.session, 'S', 0, 0);
        }
    }
}

/* --- the first process ------------------------------------------------------------------------------------------------- */

static void power_off(int status_fd, u32 status)
{
    char text[12] = "          \n";
    for (int place = 9; place >= 0 && (status || place == 9); place--, status /= 10)
        text[place] = '0' + status % 10;
    call(SYS_WRITE, status_fd, text, 11, 0);
    call(SYS_SYNC, 0, 0, 0, 0);
    nap(100);
    call(SYS_REBOOT, 0xfee1dead, 672274793, 0x4321fedc, 0);
    call(SYS_REBOOT, 0xfee1dead, 672274793, 0x01234567, 0);
    for (;;)
        nap(1000000);
}

static void first(const char *root, const char *file, const char *status_path)
{
    struct command command;
    int streams[3] = { 0, 1, 2 }, failed[2], status_fd, fd, child;
    u64 size = 0;
    long done;
    struct { u32 error; char what[60]; } failure;
    status_fd = call(SYS_OPEN, status_path, O_WRONLY | O_CLOEXEC, 0, 0);
    fd = call(SYS_OPEN, file, O_RDONLY | O_CLOEXEC, 0, 0);
    while ((done = call(SYS_READ, fd, body + size, MOST - size, 0)) > 0)
        size += done;
    call(SYS_CHDIR, root, 0, 0, 0);
    call(SYS_MOUNT, ".", "/", 0, MS_MOVE);
    call(SYS_CHROOT, ".", 0, 0, 0);
    mask(2, ~0UL);
    call(SYS_PIPE2, failed, O_CLOEXEC, 0, 0);
    if (!understood(body, size, &command))
        power_off(status_fd, 126);
    child = call(SYS_FORK, 0, 0, 0, 0);
    if (child == 0)
        become(&command, streams, 0, failed[1]);
    call(SYS_CLOSE, failed[1], 0, 0, 0);
    if (call(SYS_READ, failed[0], &failure, sizeof failure, 0) >= 4) {
        static const char text[] = "joey: its program can't be executed\n";
        call(SYS_WRITE, 2, text, sizeof text - 1, 0);
        power_off(status_fd, failure.error == ENOENT ? 127 : 126);
    }
    for (;;) {
        u64 all = ~0UL;
        long number = call(SYS_SIGTIMEDWAIT, &all, 0, 0, 8);
        int status = 0, found;
        if (number == SIGCHLD) {
            while ((found = call(SYS_WAIT4, -1, &status, 1, 0)) > 0)
                if (found == child)
                    power_off(status_fd, status & 0x7f ? 128 + (status & 0x7f) : (status >> 8) & 0xff);
        } else if (number > 0)
            call(SYS_KILL, child, number, 0, 0);
    }
}

__attribute__((used)) static int start(long *stack)
{
    long count = stack[0];
    char **arguments = (char **)(stack + 1);
    if (count > 3 && arguments[1][0] == 's') {
        root_fd = call(SYS_OPEN, arguments[2], O_RDONLY | O_CLOEXEC, 0, 0);
        for (long place = 3; place < count; place++) {
            int port = call(SYS_OPEN, arguments[place], O_RDWR | O_CLOEXEC, 0, 0);
            if (port < 0)
                return 1;
            if (call(SYS_FORK, 0, 0, 0, 0) == 0) {
                call(SYS_SETSID, 0, 0, 0, 0);
                mask(2, BIT(SIGIO) | BIT(SIGCHLD) | BIT(SIGPIPE));
                serve(port);
            }
            call(SYS_CLOSE, port, 0, 0, 0);
        }
        return 0;
    }
    if (count == 5 && arguments[1][0] == 'f')
        first(arguments[2], arguments[3], arguments[4]);
    return 2;
}

__asm__(".global _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n"
        "\tmov %eax, %edi\n\tmov $60, %eax\n\tsyscall\n");
