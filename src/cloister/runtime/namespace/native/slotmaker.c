/* The slot maker: makes the namespaces of sandboxes inside a user namespace ("zone") without any power over the host.
 *
 * Usage: cloister-slotmaker SYNC_FD LISTEN_FD
 *   SYNC_FD    SOCK_SEQPACKET to the supervisor, used once: from it comes the host uid of the zone's root, as uint32_t; to it "U" when the
 *              namespaces exist (the supervisor then writes the uid and gid maps and answers "G"), then the pidfd of the slot maker proper
 *   LISTEN_FD  listening SOCK_SEQPACKET; one supervisor at a time is served, the next one after it is gone
 *
 * The kernel counts pending signals, message queues, inotify instances and namespaces of a user namespace for the user who
 * made it as well, in the namespace above, and so on up to the host (user_namespaces(7), /proc/sys/user). Were that user the host's root,
 * a sandbox could use up the host's own. So each user namespace here is made by a user of its own: a zone by its own root,
 * a sandbox by its root as the zone sees it. What that user has, all users of the sandbox have together: see bound_sandboxes().
 *
 * Whose code runs: ours only. With which power: host root until the unshare in main(), nothing over the host after it.
 * Invariants: I1, I3, I8 (it outlives the supervisor; as pid 1 of the zone its end is the end of every sandbox in it).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wire.h"

#define MAX_SLOTS 1024
#define IDS_PER_SLOT 65536u

static pid_t slot_pid[MAX_SLOTS + 1];
static char stack[256 * 1024] __attribute__((aligned(16))); /* for a clone, until it has its own copy */
static int home_netns;

static void die(const char *what) {
    fprintf(stderr, "cloister-slotmaker: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int send_with_fds(int sock, const void *data, size_t size, const int *fds, int count) {
    struct iovec iov = {(void *)data, size};
    char space[CMSG_SPACE(sizeof(int) * 8)] = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count > 0) {
        msg.msg_control = space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * count);
    }
    return sendmsg(sock, &msg, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static int write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t done = write(fd, text, strlen(text));
    int saved = errno;
    close(fd);
    errno = saved;
    return done == (ssize_t)strlen(text) ? 0 : -1;
}

/* Raises the zone's limits to all that the host's root may give; without CAP_SYS_RESOURCE that is its own hard limit. */
static void unbound_zone(int resource) {
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    if (!setrlimit(resource, &all)) return;
    if (errno != EPERM || getrlimit(resource, &all)) die("unbound the zone");
    all.rlim_cur = all.rlim_max;
    if (setrlimit(resource, &all)) die("unbound the zone");
}

/* Limits one sandbox to `most`, and to a quarter of the limit of the whole zone. */
static void bound_sandbox(int resource, rlim_t most) {
    struct rlimit zone;
    if (getrlimit(resource, &zone)) die("read the zone's bound");
    if (zone.rlim_max != RLIM_INFINITY && zone.rlim_max / 4 < most) most = zone.rlim_max / 4;
    struct rlimit both = {most, most};
    if (setrlimit(resource, &both)) die("bound sandboxes");
}

/* Limits of one sandbox for objects that the kernel counts for a user. A user namespace keeps the limits of the process that makes it as bounds
 * for all users below it together, and the values of the namespace above bound what it counts there. Processes of the zone inherit the
 * limits, those of sandboxes and zygotes too, and none of them may raise them again (no CAP_SYS_RESOURCE). */
static void bound_sandboxes(void) {
    bound_sandbox(RLIMIT_SIGPENDING, 4096); /* queued signals and timers */
    bound_sandbox(RLIMIT_MSGQUEUE, 819200); /* bytes of POSIX message queues */
    if (write_file("proc/sys/user/max_inotify_instances", "32")) die("bound inotify instances");
    if (write_file("proc/sys/user/max_inotify_watches", "16384")) die("bound inotify watches");
}

/* Makes the user namespaces of the clone or unshare that follows belong to `owner`; 0 is the caller's own again. The child is dumpable, which
 * the change has taken back, because its id maps are written by way of /proc. What makes sandboxes is not to be traced from the zone. */
static int act_as(uid_t owner) {
    if (setresuid((uid_t)-1, owner, (uid_t)-1)) return -1;
    return prctl(PR_SET_DUMPABLE, owner ? 1 : 0);
}

