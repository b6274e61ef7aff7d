/* Pid 1 of a sandbox: reaps, and brings the agent back when it dies. Cannot be killed from inside (pid_namespaces(7)).
 *
 * Runs in: the sandbox, under its seccomp filter and with its bounded capabilities. Invariants: I3, I8.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

static void start_payload(const struct init_plan *plan) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL); /* pid 1 ignores it; an ignored signal would be inherited by every program of the sandbox */
    setsid();
    /* Move everything above the target range first, so that no dup2 overwrites a source. */
    int kept[8], count = 0, log = fcntl(plan->log_fd, F_DUPFD, 64);
    for (; count < 8 && plan->keep[count] >= 0; count++) kept[count] = fcntl(plan->keep[count], F_DUPFD, 64);
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) _exit(125);
    for (int i = 0; i < count; i++)
        if (dup2(kept[i], 3 + i) < 0) _exit(125);
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

/* Says on the ready pipe why the agent did not start: its status and the end of its log. */
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
    ssize_t ignored = write(plan->status_fd, text, strlen(text)); /* nobody listens after the first start: fine */
    (void)ignored;
}

void init_main(const struct init_plan *plan) {
    prctl(PR_SET_DUMPABLE, 0); /* /proc/1/{exe,mem,fd} stay closed to the sandbox's root */
    signal(SIGPIPE, SIG_IGN);
    int failures = 0;
    for (;;) {
        time_t started = time(NULL);
        pid_t payload = fork();
        if (payload == 0) start_payload(plan);
        int status = 0;
        pid_t pid = payload;
        if (payload > 0)
            while ((pid = waitpid(-1, &status, 0)) != payload && (pid > 0 || errno == EINTR)) {
            }
        if (!plan->restart) {
            int code = payload < 0 ? 125 : WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
            dprintf(plan->status_fd, "%d\n", code);
            _exit(0); /* the end of pid 1 is the end of all that the step left running */
        }
        report_agent_end(plan, status);
        failures = time(NULL) - started > 10 ? 0 : failures + 1;
        int wait_ms = failures > 6 ? 3000 : 50 << (failures > 0 ? failures - 1 : 0);
        struct timespec pause = {wait_ms / 1000, (wait_ms % 1000) * 1000000L};
        nanosleep(&pause, NULL);
    }
}
