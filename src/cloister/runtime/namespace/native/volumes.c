/* Mounts volumes into a sandbox: by its own set-up (slot.c), or into one that was made ahead, when a client gets it.
 *
 * In the second case a process of the zone does it, which the slot maker makes (OP_VOLUMES), because a sandbox that is set up has no power to
 * mount. Whose code runs: ours only, on directories of a hostile sandbox. With which power: that of the zone's root until it has entered the
 * sandbox's user namespace, and what mounting needs after it. It never enters the sandbox's pid namespace, so no process there can see,
 * trace or signal it. Invariants: I1, I2, I7 (a step that fails ends it, and the supervisor ends the sandbox).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "files.h"
#include "power.h"
#include "setup.h"

#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#endif
#ifndef MOVE_MOUNT_T_EMPTY_PATH
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif
#define TIMEOUT_S 25 /* less than the supervisor waits */

/* Opens the directory `name` of `parent`, which is closed, and makes it if it is missing; then `is_new` becomes 1. */
static int step_into(int parent, const char *name, int *is_new) {
    *is_new = !mkdirat(parent, name, 0755);
    check(!*is_new && errno != EEXIST, "make the place of a volume");
    int below = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    check(below < 0, "find the place of a volume; a link is not followed");
    close(parent);
    return below;
}

static int is_empty(int place) {
    int fd = openat(place, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    check(!entries, "look at the place of a volume");
    struct dirent *one;
    while ((one = readdir(entries)) && (!strcmp(one->d_name, ".") || !strcmp(one->d_name, ".."))) continue;
    closedir(entries);
    return !one;
}

/* "place=new" or "place=empty": programs run already. A place where one of them may stand, or that has what one has read, would not be the
 * same for it as for the next one. */
static void check_place(int place, int is_new) {
    const char *wanted = value("place");
    int fits = !wanted || is_new || (!strcmp(wanted, "empty") && is_empty(place));
    errno = EEXIST;
    check(!fits, "mount a volume over what programs may have seen");
}

void mount_volumes(void) {
    int index = 0;
    for (const char *at = next_value("fd", NULL); at; at = next_value("fd", at), index++) {
        if (index >= fd_count || strncmp(at + 3, "volume:", 7)) continue;
        char path[512], *rest = path, *name;
        int place = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), is_new = 0;
        snprintf(path, sizeof path, "%s", at + 10);
        check(place < 0, "find the root for a volume");
        while ((name = strtok_r(rest, "/", &rest))) place = step_into(place, name, &is_new);
        check_place(place, is_new);
        check(syscall(SYS_move_mount, fds[index], "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), "mount a volume");
        close(fds[index]);
        close(place);
    }
}

/* Becomes root of the sandbox in its mount namespace, whose root is the sandbox's. */
static void enter_sandbox(void) {
    static const int needed[] = {CAP_SYS_ADMIN, CAP_DAC_OVERRIDE};
    check(setns(fd_of("user"), CLONE_NEWUSER), "enter the sandbox's user namespace");
    check(setgroups(0, NULL) || setresgid(0, 0, 0) || setresuid(0, 0, 0), "become root of the sandbox");
    check(setns(fd_of("mnt"), CLONE_NEWNS), "enter the sandbox's mount namespace");
    keep_power(needed, sizeof needed / sizeof *needed);
    umask(022);
}

void volumes_main(int control_fd) {
    control = control_fd;
    alarm(TIMEOUT_S);
    check((control && close_range(0, (unsigned)control - 1, 0)) || close_range((unsigned)control + 1, ~0U, 0), "close descriptors");
    receive_strings();
    enter_sandbox();
    mount_volumes();
    struct slot_result done = {0};
    check(send(control, &done, sizeof done, MSG_NOSIGNAL) != sizeof done, "report");
    _exit(0);
}
