/* criu.so, loaded into CRIU before its main() runs: enters a sandbox, gives up power, and answers what CRIU then may not ask the kernel.
 *
 * A CRIU that ran in the sandbox's root from its start would load the libraries and /etc/ld.so.preload of the sandbox. So the loader does
 * all its work in the host's root, and the constructor below enters the sandbox afterwards. Whose code runs: ours and CRIU's, on state of
 * a hostile sandbox. With which power: see enter(). Contract: ../checkpoint/criu.py. Invariants: I1, I2, I7 (a step that fails ends it).
 *
 *   supervisor           this process (host root)           its child, in the sandbox's pid namespace
 *     | exec ------------->| setns(pid), fork ---------------->| control group, setns of the others, user, capabilities, seccomp
 *     |                    | waits, with our code only         | files of /dev/shm (shared.c), main() of CRIU
 *     |<- exit status -----| exits as the child did            |
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared.h"

#define REFUSED 90 /* exit status: a step of enter() failed */
#ifndef PTRACE_SECCOMP_GET_METADATA
#define PTRACE_SECCOMP_GET_METADATA 0x420d
#endif
#define SUSPEND_SECCOMP (1L << 21) /* PTRACE_O_SUSPEND_SECCOMP, which needs CAP_SYS_ADMIN */
#define CLONE_USER 0x10000000
#define DUMP_BYTES (512UL << 20)

static char sandbox_filter[65536]; /* the filter that every process of a sandbox has */
static ssize_t sandbox_filter_size;
static char own_filter[65536];
static int is_dump;
static const int of_a_stop[] = {SIGHUP, SIGINT, SIGTERM, 0};

void check(int failed, const char *step) {
    if (!failed) return;
    fprintf(stderr, "cannot %s: %s\n", step, strerror(errno));
    _exit(REFUSED);
}

/* The value of one of our variables, which CRIU does not see; NULL when it is not set. */
static char *take(const char *name) {
    const char *found = getenv(name);
    char *copy = found ? strdup(found) : NULL;
    unsetenv(name);
    return copy;
}

/* Calls `act` for each of the descriptors in "3,4,5", and closes them. */
static void for_each(char *list, void (*act)(int)) {
    char *rest = list, *item;
    while (rest && (item = strsep(&rest, ","))) {
        act(atoi(item));
        close(atoi(item));
    }
    free(list);
}

static void join_group(int fd) { check(write(fd, "0", 1) != 1, "join the control group"); }
static void enter_namespace(int fd) { check(setns(fd, 0), "enter a namespace"); }

static ssize_t read_filter(const char *name, char *into, size_t size) {
    char *number = take(name);
    if (!number) return 0;
    ssize_t got = pread(atoi(number), into, size, 0);
    check(got <= 0 || got % (ssize_t)sizeof(struct sock_filter), "read a seccomp filter");
    close(atoi(number));
    free(number);
    return got;
}

static void choose_processors(char *list) {
    cpu_set_t cpus;
    char *rest = list, *item;
    if (!list) return;
    CPU_ZERO(&cpus);
    while ((item = strsep(&rest, ","))) CPU_SET(atoi(item), &cpus);
    check(sched_setaffinity(0, sizeof cpus, &cpus), "choose processors");
    free(list);
}

static void bound_capabilities(uint64_t mask) {
    for (int cap = 0; cap <= 63; cap++)
        if (!(mask >> cap & 1) && prctl(PR_CAPBSET_READ, cap) == 1) check(prctl(PR_CAPBSET_DROP, cap), "drop a capability");
}

/* Keeps the capabilities of `mask` and no other. */
static void keep_capabilities(uint64_t mask) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    for (int half = 0; half < 2; half++) data[half].effective = data[half].permitted = (uint32_t)(mask >> (32 * half));
    check(syscall(SYS_capset, &header, data), "give up capabilities");
}

/* A dump keeps a few capabilities of the host, has the host user that is the sandbox's root, and a filter: it maps no code. A restore is
 * root of the sandbox's user namespace and has no power over the host. */
