    .globl _start
_start:
    ldr  w0, fd                 // fcntl(fd, F_SETFD, FD_CLOEXEC)
    mov  x1, #2
    mov  x2, #1
    mov  x8, #25
    svc  #0
    cbnz x0, failed
    ldr  x3, [sp]               // argc
    ldr  x0, [sp, #8]           // execve(argv[0], argv + 1, envp)
    add  x1, sp, #16
    add  x2, x1, x3, lsl #3
    mov  x8, #221
    svc  #0
failed:
    neg  w0, w0                 // "exec" and the errno, eight bytes
    movz w1, #0x7865
    movk w1, #0x6365, lsl #16
    stp  w1, w0, [sp, #-16]!
    ldr  w0, fd                 // write(fd, sp, 8)
    mov  x1, sp
    mov  x2, #8
    mov  x8, #64
    svc  #0
    mov  x0, #1                 // exit_group(1)
    mov  x8, #94
    svc  #0
fd:
