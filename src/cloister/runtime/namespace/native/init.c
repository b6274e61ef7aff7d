/* Pid 1 of a sandbox: reaps, and brings the agent back when it dies. Cannot be killed from inside (pid_namespaces(7)).
 *
 * Runs in: the sandbox, under its seccomp filter and with its bounded capabilities. Invariants: I3, I8.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

#define BIRTH_TIMEOUT_MS 10000

void run_payload(const struct init_plan *plan) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL); /* pid 1 ignores it; an ignored signal would be inherited by every program of the sandbox */
    setsid();
    /* Move everything above the target range first, so that no dup2 overwrites a source. */
    int kept[MAX_KEPT], count = 0, log = fcntl(plan->log_fd, F_DUPFD, 64);
    for (; plan->keep[count] >= 0; count++) kept[count] = fcntl(plan->keep[count], F_DUPFD, 64); /* -1 for a descriptor that is closed already */
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) _exit(125);
    for (int i = 0; i < count; i++)
        if (kept[i] < 0 && plan->once[i]) close(3 + i);
        else if (dup2(kept[i], 3 + i) < 0) _exit(125);
    close_range(3 + count, ~0U, 0);
    prctl(PR_SET_DUMPABLE, 1);
    if (plan->uid || plan->gid) {
        gid_t gid = plan->gid;
        if (setgroups(1, &gid) || setresgid(gid, gid, gid) || setresuid(plan->uid, plan->uid, plan->uid)) _exit(125);
    }
    if (chdir(plan->cwd)) {
        dprintf(2, "cannot enter %s: %s\n", plan->cwd, strerror(errno));
        _exit(125);
    }
    execvpe(plan->argv[0], plan->argv, plan->envp);
    dprintf(2, "cannot run %s: %s\n", plan->argv[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

/* Writes to the ready pipe why the agent did not start: its status and the end of its log. */
static void report_agent_end(const struct init_plan *plan, int status) {
    char text[2200] = {0}, tail[2048] = {0};
    off_t size = lseek(plan->log_fd, 0, SEEK_END);
    if (size > 0) {
        off_t from = size > (off_t)sizeof tail - 1 ? size - ((off_t)sizeof tail - 1) : 0;
        ssize_t got = pread(plan->log_fd, tail, sizeof tail - 1, from);
        if (got < 0) tail[0] = 0;
    }
    int used = WIFSIGNALED(status) ? snprintf(text, sizeof text, "agent ended by signal %d\n", WTERMSIG(status))
                                   : snprintf(text, sizeof text, "agent ended with status %d\n", WEXITSTATUS(status));
    snprintf(text + used, sizeof text - used, "%s", tail);
    ssize_t ignored = write(plan->status_fd, text, strlen(text)); /* after the first start the pipe has no reader, which is no error */
    (void)ignored;
}

/* Waits for the zygote's child that is to be the first payload, and gives it the descriptors that an exec'd payload has. Gives its pid, or 0
 * when none comes. */
static pid_t receive_payload(const struct init_plan *plan) {
    struct pollfd waiting = {.fd = plan->birth_fd, .events = POLLIN};
    int handles[MAX_KEPT + 1], count = 0;
    char word, hello[CMSG_SPACE(sizeof(struct ucred))], space[CMSG_SPACE(sizeof handles)] = {0}, *text = NULL;
    size_t size = 0;
    struct iovec in = {&word, 1};
    struct msghdr got = {.msg_iov = &in, .msg_iovlen = 1, .msg_control = hello, .msg_controllen = sizeof hello};
    if (poll(&waiting, 1, BIRTH_TIMEOUT_MS) != 1 || recvmsg(plan->birth_fd, &got, MSG_CMSG_CLOEXEC) != 1) return 0;
    struct cmsghdr *head = CMSG_FIRSTHDR(&got);
    if (!head || head->cmsg_type != SCM_CREDENTIALS) return 0;
    pid_t pid = ((struct ucred *)CMSG_DATA(head))->pid;

    FILE *words = open_memstream(&text, &size);
    if (!words) return 0;
    for (char **env = plan->envp; *env; env++) fprintf(words, "env=%s%c", *env, 0);
    fprintf(words, "cwd=%s%c", plan->cwd, 0);
    if (fclose(words)) return 0;
    handles[count++] = plan->log_fd;
    for (int i = 0; plan->keep[i] >= 0; i++) handles[count++] = plan->keep[i];
    struct iovec out = {text, size};
    struct msghdr msg = {.msg_iov = &out, .msg_iovlen = 1, .msg_control = space, .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count)};
    head = CMSG_FIRSTHDR(&msg);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    memcpy(CMSG_DATA(head), handles, sizeof(int) * (size_t)count);
    ssize_t sent = sendmsg(plan->birth_fd, &msg, MSG_NOSIGNAL);
    free(text);
    return sent > 0 && pid > 1 ? pid : 0;
}

static pid_t start_payload(const struct init_plan *plan) {
    pid_t payload = fork();
    if (payload == 0) run_payload(plan);
    return payload;
}

static void close_what_was_for_the_first(struct init_plan *plan) {
    if (plan->birth_fd >= 0) close(plan->birth_fd);
    plan->birth_fd = -1;
    for (int i = 0; plan->keep[i] >= 0; i++)
        if (plan->once[i]) close(plan->keep[i]);
}

/* Reaps until the payload has ended; gives its status. */
static int wait_for(const struct init_plan *plan, pid_t payload) {
    for (;;) {
        struct orphan_end end = {0, 0};
        end.pid = waitpid(-1, &end.status, 0);
        if (end.pid == payload) return end.status;
        if (end.pid > 0 && plan->ends_fd >= 0) {
            ssize_t ignored = write(plan->ends_fd, &end, sizeof end); /* a full pipe has no reader: pid 1 must not wait for one */
            (void)ignored;
        }
        if (end.pid > 0 || errno == EINTR) continue;
        if (kill(payload, 0)) return 0;
        struct timespec pause = {0, 1000000L}; /* a zygote's child becomes our child only when the process between has ended */
        nanosleep(&pause, NULL);
    }
}

/* Reaps until the restored tree has ended. CRIU's children become ours when it has restored them; till then there is no child. */
__attribute__((noreturn)) static void keep_restored(pid_t restored) {
    for (;;) {
        pid_t ended = waitpid(-1, NULL, 0);
        if (ended == restored) _exit(0);
        struct timespec pause = {0, 5000000L};
        if (ended < 0) nanosleep(&pause, NULL);
    }
}

void init_main(struct init_plan *plan) {
    prctl(PR_SET_DUMPABLE, 0); /* /proc/1/{exe,mem,fd} stay closed to the sandbox's root */
    signal(SIGPIPE, SIG_IGN);
    if (plan->restored) keep_restored(plan->restored);
    int failures = 0;
    for (;;) {
        time_t started = time(NULL);
        pid_t payload = plan->birth_fd >= 0 ? receive_payload(plan) : 0;
        if (!payload) payload = start_payload(plan);
        close_what_was_for_the_first(plan);
        int status = payload > 0 ? wait_for(plan, payload) : 0;
        if (!plan->restart) {
            int code = payload < 0 ? 125 : WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
            dprintf(plan->status_fd, "%d\n", code);
            _exit(0); /* the end of pid 1 ends every process that the step left running */
        }
        report_agent_end(plan, status);
        failures = time(NULL) - started > 10 ? 0 : failures + 1;
        int wait_ms = failures > 6 ? 3000 : 50 << (failures > 0 ? failures - 1 : 0);
        struct timespec pause = {wait_ms / 1000, (wait_ms % 1000) * 1000000L};
        nanosleep(&pause, NULL);
    }
}