static void become(uid_t user, const char *capabilities) {
    uint64_t mask = capabilities ? strtoull(capabilities, NULL, 16) : 0;
    check(setgroups(0, NULL), "leave groups");
    if (capabilities) bound_capabilities(mask); /* while it may */
    if (capabilities) check(prctl(PR_SET_KEEPCAPS, 1), "keep capabilities over a change of user");
    check(setresgid(user, user, user) || setresuid(user, user, user), "become the sandbox's root");
    if (capabilities) keep_capabilities(mask);
    check(prctl(PR_SET_PDEATHSIG, SIGKILL), "end with the parent"); /* the change of user has taken it back */
    check(prctl(PR_SET_DUMPABLE, 1), "see its own files in proc");
    if (capabilities) check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "gain no privilege");
}

static void relay(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) != child) continue;
    _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

__attribute__((constructor)) static void enter(void) {
    char *pid = take("CLOISTER_PID_NAMESPACE"), *groups = take("CLOISTER_GROUPS"), *namespaces = take("CLOISTER_NAMESPACES");
    char *user = take("CLOISTER_USER"), *capabilities = take("CLOISTER_CAPABILITIES"), *adjustment = take("CLOISTER_OOM_SCORE_ADJ");
    char *image = take("CLOISTER_IMAGE");
    unsetenv("LD_PRELOAD");
    if (!pid) return; /* only its version is asked for */
    check(!namespaces || !user || !image, "read what to enter");
    is_dump = capabilities != NULL;
    sandbox_filter_size = read_filter("CLOISTER_SANDBOX_FILTER", sandbox_filter, sizeof sandbox_filter);
    ssize_t own = read_filter("CLOISTER_FILTER", own_filter, sizeof own_filter);
    check(is_dump && (!own || !sandbox_filter_size), "read the filters of a dump");
    /* A dump goes on to its end without a supervisor: killed while a process executes a call for it, it would break that process. */
    if (!is_dump) check(prctl(PR_SET_PDEATHSIG, SIGKILL), "end with the supervisor");
    if (adjustment) {
        int fd = open("/proc/thread-self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        int is_refused = fd < 0 || write(fd, adjustment, strlen(adjustment)) < 0;
        /* Root in a container may not lower it: a dump then has the supervisor's, which is lower than any sandbox's. */
        check(is_refused && !(is_dump && errno == EACCES), "tell the OOM killer");
        close(fd);
    }
    if (is_dump) { /* no OOM killer bounds it, and what it needs depends on the sandbox; a stop of the server must not end it */
        struct rlimit bound = {DUMP_BYTES, DUMP_BYTES};
        check(setrlimit(RLIMIT_DATA, &bound), "bound the memory");
        for (const int *one = of_a_stop; *one; one++) check(signal(*one, SIG_IGN) == SIG_ERR, "ignore a signal");
    }
    for_each(pid, enter_namespace);
    pid_t child = fork();
    check(child < 0, "fork");
    if (child > 0) relay(child);
    setsid();
    choose_processors(take("CLOISTER_PROCESSORS"));
    if (groups) for_each(groups, join_group);
    for_each(namespaces, enter_namespace);
    check(chdir("/"), "enter the root");
    umask(022);
    become((uid_t)strtoul(user, NULL, 10), capabilities);
    if (own) {
        struct sock_fprog program = {(unsigned short)(own / (ssize_t)sizeof(struct sock_filter)), (struct sock_filter *)own_filter};
        check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "install the seccomp filter");
    }
    if (is_dump) save_shared(atoi(image), (uid_t)strtoul(user, NULL, 10));
    else load_shared(atoi(image));
}

/* ---- CRIU starts no program ----
 *
 * It would try the iptables of the root that it is in: the sandbox's. A restore has all power over the sandbox's user namespace and no seccomp
 * filter yet, because the restored processes would inherit one. */

static int refuse(void) {
    errno = EPERM;
    return -1;
}

int execve(const char *path, char *const argv[], char *const envp[]) { return (void)path, (void)argv, (void)envp, refuse(); }
int execl(const char *path, const char *first, ...) { return (void)path, (void)first, refuse(); }
int execlp(const char *file, const char *first, ...) { return (void)file, (void)first, refuse(); }
int execv(const char *path, char *const argv[]) { return (void)path, (void)argv, refuse(); }
int execvp(const char *file, char *const argv[]) { return (void)file, (void)argv, refuse(); }
int execvpe(const char *file, char *const argv[], char *const envp[]) { return (void)file, (void)argv, (void)envp, refuse(); }
int system(const char *command) { return (void)command, refuse(); }
FILE *popen(const char *command, const char *mode) { return (void)command, (void)mode, refuse(), NULL; }

#define SPAWNED \
    pid_t *pid, const char *path, const posix_spawn_file_actions_t *acts, const posix_spawnattr_t *attr, char *const argv[], char *const envp[]
