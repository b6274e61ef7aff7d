/* Pid 1 of a sandbox of the gVisor runtime: makes the descriptors of the agent, then is the init of all sandboxes (init.c).
 *
 *   cloister-guest LOG PORT PORT RELAY_PORT PROGRAM ARGUMENT...
 *
 * It gets the init document as descriptor 0 and the ready pipe as descriptor 1; no program of the sandbox does. The sockets listen on all
 * addresses, because the host reaches the sandbox's own network stack by its address only. Static: the root may be of any libc.
 * Runs in: the sandbox, as its root. Invariant: I3.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../namespace/native/wire.h"

/* Descriptors of the agent from 3 on: architecture.md, "What a sandbox sees". */
enum { INIT, CONTROL, INTERPRETER, STATUS, KERNEL, ENDS, RELAY, ROLES };

static void check(int failed, const char *what) {
    if (!failed) return;
    dprintf(1, "cannot %s: %s\n", what, strerror(errno));
    _exit(1);
}

static int copy_document(void) {
    char buffer[1 << 16];
    int memory = memfd_create("init", MFD_CLOEXEC);
    check(memory < 0, "make room for the init document");
    for (ssize_t got; (got = read(0, buffer, sizeof buffer));) check(got < 0 || write(memory, buffer, (size_t)got) != got, "read the init document");
    return memory;
}

static int listen_on(const char *port) {
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr = {htonl(INADDR_ANY)}};
    check(sock < 0 || setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
              bind(sock, (struct sockaddr *)&address, sizeof address) || listen(sock, 1024),
          "listen");
    return sock;
}

/* Makes the directories of the path, whose last part is a file. */
static void make_parents(const char *path) {
    char *copy = strdup(path);
    check(!copy, "make directories");
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(copy, 0755);
        *slash = '/';
    }
    free(copy);
}

/* Programs may have put anything there on a disk of an earlier sandbox, which must start all the same. */
static int open_log(const char *path) {
    make_parents(path);
    int log = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    return log >= 0 ? log : open("/dev/null", O_RDWR | O_CLOEXEC);
}

int main(int argc, char **argv, char **envp) {
    int kernel[2], ends[2], one = 1;
    struct init_plan plan = {.cwd = "/", .restart = 1, .birth_fd = -1};
    errno = EINVAL;
    check(argc < 6, "start without a program");
    unlink("/tmp/.cloister-start"); /* launch.py: it keeps gVisor from hiding /tmp below a file system in memory */
    check(fcntl(1, F_SETFD, FD_CLOEXEC), "keep the ready pipe");
    plan.keep[INIT] = copy_document();
    plan.keep[CONTROL] = listen_on(argv[2]);
    plan.keep[INTERPRETER] = listen_on(argv[3]);
    plan.keep[STATUS] = plan.status_fd = fcntl(1, F_DUPFD_CLOEXEC, 3);
    /* The other end is closed: the first agent learns that no kernel was forked for it, and that it is the first. */
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, kernel) || setsockopt(kernel[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one), "make the kernel's socket");
    close(kernel[1]);
    plan.keep[KERNEL] = kernel[0];
    plan.once[KERNEL] = 1;
    check(pipe2(ends, O_CLOEXEC | O_NONBLOCK), "make a pipe");
    plan.keep[ENDS] = ends[0];
    plan.ends_fd = ends[1];
    plan.keep[RELAY] = listen_on(argv[4]);
    plan.keep[ROLES] = -1;
    plan.log_fd = open_log(argv[1]);
    check(plan.log_fd < 0 || plan.status_fd < 0, "open the log");
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    check(null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(plan.log_fd, 2) < 0, "leave the given descriptors");
    plan.argv = argv + 5;
    plan.envp = envp;
    init_main(&plan);
}
