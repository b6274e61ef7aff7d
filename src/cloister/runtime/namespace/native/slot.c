/* The sandbox's side of its own making: an ordered list of steps, each of which must succeed (I7), then init.c. The making of a
 * zygote, at the end, has most of them too.
 *
 * Whose code runs: ours only, until init starts the payload. With which power: root of a new user namespace (a zygote: of the zone); nothing
 * over the host, the zone or another sandbox. What needs the host's power (id-mapped mounts, cgroups, the veth) was done by the supervisor before SETUP came.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/seccomp.h>
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
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/filter.h>

#include "caps.h"
#include "setup.h"
#include "wire.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#endif

/* Parts of /proc that tell of the host or change it. */
static const char *const masked_files[] = {"kcore", "keys", "key-users", "timer_list", "sched_debug", "latency_stats", "sysrq-trigger",
                                           "kmsg", "kallsyms", "modules", "kpagecount", "kpageflags", "kpagecgroup", "config.gz",
                                           "interrupts", "softirqs", "vmallocinfo", "slabinfo", "pagetypeinfo", "zoneinfo", "buddyinfo",
                                           "diskstats", "partitions", "iomem", "ioports", "mtrr", "cmdline", "version_signature",
                                           "swaps", "locks", "consoles", "bootconfig", "schedstat"};
static const char *const masked_dirs[] = {"acpi", "scsi", "asound", "bus", "driver", "tty", "irq", "pressure", "dynamic_debug", "mpt"};
static const char *const readonly_dirs[] = {"sys", "fs"};

#define LAYER_LIST 3072 /* of the 4096 bytes that a mount's options may have; LAYER_PLACES names of "/l/255/usr:" are 2816 */
#define MAX_FD 1024     /* above every descriptor of the SETUP packet and the few beside them */

/* ---- small file helpers; all paths are below the new root that this process is building ---- */

static void write_file(const char *path, const char *text, const char *step) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    check(fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text), step);
    close(fd);
}

static void make_dirs(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        check(mkdir(path, 0755) && errno != EEXIST, "make directories");
        *slash = '/';
    }
    check(mkdir(path, 0755) && errno != EEXIST, "make directories");
}

/* "KEY=/path\ncontent": writes each below `root`. */
static void write_given_files(const char *key, const char *root) {
    for (const char *at = next_value(key, NULL); at; at = next_value(key, at)) {
        const char *path = at + strlen(key) + 1, *newline = strchr(path, '\n');
        char copy[512];
        errno = EINVAL;
        check(!newline || newline - path >= (long)(sizeof copy - strlen(root)), "read a file to write");
        snprintf(copy, sizeof copy, "%s%.*s", root, (int)(newline - path), path);
        char *slash = strrchr(copy, '/');
        if (slash && slash != copy) {
            *slash = 0;
            make_dirs(copy);
            *slash = '/';
        }
        write_file(copy, newline + 1, copy);
    }
}

static void attach_mount(int fd, const char *path, const char *step) {
    check(syscall(SYS_move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH), step);
    close(fd);
}

/* ---- the steps ---- */

/* The "group" descriptors are of "tasks" (v1) or "cgroup.procs" (v2), opened by the supervisor; "0" is whoever writes. On v1 a process that
 * moves itself, by "tasks", spares the kernel the grace period that moving another one costs. */
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

/* Attaches the descriptors of one role below /l, from place `first` on, and lists them as overlayfs wants them: the topmost first. */
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

static void mount_root(void) {
    char layers[LAYER_LIST], options[LAYER_LIST + 256];
    attach_layers("lower", 0, "", layers, sizeof layers);
    attach_mount(fd_of("upper"), "/upper", "attach the writable layer");
    check(mkdir("/upper/u", 0755) && errno != EEXIST, "make the upper directory");
    check(mkdir("/upper/w", 0755) && errno != EEXIST, "make the work directory");
    write_given_files("own", "/upper/u"); /* above the template's, whatever those are, and nothing is to be copied up */
    snprintf(options, sizeof options, "userxattr,lowerdir=%s,upperdir=/upper/u,workdir=/upper/w", layers);
    check(mount("overlay", "/new", "overlay", MS_NODEV, options), "mount the overlay");
    check(chdir("/new"), "enter the overlay");
}

