/* join.so: a zygote's loop, which forks children into sandboxes (docs/decisions/0014-zygotes.md). Loaded by ../../../agent/drivers/zygote.py into the agent's
 * interpreter and into any template's Python, whatever its libc: it needs none.
 *
 * Whose code runs: ours, in a process whose memory may hold a template's code. With which power: CAP_SYS_ADMIN of the zone before the child
 * enters the sandbox's user namespace, that of the sandbox's root after it, and what a sandbox's root has at the end. Invariants: I3, I7
 * (a step that fails ends the child: it never returns to Python with more power than it should have).
 *
 * The loop is here and not in Python because every page that a zygote writes between two forks is one more that the child before has to itself.
 *
 *   zygote                         intermediate (shares the memory)          child (the copy)
 *     | setns(pid)                                                             .
 *     | clone(VM|VFORK) ------------->| setns(net, user, mnt, ipc, uts, cgroup)
 *     | stopped                       | fork() of libc ------------------------>| setns(time), control group, session, root of the sandbox,
 *     |<-- runs on when it ends ------| exit                                    | capabilities, seccomp, descriptors; back to Python
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "caps.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#define WAIT_ALL 0x40000000 /* __WALL: the intermediate ends without a signal */
#define FIRST_NAMESPACES 8
#define MAX_GROUP_FILES 8
#define MAX_FDS (FIRST_NAMESPACES + 1 + MAX_GROUP_FILES)
#define CHILD_FAILED 70

struct context {
    uint64_t rbx, rbp, r12, r13, r14, r15, rsp, rip;
};

/* The supervisor's request, and the answer to it: zygotes.py. */
struct request {
    uint64_t nofile;
    uint64_t cpus[16]; /* a cpu_set_t */
};
struct answer {
    int32_t pid;   /* of the child, as the sandbox sees it; -1: there is no child */
    int32_t error; /* errno of the step that failed */
    char step[40];
};

struct join {
    int32_t control, own_pid; /* the socket to the supervisor; the zygote's own pid namespace */
    const struct sock_filter *filter;
    int filter_length; /* in instructions */
    int (*fork)(void); /* libc's, so that its handlers run and its locks are free in the child */
    struct request request;
    union {
        int32_t all[MAX_FDS];
        struct {
            int32_t net, pid, user, mnt, ipc, uts, cgroup, time; /* namespaces of the sandbox */
            int32_t birth;                                       /* becomes descriptor 3 of the child */
            int32_t group_files[MAX_GROUP_FILES];                /* "tasks" (v1) or "cgroup.procs" (v2) files; -1: none */
        };
    } fds;
    int error;
    const char *step; /* the step that failed */
    long child;
    struct context zygote;
};

static char stack[128 * 1024] __attribute__((aligned(4096)));
static struct join the_join;

static inline long call(long number, long a, long b, long c, long d, long e) {
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    return result;
}

/* Returns 0, and 1 when `resume` comes back to it. */
__attribute__((naked, noinline, returns_twice)) static int save(struct context *at __attribute__((unused))) {
    __asm__("movq %rbx, 0(%rdi)\n movq %rbp, 8(%rdi)\n movq %r12, 16(%rdi)\n movq %r13, 24(%rdi)\n movq %r14, 32(%rdi)\n movq %r15, 40(%rdi)\n"
            "leaq 8(%rsp), %rdx\n movq %rdx, 48(%rdi)\n movq (%rsp), %rdx\n movq %rdx, 56(%rdi)\n xorl %eax, %eax\n ret");
}

__attribute__((naked, noinline, noreturn)) static void resume(const struct context *at __attribute__((unused))) {
    __asm__("movq 0(%rdi), %rbx\n movq 8(%rdi), %rbp\n movq 16(%rdi), %r12\n movq 24(%rdi), %r13\n movq 32(%rdi), %r14\n movq 40(%rdi), %r15\n"
            "movq 48(%rdi), %rsp\n movl $1, %eax\n jmp *56(%rdi)");
}