/* The zone's root: a tmpfs with a clean /proc (a user namespace may mount proc only where one is fully visible) and mount points. */
static void make_zone_root(void) {
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("make mounts private");
    if (mount("zone", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=1m")) die("mount the zone's root");
    if (chdir("/tmp")) die("enter the zone's root");
    const char *dirs[] = {"proc", "l", "upper", "new", "memory", "fixed", "empty"};
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
        if (mkdir(dirs[i], 0755)) die("make a mount point");
    char name[16];
    for (int i = 0; i < LAYER_PLACES; i++) {
        snprintf(name, sizeof name, "l/%d", i);
        if (mkdir(name, 0755)) die("make a layer mount point");
    }
    if (mount("empty", "empty", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=555,size=0,nr_inodes=8")) die("mount an empty directory");
    if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) die("mount the zone's proc");
    bound_sandboxes();
    if (syscall(SYS_pivot_root, ".", ".")) die("enter the zone's root (pivot_root)");
    if (umount2(".", MNT_DETACH)) die("leave the host's root");
    if (chdir("/")) die("chdir");
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) die("make the zone's root read-only");
}

static int slot_child(void *control) { slot_main((int)(intptr_t)control); }

static int map_ids(pid_t pid, uint32_t slot) {
    char path[64], text[64];
    snprintf(text, sizeof text, "0 %u %u", slot * IDS_PER_SLOT, IDS_PER_SLOT);
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    if (write_file(path, text)) return -1;
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    return write_file(path, text);
}

/* Makes one slot and reports it; on failure nothing of it is left. */
static void make_slot(int conn, uint32_t slot) {
    struct reply reply = {.slot = slot};
    int pair[2] = {-1, -1}, fds[4] = {-1, -1, -1, -1};
    pid_t pid = -1;
    const char *step = "check slot number";
    errno = EINVAL;
    if (slot < 1 || slot > MAX_SLOTS) goto failed;
    errno = EBUSY;
    if (slot_pid[slot]) goto failed;
    step = "make control socket";
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) goto failed;
    step = "make network namespace"; /* owned by the zone, not by the sandbox: its root has no power over it */
    if (unshare(CLONE_NEWNET)) goto failed;
    fds[2] = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    step = "clone";
    if (fds[2] >= 0 && !act_as(slot * IDS_PER_SLOT))
        pid = clone(slot_child, stack + sizeof stack, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD,
                    (void *)(intptr_t)pair[1]);
    int saved = errno;
    if (act_as(0)) die("become root of the zone again");
    if (setns(home_netns, CLONE_NEWNET)) die("return to the zone's network namespace");
    errno = saved;
    if (pid < 0) goto failed;
    step = "map user and group ids";
    if (map_ids(pid, slot)) goto failed;
    char path[64];
    step = "open the slot's handles";
    fds[0] = (int)syscall(SYS_pidfd_open, pid, 0);
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    fds[1] = open(path, O_RDONLY | O_CLOEXEC);
    fds[3] = pair[0];
    if (fds[0] < 0 || fds[1] < 0) goto failed;
    slot_pid[slot] = pid;
    if (send_with_fds(conn, &reply, sizeof reply, fds, 4)) {
        kill(pid, SIGKILL); /* the supervisor does not know it; the loop reaps it */
    }
    goto out;
failed:
    reply.error = errno;
    snprintf(reply.step, sizeof reply.step, "%s", step);
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    send_with_fds(conn, &reply, sizeof reply, NULL, 0);
out:
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0) close(fds[i]);
    for (int i = 0; i < 2; i++)
        if (pair[i] >= 0) close(pair[i]);
}

static int zygote_child(void *control) { zygote_main((int)(intptr_t)control); }
static int volumes_child(void *control) { volumes_main((int)(intptr_t)control); }

/* Makes a process of the zone: a zygote, which has namespaces of its own, or one that mounts volumes. It ends with its control connection, so
 * no list keeps it. */