/* A zygote's root: the layers alone, below a layer of mount points, since nobody makes directories in them. */
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
    size_t count = attach_layers("interpreter", FIRST_INTERPRETER_LAYER, "/usr", layers, sizeof layers);
    if (!count) return; /* a build step has no agent */
    make_dirs(path);
    snprintf(options, sizeof options, "userxattr,lowerdir=%s%s", layers, count == 1 ? ":/files" : ""); /* overlayfs wants two lower ones without an upper */
    check(mount("overlay", path, "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options), "mount the agent's interpreter");
}

static void mount_dev(void) {
    char options[64];
    char dev[] = "/new/dev";
    make_dirs(dev);
    attach_mount(fd_of("dev"), "/new/dev", "attach /dev");
    check(mount("devpts", "/new/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"), "mount /dev/pts");
    snprintf(options, sizeof options, "mode=1777,size=%ld", number("shm", 64 << 20));
    check(mount("shm", "/new/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, options), "mount /dev/shm");
    check(mount("mqueue", "/new/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount /dev/mqueue");
}

/* Mounts that the supervisor prepared: "mount=/destination" takes the descriptor of that role. */
static void mount_given(void) {
    int index = 0;
    for (const char *at = next_value("fd", NULL); at; at = next_value("fd", at), index++) {
        if (strncmp(at + 3, "mount:", 6) || index >= fd_count) continue;
        char path[512];
        snprintf(path, sizeof path, "/new%s", at + 9);
        make_dirs(path);
        attach_mount(fds[index], path, path);
    }
}

static void bind_readonly(const char *from, const char *to) {
    check(mount(from, to, NULL, MS_BIND, NULL), to);
    check(mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), to);
}

static void hide_parts_of_proc(void) {
    char path[128];
    for (size_t i = 0; i < sizeof masked_files / sizeof *masked_files; i++) {
        snprintf(path, sizeof path, "/new/proc/%s", masked_files[i]);
        if (access(path, F_OK)) continue;
        check(mount("/new/dev/null", path, NULL, MS_BIND, NULL), path);
    }
    for (size_t i = 0; i < sizeof masked_dirs / sizeof *masked_dirs; i++) {
        snprintf(path, sizeof path, "/new/proc/%s", masked_dirs[i]);
        if (access(path, F_OK)) continue;
        check(mount("none", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=555,size=0"), path);
    }
    for (size_t i = 0; i < sizeof readonly_dirs / sizeof *readonly_dirs; i++) {
        snprintf(path, sizeof path, "/new/proc/%s", readonly_dirs[i]);
        if (!access(path, F_OK)) bind_readonly(path, path);
    }
}

/* "procfile=name\ncontent": what /proc says of memory, processors and the boot is the sandbox's, not the host's. After /proc/sys became
 * read-only: that is a mount of its own, below which what was mounted before would be hidden. */
static void replace_parts_of_proc(void) {
    check(mount("files", "/files", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=1m"), "mount the file store");
    int index = 0;
    for (const char *at = next_value("procfile", NULL); at; at = next_value("procfile", at)) {
        const char *name = at + strlen("procfile="), *newline = strchr(name, '\n');
        char from[128], to[128];
        errno = EINVAL;
        check(!newline, "read a proc file");
        snprintf(from, sizeof from, "/files/%d", index++);
        snprintf(to, sizeof to, "/new/proc/%.*s", (int)(newline - name), name);
        write_file(from, newline + 1, "write a proc file");
        bind_readonly(from, to);
    }
}

static void mount_proc(void) {
    char proc[] = "/new/proc";
    make_dirs(proc);
    check(mount("proc", "/new/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount /proc");
}

static void start_own_clock(void) {
    struct timespec now;
    char text[128];
    check(unshare(CLONE_NEWTIME), "make time namespace");
    check(clock_gettime(CLOCK_BOOTTIME, &now), "read the clock");
    long boot = now.tv_sec - 1;
    check(clock_gettime(CLOCK_MONOTONIC, &now), "read the clock");
    snprintf(text, sizeof text, "monotonic -%ld 0\nboottime -%ld 0\n", (long)now.tv_sec - 1, boot);
    int fd = open("/new/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
    check(fd < 0 || write(fd, text, strlen(text)) < 0, "set the sandbox's clock");
    close(fd);
}

static void forbid_nested_user_namespaces(void) {
    int fd = open("/new/proc/sys/user/max_user_namespaces", O_WRONLY | O_CLOEXEC);
    check(fd < 0 || write(fd, "0", 1) != 1, "forbid nested user namespaces");
    close(fd);
}

/* Counted for host root as well, whose limit all sandboxes share: one must not use up what the host and its neighbours need. */
static void cap_inotify(void) {
    const char *const caps[][2] = {{"/new/proc/sys/user/max_inotify_instances", "32"}, {"/new/proc/sys/user/max_inotify_watches", "65536"}};
    for (size_t i = 0; i < sizeof caps / sizeof *caps; i++) {
        int fd = open(caps[i][0], O_WRONLY | O_CLOEXEC);
        size_t length = strlen(caps[i][1]);
        check(fd < 0 || write(fd, caps[i][1], length) != (ssize_t)length, "cap inotify");
        close(fd);
    }
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

/* After this nothing can be mounted, no namespace entered or made, and no capability outside kept_caps had again. A zygote keeps one more, to
 * enter namespaces; its filter allows that call. */
static void give_up_power(int also_kept) {
    struct sock_fprog program = {(unsigned short)(filter_size / (ssize_t)sizeof(struct sock_filter)), (struct sock_filter *)filter_bytes};
    for (int cap = 0; cap <= 63; cap++) {
        if (is_kept_cap(cap) || cap == also_kept) continue;
        if (prctl(PR_CAPBSET_READ, cap) == 1) check(prctl(PR_CAPBSET_DROP, cap), "drop a capability");
    }
    check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities");
    check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "install the seccomp filter");
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    for (int cap = 0; cap <= 63; cap++)
        if (is_kept_cap(cap) || cap == also_kept) data[cap / 32].effective = data[cap / 32].permitted |= 1u << (cap % 32);
    check(syscall(SYS_capset, &header, data), "give up capabilities");
}

static int listen_on_loopback(int port) {
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    check(sock < 0 || setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
              bind(sock, (struct sockaddr *)&address, sizeof address) || listen(sock, 1024),
          "listen on the sandbox's loopback");
    return sock;
}

static int ends_pipe(struct init_plan *plan) {
    int pair[2];
    check(pipe2(pair, O_CLOEXEC | O_NONBLOCK), "make a pipe");
    plan->ends_fd = pair[1];
    return pair[0];
}

/* Where a template's tree has no directory for it (an image may be a single program), that is made. */
static int open_log(const char *path) {
    int flags = O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, fd = open(path, flags, 0600);
    if (fd >= 0 || errno != ENOENT) return fd;
    char *parent = strdup(path);
    check(!parent, "make directories");
    *strrchr(parent, '/') = 0;
    make_dirs(parent);
    free(parent);
    return open(path, flags, 0600);
}

/* "keep=…", in the order of the payload's descriptors from 3 on: a received one by role, "listen:PORT", or "ends", the pipe that tells
 * of orphans' ends. "once:" before it: only the first payload gets it. */
static void fill_plan(struct init_plan *plan) {
    int count = 0;
    plan->ends_fd = -1;
    for (const char *at = next_value("keep", NULL); at; at = next_value("keep", at)) {
        const char *what = at + strlen("keep=");
        errno = EINVAL;
        check(count >= MAX_KEPT, "keep descriptors");
        if (!strncmp(what, "once:", 5)) plan->once[count] = 1, what += 5;
        plan->keep[count++] = !strcmp(what, "ends") ? ends_pipe(plan) : strncmp(what, "listen:", 7) ? fd_of(what) : listen_on_loopback(atoi(what + 7));
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
    plan->log_fd = fd_of("log");
    if (plan->log_fd < 0) plan->log_fd = open_log(value("log"));
    check(!plan->argv[0] || plan->status_fd < 0 || plan->log_fd < 0, "prepare the payload");
}

static void close_all_but(const struct init_plan *plan) {
    for (int fd = 0; fd < MAX_FD; fd++) {
        int wanted = fd == plan->status_fd || fd == plan->log_fd || fd == control || fd == plan->birth_fd || fd == plan->ends_fd;
        for (int i = 0; plan->keep[i] >= 0; i++) wanted |= fd == plan->keep[i];
        if (!wanted) close(fd);
    }
    check(close_range(MAX_FD, ~0U, 0), "close descriptors");
}

/* What a zygote needs to enter this sandbox; the supervisor has the network namespace already. Order: wire.py. */
static void report_done(int with_namespaces) {
    const char *const names[] = {"pid", "user", "mnt", "ipc", "uts", "cgroup", "time_for_children"};
    enum { COUNT = sizeof names / sizeof *names };
    struct slot_result done = {0};
    int handles[COUNT];
    char path[64], space[CMSG_SPACE(sizeof handles)] = {0};
    struct iovec iov = {&done, sizeof done};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    for (int i = 0; with_namespaces && i < COUNT; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        handles[i] = open(path, O_RDONLY | O_CLOEXEC);
        check(handles[i] < 0, "open a namespace");
    }
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
    for (int i = 0; with_namespaces && i < COUNT; i++) close(handles[i]);
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
    mount_proc(); /* before anything hides a part of the zone's */
    mount_dev();
    mount_interpreter();
    mount_given();
    start_own_clock();
    forbid_nested_user_namespaces();
    cap_inotify();
    hide_parts_of_proc();
    replace_parts_of_proc();
    enter_root();
    write_given_files("write", ""); /* what tells of this sandbox where its template has a file or none */
    set_limits();
    fill_plan(&plan);
    close_all_but(&plan);
    give_up_power(-1);
    report_done(plan.birth_fd >= 0);
    init_main(&plan);
}

/* What is not here is the zone's, not a zygote's to set: its limits on namespaces and inotify, its clock. */
void zygote_main(int control_fd) {
    static struct init_plan plan;
    begin(control_fd);
    mount_fixed_root();
    mount_proc();
    mount_dev();
    mount_interpreter();
    mount_given();
    hide_parts_of_proc();
    replace_parts_of_proc();
    enter_root();
    set_limits();
    fill_plan(&plan);
    close_all_but(&plan);
    give_up_power(CAP_SYS_ADMIN);
    report_done(0);
    run_payload(&plan);
}
