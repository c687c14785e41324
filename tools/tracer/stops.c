/*
 * The stops of a tracer that mean nothing to it: calls that nobody looks at, by number or one argument, and ends of calls.
 *
 * They are nearly all stops, and this lets them go on without a step of Python. It is called by compat/tracing/stops.py,
 * which says there what it does, and does the same itself where no code can be mapped. What is to be looked at is told
 * by the return. Nothing of it is in a container: it runs in the tracer.
 *
 * tools/gen_code compiles this file into compat/tracing/stopscode.py.
 *
 * Sources: ptrace(2), wait4(2); the numbers are those of x86-64.
 */

enum { WAIT4 = 61, PTRACE = 101 };
enum { EINTR = 4 };
enum { PEEKUSER = 3, ORIG_RAX = 15 * 8 };
enum { WNOHANG = 1, WALL = 0x40000000 };
enum { CALL_STOP = (5 | 0x80) << 8 | 0x7f };
enum { OUTSIDE, INSIDE };           /* of a call; any other is for Python */
enum { ALWAYS, ANY_BIT, EQUAL, NEVER }; /* when a call is looked at */
enum {
    ROOM = 256,     /* stops that are known and wait */
    FAIR_AFTER = 16,
    MOST = 1 << 14, /* stops at a time: Python's signal handlers are to have their turn */
    NUMBERS = 512,
};

struct found {
    int pid, status;
};

struct condition {
    unsigned short how, place; /* of an argument among the registers, in bytes */
    unsigned value;
};

/* compat/tracing/stops.py has the same. */
struct room {
    unsigned char *calls;
    long limit; /* of pids that have a place in `calls` */
    long go;
    struct condition conditions[NUMBERS];
    unsigned turn;
    int count;
    struct found waiting[ROOM];
};

static long call(long number, long first, long second, long third, long fourth)
{
    long result;
    register long r10 __asm__("r10") = fourth;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(first), "S"(second), "d"(third), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

/* Wait for a stop or an end and put it into the room; like wait4(2). */
static long wait_for(struct room *room, long options)
{
    struct found *found = &room->waiting[room->count];
    long pid = call(WAIT4, -1, (long)&found->status, options, 0);

    if (pid > 0) {
        found->pid = pid;
        room->count++;
    }
    return pid;
}

/* Whether nobody looks at the call that a thread begins; not of one that has been killed meanwhile. */
static int is_quiet(struct room *room, int pid)
{
    unsigned long word;

    if (call(PTRACE, PEEKUSER, pid, ORIG_RAX, (long)&word) < 0 || word >= NUMBERS)
        return 0;

    struct condition *condition = &room->conditions[word];

    if (condition->how == ALWAYS || condition->how == NEVER)
        return condition->how;
    if (call(PTRACE, PEEKUSER, pid, condition->place, (long)&word) < 0)
        return 0;
    return condition->how == ANY_BIT ? !(word & condition->value) : (unsigned)word != condition->value;
}

/* 1: the last of `waiting`, which is no more counted, is to be looked at. 0: there is none yet. Else minus an errno. */
__attribute__((section(".head"))) long next(struct room *room, long options)
{
    for (int stops = 0; stops < MOST; stops++) {
        if (!room->count) {
            long result = wait_for(room, options);

            if (result <= 0)
                return result;
            if (++room->turn % FAIR_AFTER == 0)
                while (room->count < ROOM && wait_for(room, WALL | WNOHANG) > 0)
                    ;
        }

        struct found *found = &room->waiting[--room->count];
        unsigned char *where = room->calls + found->pid;

        if (found->status != CALL_STOP || found->pid >= room->limit || *where > INSIDE)
            return 1;
        if (*where == OUTSIDE && !is_quiet(room, found->pid))
            return 1;
        *where = !*where;
        call(PTRACE, room->go, found->pid, 0, 0);
    }
    return -EINTR;
}
