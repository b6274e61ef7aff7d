/* Sets up a sandbox from inside: an ordered list of steps, then init.c. A step that fails ends the sandbox (I7). The set-up of a zygote, at
 * the end of this file, has most of the same steps.
 *
 * Whose code runs: ours only, until init starts the payload.
 * With which power: root of a new user namespace (a zygote: of the zone). It has none over the host, the zone or another sandbox. The
 * supervisor has done all steps that need the host's power (id-mapped mounts, control groups, the veth) before it sends SETUP.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
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
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/capability.h>

#include "files.h"
#include "power.h"
#include "setup.h"
#include "wire.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

#define LAYER_LIST 3072 /* of the 4096 bytes that a mount's options may have; LAYER_PLACES names of "/l/255/usr:" are 2816 */
#define TERMINALS "64"  /* of kernel.pty.max, which is one amount for the whole host */
#define MAX_FD 1024     /* above every descriptor of the SETUP packet and the few beside them */

/* ---- the steps ---- */

/* The "group" descriptors are files "tasks" (v1) or "cgroup.procs" (v2), which the supervisor opened; "0" means the writer. On v1 a process
 * that moves itself, by "tasks", saves the grace period that the kernel needs to move another one. */
static void join_control_group(void) {
    int index = 0;
    for (const char *at = next_value("fd", NULL); at; at = next_value("fd", at), index++)
        if (!strcmp(at + 3, "group") && index < fd_count) check(write(fds[index], "0", 1) != 1, "join the control group");
}

static void become_root(void) {
    check(setgroups(0, NULL) || setresgid(0, 0, 0) || setresuid(0, 0, 0), "become root of the sandbox");
    check(prctl(PR_SET_DUMPABLE, 1), "stay visible in the sandbox's proc"); /* init.c takes it back */
    setsid();
    umask(022);
    join_control_group();
    check(unshare(CLONE_NEWCGROUP), "make cgroup namespace");
    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make mounts private");
}

/* Attaches the descriptors of one role below /l, from /l/`first` on, and lists them in the order of overlayfs: the topmost first. */
static size_t attach_layers(const char *role, int first, const char *below, char *options, size_t size) {
    char path[64];
    size_t used = 0;
    int layers = 0, index = 0;
    for (const char *at = next_value("fd", NULL); at; at = next_value("fd", at), index++)
        if (!strcmp(at + 3, role) && index < fd_count) {
            snprintf(path, sizeof path, "/l/%d", first + layers++);
            attach_mount(fds[index], path, "attach a layer");
        }
    for (int i = layers - 1; i >= 0 && used < size; i--)
        used += (size_t)snprintf(options + used, size - used, "/l/%d%s%s", first + i, below, i ? ":" : "");
    errno = E2BIG;
    check(used >= size, "list the layers");
    return (size_t)layers;
}

