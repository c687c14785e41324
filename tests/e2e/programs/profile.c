/* What a profile does to calls: mkdir, socket and the 32-bit getpid are for the profile to refuse. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int traps, trapped_call, trapped_code, trapped_errno;

static void on_trap(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    traps++;
    trapped_call = info->si_syscall;
    trapped_code = info->si_code;
    trapped_errno = info->si_errno;
}

static void *in_a_thread(void *unused)
{
    (void)unused;
    printf("thread: %d\n", mkdir("/tmp/x", 0700) ? errno : 0);
    return NULL;
}

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    setvbuf(stdout, NULL, _IONBF, 0);
    if (!strcmp(what, "mkdir")) {
        printf("mkdir: %d\n", mkdir("/tmp/x", 0700) ? errno : 0);
        pthread_t thread;
        pthread_create(&thread, NULL, in_a_thread, NULL);
        pthread_join(thread, NULL);
        pid_t pid = fork();
        if (pid == 0) {
            printf("child: %d\n", mkdir("/tmp/x", 0700) ? errno : 0);
            execl(words[0], words[0], "again", NULL);
        }
        waitpid(pid, NULL, 0);
    } else if (!strcmp(what, "again")) {
        printf("executed: %d\n", mkdir("/tmp/x", 0700) ? errno : 0);
    } else if (!strcmp(what, "fault")) {
        *(volatile int *)8 = 1;
    } else if (!strcmp(what, "untraced")) {
        long pid = syscall(SYS_clone, 0x00800000 | SIGCHLD, 0, 0, 0, 0); /* CLONE_UNTRACED */
        if (pid == 0) {
            printf("child: %d\n", mkdir("/tmp/x", 0700) ? errno : 0);
            _exit(0);
        }
        waitpid(pid, NULL, 0);
        printf("done\n");
    } else if (!strcmp(what, "socket")) {
        for (int family = 0; family < 4; family++) {
            int fd = socket(family, SOCK_DGRAM, 0);
            printf("socket %d: %d\n", family, fd < 0 ? errno : 0);
        }
        printf("personality: %d %d\n", personality(0xffffffff), (int)syscall(SYS_personality, 0x0008));
        long answer = syscall(9999);
        printf("unknown: %ld %d\n", answer, errno);
    } else if (!strcmp(what, "trap")) {
        struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
        sigaction(SIGSYS, &action, NULL);
        syscall(SYS_mkdir, "/tmp/x", 0700);
        printf("traps %d, call %d, code %d, errno %d\n", traps, trapped_call, trapped_code, trapped_errno);
    } else if (!strcmp(what, "kill")) {
        pid_t pid = fork();
        if (pid == 0) {
            mkdir("/tmp/x", 0700);
            printf("alive\n");
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        printf("signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    } else if (!strcmp(what, "old-abi")) {
        pid_t pid = fork();
        if (pid == 0) {
            long result; /* mkdir(2) of i386 */
            __asm__ volatile("int $0x80" : "=a"(result) : "a"(39L), "b"(0L), "c"(0L) : "memory");
            printf("answered %ld\n", result);
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        printf("died: %d\n", WIFSIGNALED(status));
    }
    return 0;
}