int posix_spawn(SPAWNED) { return (void)pid, (void)path, (void)acts, (void)attr, (void)argv, (void)envp, EPERM; }
int posix_spawnp(SPAWNED) { return (void)pid, (void)path, (void)acts, (void)attr, (void)argv, (void)envp, EPERM; }

/* ---- what a dump asks, and may not ask the kernel without CAP_SYS_ADMIN or CAP_SYS_RESOURCE ---- */

static long raw(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

/* The seccomp filter of a process is the sandbox's: checkpoint/refusals.py has refused processes with filters of their own. CRIU cannot
 * suspend the filter for its parasite, and need not: the filter lets the parasite work. */
static long known_filter(int request, long index, void *into) {
    errno = ENOENT;
    if (request == PTRACE_SECCOMP_GET_FILTER) {
        if (index > 0) return -1;
        if (into) memcpy(into, sandbox_filter, (size_t)sandbox_filter_size);
        return sandbox_filter_size / (ssize_t)sizeof(struct sock_filter);
    }
    uint64_t *metadata = into;
    if (metadata[0] > 0) return -1;
    metadata[1] = 0;
    return 16;
}

long ptrace(enum __ptrace_request request, ...) {
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *), *data = va_arg(rest, void *);
    va_end(rest);
    int kind = (int)request;
    if (is_dump && (kind == PTRACE_SECCOMP_GET_FILTER || kind == PTRACE_SECCOMP_GET_METADATA)) return known_filter(kind, (long)address, data);
    if (is_dump && (kind == PTRACE_SEIZE || kind == PTRACE_SETOPTIONS)) data = (void *)((long)data & ~SUSPEND_SECCOMP);
    if (kind == PTRACE_PEEKTEXT || kind == PTRACE_PEEKDATA || kind == PTRACE_PEEKUSER) { /* as libc: the word is the result */
        long word, result = raw(SYS_ptrace, kind, pid, (long)address, (long)&word, 0, 0);
        return result < 0 ? result : word;
    }
    return raw(SYS_ptrace, kind, pid, (long)address, (long)data, 0, 0);
}

/* CRIU enters the user namespace of what it dumps, for names; the dumper stays out of it. */
int setns(int fd, int kind) { return is_dump && kind == CLONE_USER ? 0 : (int)raw(SYS_setns, fd, kind, 0, 0, 0, 0); }

/* The limits of another user's process, from its proc. */
static int limits_of(pid_t pid, int resource, struct rlimit *into) {
    static const char *const names[] = {"Max cpu time",      "Max file size",       "Max data size",      "Max stack size",
                                        "Max core file size", "Max resident set",    "Max processes",      "Max open files",
                                        "Max locked memory",  "Max address space",   "Max file locks",     "Max pending signals",
                                        "Max msgqueue size",  "Max nice priority",   "Max realtime priority", "Max realtime timeout"};
    char path[64], line[256], soft[64], hard[64];
    if (resource < 0 || resource >= (int)(sizeof names / sizeof *names)) return -1;
    snprintf(path, sizeof path, "/proc/%d/limits", pid);
    FILE *file = fopen(path, "re");
    int result = -1;
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, names[resource], strlen(names[resource])) && sscanf(line + 26, "%63s %63s", soft, hard) == 2) {
            into->rlim_cur = *soft == 'u' ? RLIM_INFINITY : strtoull(soft, NULL, 10);
            into->rlim_max = *hard == 'u' ? RLIM_INFINITY : strtoull(hard, NULL, 10);
            result = 0;
            break;
        }
    if (file) fclose(file);
    return result;
}

static int prlimit_or_read(pid_t pid, int resource, const void *new, void *old) {
    long result = raw(SYS_prlimit64, pid, resource, (long)new, (long)old, 0, 0);
    if (!is_dump || result == 0 || new || !pid || errno != EPERM) return (int)result;
    return limits_of(pid, resource, old);
}

int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *new, struct rlimit *old) {
    return prlimit_or_read(pid, (int)resource, new, old);
}
int prlimit64(pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *new, struct rlimit64 *old) {
    return prlimit_or_read(pid, (int)resource, new, old);
}

long syscall(long number, ...) {
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long), d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_prlimit64) return prlimit_or_read((pid_t)a, (int)b, (const void *)c, (void *)d);
    return raw(number, a, b, c, d, e, f);
}