/* A disk of an earlier sandbox has the files of that one. Without them the sandbox would start as a new one. */
static void find_upper(void) {
    int fd = open("/upper/u", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    check(fd < 0, "find the sandbox's files on its disk");
    close(fd);
}

static void mount_root(void) {
    char layers[LAYER_LIST], options[LAYER_LIST + 256];
    attach_layers("lower", 0, "", layers, sizeof layers);
    attach_mount(fd_of("upper"), "/upper", "attach the writable layer");
    if (value("kept")) find_upper();
    else check(mkdir("/upper/u", 0755) && errno != EEXIST, "make the upper directory");
    check(mkdir("/upper/w", 0755) && errno != EEXIST, "make the work directory");
    write_given_files("own", "/upper/u"); /* in the upper, so that they hide the template's and nothing is copied up */
    /* index=off, whatever the host's default: an index binds the upper to this host layer, and a later server has a newer one */
    snprintf(options, sizeof options, "userxattr,index=off,lowerdir=%s,upperdir=/upper/u,workdir=/upper/w", layers);
    check(mount("overlay", "/new", "overlay", MS_NODEV, options), "mount the overlay");
    check(chdir("/new"), "enter the overlay");
}

/* A zygote's root: its layers, read-only, below a layer with the mount points, because no directory can be made in them. */
static void mount_fixed_root(void) {
    const char *const points[] = {"/upper/proc", "/upper/dev", "/upper/tmp", "/upper/.cloister", "/upper/.cloister/rt", "/upper/.cloister/agent"};
    char layers[LAYER_LIST], options[LAYER_LIST + 256];
    attach_layers("lower", 0, "", layers, sizeof layers);
    check(mount("points", "/upper", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k"), "mount the mount points");
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) check(mkdir(points[i], 0755), "make a mount point");
    snprintf(options, sizeof options, "userxattr,lowerdir=/upper:%s", layers);
    check(mount("overlay", "/new", "overlay", MS_RDONLY | MS_NODEV | MS_NOSUID, options), "mount the overlay");
    check(chdir("/new"), "enter the overlay");
    check(mount("tmp", "/new/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=16m"), "mount /tmp");
}

/* The agent's own interpreter: /usr of the base template, whatever the sandbox's template is. */
static void mount_interpreter(void) {
    char layers[LAYER_LIST], options[LAYER_LIST + 256], path[] = "/new/.cloister/rt";
    if (!attach_layers("interpreter", FIRST_INTERPRETER_LAYER, "/usr", layers, sizeof layers)) return; /* a build step has no agent */
    make_dirs(path);
    snprintf(options, sizeof options, "userxattr,lowerdir=/empty:%s", layers);
    check(mount("overlay", path, "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options), "mount the agent's interpreter");
}

/* Shows a tree that the supervisor prepared as an overlay. So sandboxes share no inode of it, hence no lock and no watch, and they see
 * no path of the host.
 * Overlayfs answers statfs(2) from the topmost layer, so with /empty there the host's disk is not told of. */
static void mount_tree(int fd, int place, const char *path) {
    char layer[32], options[64];
    struct statvfs found;
    snprintf(layer, sizeof layer, "/l/%d", place);
    attach_mount(fd, layer, path);
    check(statvfs(layer, &found), path);
    unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | (found.f_flag & ST_NOEXEC ? MS_NOEXEC : 0);
    snprintf(options, sizeof options, "userxattr,lowerdir=/empty:%s", layer);
    check(mount("overlay", path, "overlay", flags, options), path);
}

/* The file system in memory that the supervisor made for this sandbox: devices, shared memory, and room for files of /proc. */
static void mount_memory(void) {
    attach_mount(fd_of("memory"), "/memory", "attach the sandbox's memory file system");
    mount_tree(fd_of("fixed"), FIXED_TREE, "/fixed");
}

static void mount_dev(void) {
    char dev[] = "/new/dev";
    make_dirs(dev);
    bind_mount("/memory/dev", "/new/dev", MS_RDONLY | MS_NOSUID | MS_NOEXEC);
    bind_mount("/memory/shm", "/new/dev/shm", MS_NOSUID | MS_NODEV);
    check(mount("devpts", "/new/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5,max=" TERMINALS), "mount /dev/pts");
    check(mount("mqueue", "/new/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount /dev/mqueue");
}

/* Mounts that the supervisor prepared: "mount=/destination" takes the descriptor of that role, "tree:/destination" shows it as an overlay. */
static void mount_given(void) {
    int index = 0, place = FIRST_TREE;
    for (const char *at = next_value("fd", NULL); at; at = next_value("fd", at), index++) {
        int is_tree = !strncmp(at + 3, "tree:", 5);
        if (index >= fd_count || (!is_tree && strncmp(at + 3, "mount:", 6))) continue;
        char path[512];
        snprintf(path, sizeof path, "/new%s", strchr(at + 3, ':') + 1);
        make_dirs(path);
        if (is_tree) mount_tree(fds[index], place++, path);
        else attach_mount(fds[index], path, path);
    }
}

static void mount_proc(const char *options) {
    char proc[] = "/new/proc";
    make_dirs(proc);
    check(mount("proc", "/new/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, options), "mount /proc");
}

/* Starts the sandbox's clocks at "clock" seconds: 1, or where a restored sandbox's stood. Pid 1 enters the time namespace too, because
 * CRIU dumps no process whose own namespace differs from that of its children. */
static void start_own_clock(void) {
    struct timespec boot, monotonic;
    char text[128];
    long start = number("clock", 1);
    check(unshare(CLONE_NEWTIME), "make time namespace");
    check(clock_gettime(CLOCK_BOOTTIME, &boot) || clock_gettime(CLOCK_MONOTONIC, &monotonic), "read the clock");
    snprintf(text, sizeof text, "monotonic %ld 0\nboottime %ld 0\n", start - (long)monotonic.tv_sec, start - (long)boot.tv_sec);
    int fd = open("/new/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
    check(fd < 0 || write(fd, text, strlen(text)) < 0, "set the sandbox's clock");
    close(fd);
    fd = open("/new/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
    check(fd < 0 || setns(fd, CLONE_NEWTIME), "enter the sandbox's clock");
    close(fd);
}

/* "last_pid": above every number that a restored process has, so that no process of the restore itself takes one of them. */
static void skip_pids(void) {
    const char *last = value("last_pid");
    if (last) write_file("/new/proc/sys/kernel/ns_last_pid", last, "skip the pids of the restored processes");
}

static void forbid_nested_user_namespaces(void) {
    int fd = open("/new/proc/sys/user/max_user_namespaces", O_WRONLY | O_CLOEXEC);
    check(fd < 0 || write(fd, "0", 1) != 1, "forbid nested user namespaces");
    close(fd);
}

static void enter_root(void) {
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(umount2(".", MNT_DETACH), "leave the zone's root");
    check(chdir("/"), "enter the root");
}

static void set_limits(void) {
    rlim_t files = (rlim_t)number("nofile", 65536);
    struct rlimit nofile, core = {0, 0};
    check(getrlimit(RLIMIT_NOFILE, &nofile), "read the limit of open files");
    if (nofile.rlim_max > files) nofile.rlim_max = files; /* the host's own limit may be lower: it cannot be raised here */
    nofile.rlim_cur = nofile.rlim_max;
    check(setrlimit(RLIMIT_NOFILE, &nofile), "limit open files");
    check(setrlimit(RLIMIT_CORE, &core), "forbid core dumps");
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    char list[512], *rest = list;
    snprintf(list, sizeof list, "%s", value("cpus") ? value("cpus") : "");
    for (char *item; (item = strsep(&rest, ",")) && *item;) CPU_SET(atoi(item), &cpus);
    check(sched_setaffinity(0, sizeof cpus, &cpus), "choose processors");
    write_file("/proc/self/oom_score_adj", value("oom_score_adj") ? value("oom_score_adj") : "500", "offer to the OOM killer");
    const char *name = value("hostname");
    check(name && sethostname(name, strlen(name)), "set the host name");
}

static int listen_on_loopback(int port) {
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    check(sock < 0 || setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
              bind(sock, (struct sockaddr *)&address, sizeof address) || listen(sock, 1024),
          "listen on the sandbox's loopback");
    return sock;
}

static int kernels_end = -1;

/* The pair between the agent and its first kernel; a kernel zygote's child gets the other end. It is made here because CRIU dumps only
 * sockets of the sandbox's own network namespace. The agent learns by SO_PASSCRED who its kernel is. */
static int kernel_socket(void) {
    int pair[2], one = 1;
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) || setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one), "make the kernel's socket");
    kernels_end = pair[1];
    return pair[0];
}

static int ends_pipe(struct init_plan *plan) {
    int pair[2];
    check(pipe2(pair, O_CLOEXEC | O_NONBLOCK), "make a pipe");
    plan->ends_fd = pair[1];
    return pair[0];
}

static int try_log(const char *path) {
    int flags = O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, fd = open(path, flags, 0600);
    if (fd >= 0 || errno != ENOENT) return fd;
    char *parent = strdup(path);
    check(!parent, "make directories");
    *strrchr(parent, '/') = 0;
    make_dirs(parent);
    free(parent);
    return open(path, flags, 0600);
}

/* Makes the directory of the log if the template has none: an image may be a single program. Programs may have put anything there on a
 * disk of an earlier sandbox, which must start all the same. */
static int open_log(const char *path) {
    int fd = try_log(path);
    return fd < 0 && value("kept") ? open("/dev/null", O_RDWR | O_CLOEXEC) : fd;
}

static int kept_fd(struct init_plan *plan, const char *what) {
    if (!strcmp(what, "ends")) return ends_pipe(plan);
    if (!strcmp(what, "kernel")) return kernel_socket();
    return strncmp(what, "listen:", 7) ? fd_of(what) : listen_on_loopback(atoi(what + 7));
}

/* "keep=…", in the order of the payload's descriptors from 3 on: a received one by role, "listen:PORT", "kernel", or "ends", the pipe that
 * tells of orphans' ends. "once:" before it: only the first payload gets it. */
static void fill_plan(struct init_plan *plan) {
    int count = 0;
    plan->ends_fd = -1;
    for (const char *at = next_value("keep", NULL); at; at = next_value("keep", at)) {
        const char *what = at + strlen("keep=");
        errno = EINVAL;
        check(count >= MAX_KEPT, "keep descriptors");
        if (!strncmp(what, "once:", 5)) plan->once[count] = 1, what += 5;
        plan->keep[count++] = kept_fd(plan, what);
    }
    plan->keep[count] = -1;
    plan->argv = values("argv");
    plan->envp = values("env");
    plan->cwd = value("cwd") ? value("cwd") : "/";
    plan->uid = (uint32_t)number("uid", 0);
    plan->gid = (uint32_t)number("gid", 0);
    plan->restart = (int)number("restart", 0);
    plan->birth_fd = fd_of("birth");
    plan->status_fd = fd_of("status");
    plan->restored = (pid_t)number("restored", 0);
    check(plan->birth_fd >= 0 && kernels_end < 0, "prepare for zygotes");
    if (plan->restored) { /* it brings its own descriptors */
        plan->log_fd = -1;
        return;
    }
    plan->log_fd = fd_of("log");
    if (plan->log_fd < 0) plan->log_fd = open_log(value("log"));
    check(!plan->argv[0] || plan->status_fd < 0 || plan->log_fd < 0, "prepare the payload");
}

static void close_all_but(const struct init_plan *plan) {
    for (int fd = 0; fd < MAX_FD; fd++) {
        int wanted = fd == plan->status_fd || fd == plan->log_fd || fd == control || fd == plan->birth_fd || fd == plan->ends_fd || fd == kernels_end;
        for (int i = 0; plan->keep[i] >= 0; i++) wanted |= fd == plan->keep[i];
        if (!wanted) close(fd);
    }
    check(close_range(MAX_FD, ~0U, 0), "close descriptors");
}

/* Sends the namespaces by which a zygote enters this sandbox, and the kernel's end of its socket. The supervisor has the network namespace
 * already. Order: wire.py. */
static void report_done(int with_namespaces) {
    const char *const names[] = {"pid", "user", "mnt", "ipc", "uts", "cgroup", "time_for_children"};
    enum { COUNT = sizeof names / sizeof *names };
    struct slot_result done = {0};
    int handles[COUNT + 1];
    char path[64], space[CMSG_SPACE(sizeof handles)] = {0};
    struct iovec iov = {&done, sizeof done};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    for (int i = 0; with_namespaces && i < COUNT; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        handles[i] = open(path, O_RDONLY | O_CLOEXEC);
        check(handles[i] < 0, "open a namespace");
    }
    handles[COUNT] = kernels_end;
    if (with_namespaces) {
        msg.msg_control = space;
        msg.msg_controllen = sizeof space;
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof handles);
        memcpy(CMSG_DATA(head), handles, sizeof handles);
    }
    check(sendmsg(control, &msg, MSG_NOSIGNAL) != sizeof done, "report");
    for (int i = 0; with_namespaces && i <= COUNT; i++) close(handles[i]);
    close(control);
}

static void begin(int control_fd) {
    control = control_fd;
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL); /* the server may have been started with SIGINT ignored */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    receive_setup();
    become_root();
}

void slot_main(int control_fd) {
    static struct init_plan plan;
    begin(control_fd);
    mount_root();
    mount_proc(NULL); /* first: the kernel allows it only while no part of the zone's /proc is hidden */
    mount_memory();
    mount_dev();
    mount_interpreter();
    mount_given();
    start_own_clock();
    skip_pids();
    forbid_nested_user_namespaces();
    fit_proc();
    enter_root();
    mount_volumes();
    write_given_files("write", ""); /* files that describe this sandbox, whether or not its template has them */
    set_limits();
    fill_plan(&plan);
    close_all_but(&plan);
    give_up_power(NULL, 0);
    report_done(plan.birth_fd >= 0);
    init_main(&plan);
}

/* The steps that are missing here would change the zone, not the zygote: its limit on namespaces, its clock.
 * A zygote with a "uid" runs code of a template
 * (docs/decisions/0702-power-of-a-kernel-zygote.md): it sees no process but its own, and has no power over another. */
void zygote_main(int control_fd) {
    static const int ours[] = {CAP_SYS_ADMIN}, of_template[] = {CAP_SYS_ADMIN, CAP_DAC_OVERRIDE};
    static struct init_plan plan;
    begin(control_fd);
    uid_t user = (uid_t)number("uid", 0);
    mount_fixed_root();
    mount_proc(user ? "hidepid=2" : NULL);
    mount_memory();
    mount_dev();
    mount_interpreter();
    mount_given();
    fit_proc();
    enter_root();
    set_limits();
    fill_plan(&plan);
    close_all_but(&plan);
    if (user) {
        become_user(user, of_template, sizeof of_template / sizeof *of_template);
        plan.uid = plan.gid = 0; /* done already: run_payload must not change it back */
    } else {
        give_up_power(ours, 1);
    }
    report_done(0);
    run_payload(&plan);
}