/* clone(2) whose child runs `enter(argument)` on another stack. */
__attribute__((naked, noinline)) static long clone_into(long flags __attribute__((unused)), char *top __attribute__((unused)),
                                                        void (*enter)(struct join *) __attribute__((unused)),
                                                        struct join *argument __attribute__((unused))) {
    __asm__("subq $16, %rsi\n movq %rdx, (%rsi)\n movq %rcx, 8(%rsi)\n xorl %edx, %edx\n xorl %r10d, %r10d\n xorl %r8d, %r8d\n"
            "movl $56, %eax\n syscall\n testq %rax, %rax\n jnz 1f\n xorl %ebp, %ebp\n popq %rax\n popq %rdi\n callq *%rax\n hlt\n 1: ret");
}

static void say(const char *text) {
    long length = 0;
    while (text[length]) length++;
    call(SYS_write, 2, (long)text, length, 0, 0);
}

/* In the child: writes the step to the zygote's log and ends. That closes the birth socket, and the sandbox starts its process cold. */
__attribute__((noreturn)) static void fail(const char *step) {
    say("join: ");
    say(step);
    say("\n");
    for (;;) call(SYS_exit_group, CHILD_FAILED, 0, 0, 0, 0);
}

static void check(long result, const char *step) {
    if (result < 0) fail(step);
}

/* Like give_up_power in power.c. It is needed because setns gave every capability, and setresuid takes none of them away. */
static void give_up_power(const struct join *join) {
    struct sock_fprog program = {(unsigned short)join->filter_length, (struct sock_filter *)join->filter};
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0, 0, 0}, {0, 0, 0}};
    for (int cap = 0; cap <= 63; cap++)
        if (!is_kept_cap(cap) && call(SYS_prctl, PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
            check(call(SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0), "drop a capability");
    check(call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities");
    check(call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&program, 0, 0), "install the seccomp filter");
    for (unsigned i = 0; i < KEPT_CAPS; i++) {
        data[kept_caps[i] / 32].permitted |= 1u << (kept_caps[i] % 32);
        data[kept_caps[i] / 32].effective |= 1u << (kept_caps[i] % 32);
    }
    check(call(SYS_capset, (long)&header, (long)data, 0, 0, 0), "give up capabilities");
}

static void limit(const struct join *join) {
    struct rlimit files;
    check(call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&files, 0), "read the limit of open files");
    if (files.rlim_max > join->request.nofile) files.rlim_max = join->request.nofile;
    files.rlim_cur = files.rlim_max;
    check(call(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&files, 0, 0), "limit open files");
    check(call(SYS_sched_setaffinity, 0, sizeof join->request.cpus, (long)join->request.cpus, 0, 0), "choose processors");
}

/* In the child, which has a copy of the memory now. */
static void settle(const struct join *join) {
    check(call(SYS_setns, join->fds.time, CLONE_NEWTIME, 0, 0, 0), "enter the time namespace");
    for (int i = 0; i < MAX_GROUP_FILES && join->fds.group_files[i] >= 0; i++)
        check(call(SYS_write, join->fds.group_files[i], (long)"0", 1, 0, 0), "join the control group");
    check(call(SYS_setsid, 0, 0, 0, 0, 0), "lead a session");
    check(call(SYS_setgroups, 0, 0, 0, 0, 0), "leave groups");
    check(call(SYS_setresgid, 0, 0, 0, 0, 0), "become the sandbox's root group");
    check(call(SYS_setresuid, 0, 0, 0, 0, 0), "become the sandbox's root");
    call(SYS_umask, 022, 0, 0, 0, 0);
    limit(join);
    give_up_power(join);
    check(call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0), "be visible in the sandbox's proc");
    check(call(SYS_dup2, join->fds.birth, 3, 0, 0, 0), "place the birth socket");
    check(call(SYS_close_range, 4, ~0U, 0, 0, 0), "close descriptors");
}