static void make_helper(int conn, uint32_t slot, int (*child)(void *), int namespaces) {
    struct reply reply = {.slot = slot};
    int pair[2] = {-1, -1}, fds[2] = {-1, -1};
    pid_t pid = -1;
    if (!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        pid = clone(child, stack + sizeof stack, namespaces | SIGCHLD, (void *)(intptr_t)pair[1]);
    if (pid > 0) {
        fds[0] = (int)syscall(SYS_pidfd_open, pid, 0);
        fds[1] = pair[0];
    }
    if (fds[0] < 0) {
        reply.error = errno;
        snprintf(reply.step, sizeof reply.step, "make a helper");
    }
    if (send_with_fds(conn, &reply, sizeof reply, fds, reply.error ? 0 : 2) || reply.error)
        if (pid > 0) kill(pid, SIGKILL); /* the loop reaps it */
    if (fds[0] >= 0) close(fds[0]);
    for (int i = 0; i < 2; i++)
        if (pair[i] >= 0) close(pair[i]);
}

static void list_slots(int conn) {
    for (uint32_t slot = 1; slot <= MAX_SLOTS; slot++) {
        if (!slot_pid[slot]) continue;
        struct reply reply = {.slot = slot};
        int fd = (int)syscall(SYS_pidfd_open, slot_pid[slot], 0);
        if (fd < 0) continue;
        send_with_fds(conn, &reply, sizeof reply, &fd, 1);
        close(fd);
    }
    struct reply last = {0};
    send_with_fds(conn, &last, sizeof last, NULL, 0);
}

static void reap(void) {
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
        for (int slot = 1; slot <= MAX_SLOTS; slot++)
            if (slot_pid[slot] == pid) slot_pid[slot] = 0;
}

static void on_child(int signum) { (void)signum; }

static void serve(int listener) __attribute__((noreturn));
static void serve(int listener) {
    struct sigaction action = {.sa_handler = on_child};
    sigaction(SIGCHLD, &action, NULL);
    sigset_t blocked, open_mask;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_BLOCK, &blocked, &open_mask);
    int conn = -1;
    prctl(PR_SET_DUMPABLE, 0); /* see act_as */
    for (;;) {
        reap();
        struct pollfd waiting = {.fd = conn >= 0 ? conn : listener, .events = POLLIN};
        if (ppoll(&waiting, 1, NULL, &open_mask) < 0) continue;
        if (conn < 0) {
            conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            continue;
        }
        struct request request;
        ssize_t size = recv(conn, &request, sizeof request, 0);
        if (size <= 0) { /* the supervisor is gone; the next one comes to the listener */
            close(conn);
            conn = -1;
            continue;
        }
        reap(); /* the supervisor may use a slot number again as soon as its process is gone */
        if (size == sizeof request && request.op == OP_MAKE) make_slot(conn, request.slot);
        if (size == sizeof request && request.op == OP_LIST) list_slots(conn);
        if (size == sizeof request && request.op == OP_ZYGOTE)
            make_helper(conn, request.slot, zygote_child, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
        if (size == sizeof request && request.op == OP_VOLUMES) make_helper(conn, request.slot, volumes_child, 0);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: cloister-slotmaker SYNC_FD LISTEN_FD (started by the supervisor only)\n");
        return 2;
    }
    int sync = atoi(argv[1]), listener = atoi(argv[2]);
    if (setgroups(0, NULL)) die("drop supplementary groups");
    unbound_zone(RLIMIT_SIGPENDING);
    unbound_zone(RLIMIT_MSGQUEUE);
    uint32_t owner;
    if (recv(sync, &owner, sizeof owner, 0) != sizeof owner || act_as(owner)) die("become the zone's owner");
    /* From here on this process has no power over the host. */
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)) die("unshare");
    char answer;
    if (send(sync, "U", 1, MSG_NOSIGNAL) != 1 || recv(sync, &answer, 1, 0) != 1 || answer != 'G') die("wait for the id maps");
    if (setresgid(0, 0, 0) || setresuid(0, 0, 0)) die("become root of the zone");
    if (prctl(PR_SET_DUMPABLE, 1)) die("stay visible in the zone's proc");
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid > 0) {
        int fd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (fd < 0 || send_with_fds(sync, "P", 1, &fd, 1)) die("report the slot maker");
        return 0;
    }
    close(sync);
    setsid();
    make_zone_root();
    home_netns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home_netns < 0) die("open the zone's network namespace");
    fcntl(listener, F_SETFD, FD_CLOEXEC);
    int null = open("/proc/self/fd/0", O_RDWR); /* the supervisor starts us with /dev/null on 0 */
    if (null >= 0) {
        dup2(null, 1);
        close(null);
    }
    serve(listener);
}
