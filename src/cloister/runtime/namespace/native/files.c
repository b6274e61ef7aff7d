/* Files, directories and mounts of a root that is being built (files.h). */
#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "setup.h"

#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#endif

void write_file(const char *path, const char *text, const char *step) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    check(fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text), step);
    close(fd);
}

void make_dirs(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        check(mkdir(path, 0755) && errno != EEXIST, "make directories");
        *slash = '/';
    }
    check(mkdir(path, 0755) && errno != EEXIST, "make directories");
}

void write_given_files(const char *key, const char *root) {
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

void attach_mount(int fd, const char *path, const char *step) {
    check(syscall(SYS_move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH), step);
    close(fd);
}

void bind_mount(const char *from, const char *to, unsigned long flags) {
    check(mount(from, to, NULL, MS_BIND, NULL), to);
    check(mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | flags, NULL), to);
}