/* In the intermediate process. It shares the zygote's memory, so it must change nothing but `join`. */
static void enter(struct join *join) {
    const struct {
        int fd;
        int kind;
        const char *step;
    } steps[] = {
        {join->fds.net, CLONE_NEWNET, "enter the network namespace"}, /* the zone's own: while we are root of the zone */
        {join->fds.user, CLONE_NEWUSER, "enter the user namespace"},  {join->fds.mnt, CLONE_NEWNS, "enter the mount namespace"},
        {join->fds.ipc, CLONE_NEWIPC, "enter the ipc namespace"},     {join->fds.uts, CLONE_NEWUTS, "enter the uts namespace"},
        {join->fds.cgroup, CLONE_NEWCGROUP, "enter the cgroup namespace"},
    };
    for (unsigned i = 0; i < sizeof steps / sizeof *steps && !join->error; i++) {
        long result = call(SYS_setns, steps[i].fd, steps[i].kind, 0, 0, 0);
        if (result < 0) {
            join->error = (int)-result;
            join->step = steps[i].step;
        }
    }
    if (!join->error) {
        long child = join->fork();
        if (child == 0) {
            settle(join);
            resume(&join->zygote);
        }
        join->child = child;
        if (child < 0) {
            join->error = EAGAIN;
            join->step = "fork";
        }
    }
    for (;;) call(SYS_exit, 0, 0, 0, 0, 0);
}

/* Forks; true in the child. */
static int fork_into(struct join *join) {
    join->error = 0;
    join->child = -1;
    if (save(&join->zygote)) return 1;
    join->step = "choose the pid namespace";
    long failed = call(SYS_setns, join->fds.pid, CLONE_NEWPID, 0, 0, 0);
    if (failed >= 0) {
        long intermediate = clone_into(CLONE_VM | CLONE_VFORK, stack + sizeof stack, enter, join);
        call(SYS_setns, join->own_pid, CLONE_NEWPID, 0, 0, 0);
        if (intermediate > 0) call(SYS_wait4, intermediate, 0, WAIT_ALL, 0, 0);
        else join->step = "clone";
        failed = intermediate;
    }
    if (failed < 0) join->error = (int)-failed;
    return 0;
}

/* Receives the next request with its descriptors. 0: the supervisor has gone; -1: it is no valid request. */
static long receive(struct join *join) {
    char space[CMSG_SPACE(sizeof join->fds.all)];
    struct iovec iov = {&join->request, sizeof join->request};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    for (int i = 0; i < MAX_FDS; i++) join->fds.all[i] = -1;
    long size = call(SYS_recvmsg, join->control, (long)&msg, MSG_CMSG_CLOEXEC, 0, 0);
    if (size == -EINTR) return -1;
    if (size <= 0) return 0;
    const struct cmsghdr *head = (const struct cmsghdr *)space;
    if (msg.msg_controllen < sizeof *head || head->cmsg_type != SCM_RIGHTS) return -1;
    const int32_t *got = (const int32_t *)CMSG_DATA(head);
    for (unsigned i = 0; i < MAX_FDS && i < (head->cmsg_len - CMSG_LEN(0)) / sizeof *got; i++) join->fds.all[i] = got[i];
    return size == sizeof join->request && join->fds.birth >= 0 ? size : -1;
}

static void report(const struct join *join) {
    struct answer answer = {.pid = join->error ? -1 : (int32_t)join->child, .error = join->error};
    for (unsigned i = 0; join->error && i < sizeof answer.step - 1 && join->step[i]; i++) answer.step[i] = join->step[i];
    call(SYS_sendto, join->control, (long)&answer, sizeof answer, MSG_NOSIGNAL, 0);
}

/* Serves the supervisor on `control` until that ends, which ends the process; returns in forked children only, with the birth socket as
 * descriptor 3. Only for a process with one thread, after PyOS_BeforeFork. */
__attribute__((visibility("default"))) void cloister_serve(int control, int own_pid, const void *filter, long filter_bytes, int (*fork)(void)) {
    struct join *join = &the_join;
    join->control = control;
    join->own_pid = own_pid;
    join->filter = filter;
    join->filter_length = (int)(filter_bytes / (long)sizeof *join->filter);
    join->fork = fork;
    /* An intermediate shares this memory and is for a moment in a sandbox's user namespace. The root there may trace every dumpable process. */
    call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    for (;;) {
        long size = receive(join);
        if (size == 0) call(SYS_exit_group, 0, 0, 0, 0, 0);
        if (size > 0) {
            if (fork_into(join)) return;
            report(join);
        }
        for (int i = 0; i < MAX_FDS; i++)
            if (join->fds.all[i] >= 0) call(SYS_close, join->fds.all[i], 0, 0, 0, 0);
    }
}
