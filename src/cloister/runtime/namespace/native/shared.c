/* Carries the files of /dev/shm from a sandbox that is saved to the one that is restored: CRIU saves none that has a name, and the tmpfs
 * goes with the sandbox.
 *
 * Whose code runs: ours, on names and contents of a hostile sandbox, in the dumper or the restorer after it has given up power (criu.c). It
 * follows no symlink. The image has one file, a sequence of items:
 *
 *   struct item, its path below /dev/shm, the target of a link; of a regular file also spans of data, until one of no bytes
 *
 * A directory comes twice: before what is in it, and after that for its times. Attributes and ACLs are not kept. Invariants: I1, I2, I7.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <search.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shared.h"

#define PLACE "/dev/shm"
#define NAME "shared.img"
#define MOST_DEPTH 64
#define IDS 65536u
#define NOBODY 65534u
#define A_LINK 0 /* the mode of a second name of a file */

struct item {
    uint64_t size;
    int64_t seconds;
    uint32_t nanoseconds, mode, uid, gid, path_bytes, target_bytes;
};
struct span {
    int64_t start, bytes;
};
struct known { /* a file with several names */
    ino_t inode;
    char path[];
};

static FILE *file;
static uid_t first;
static void *several; /* of struct known */
static char block[1 << 16];

static void put(const void *data, size_t bytes) { check(bytes && fwrite(data, bytes, 1, file) != 1, "write the files of /dev/shm"); }

static void get(void *data, size_t bytes) {
    errno = EINVAL;
    check(bytes && fread(data, bytes, 1, file) != 1, "read the files of /dev/shm");
}

static int by_inode(const void *a, const void *b) {
    const struct known *left = a, *right = b;
    return (left->inode > right->inode) - (left->inode < right->inode);
}

/* The name under which a file with several names was saved before; NULL: it was not. */
static const char *first_name(ino_t inode, const char *path) {
    struct known *one = malloc(sizeof *one + strlen(path) + 1);
    check(!one, "remember a file");
    one->inode = inode;
    strcpy(one->path, path);
    struct known **found = tsearch(one, &several, by_inode);
    check(!found, "remember a file");
    if (*found == one) return NULL;
    free(one);
    return (*found)->path;
}

static uint32_t inside(uint32_t id) { return id - first < IDS ? id - first : NOBODY; }

static void put_item(const char *path, const char *target, const struct stat *status, mode_t mode) {
    struct item item = {
        .size = S_ISREG(mode) ? (uint64_t)status->st_size : 0,
        .seconds = status->st_mtim.tv_sec,
        .nanoseconds = (uint32_t)status->st_mtim.tv_nsec,
        .mode = mode,
        .uid = inside(status->st_uid),
        .gid = inside(status->st_gid),
        .path_bytes = (uint32_t)strlen(path),
        .target_bytes = (uint32_t)strlen(target),
    };
    put(&item, sizeof item);
    put(path, item.path_bytes);
    put(target, item.target_bytes);
}

static void put_data(int directory, const char *name) {
    struct span span = {0, 0};
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    check(fd < 0, "open a file of /dev/shm");
    for (;;) {
        span.start = lseek(fd, span.start + span.bytes, SEEK_DATA);
        if (span.start < 0 && errno == ENXIO) break;
        span.bytes = lseek(fd, span.start, SEEK_HOLE) - span.start;
        check(span.start < 0 || span.bytes <= 0, "find the data of a file of /dev/shm");
        put(&span, sizeof span);
        for (int64_t done = 0; done < span.bytes;) {
            size_t rest = (size_t)(span.bytes - done);
            ssize_t got = pread(fd, block, rest < sizeof block ? rest : sizeof block, span.start + done);
            check(got <= 0, "read a file of /dev/shm");
            put(block, (size_t)got);
            done += got;
        }
    }
    put(&(struct span){0, 0}, sizeof span);
    close(fd);
}

static void save_directory(int fd, const char *path, int depth);

/* fstatat(2). Its name in the C library, as mknodat's, is newer than the one that the program promises to run with. */
static long look(int directory, const char *name, struct stat *status, int flags) {
    return syscall(SYS_newfstatat, directory, name, status, flags);
}

static void save_one(int directory, const char *name, const char *path, int depth) {
    struct stat status;
    char target[PATH_MAX] = "";
    check(look(directory, name, &status, AT_SYMLINK_NOFOLLOW), "look at a file of /dev/shm");
    if (S_ISDIR(status.st_mode)) {
        put_item(path, "", &status, status.st_mode);
        int fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        check(fd < 0, "open a directory of /dev/shm");
        save_directory(fd, path, depth + 1);
        put_item(path, "", &status, status.st_mode);
        return;
    }
    const char *before = status.st_nlink > 1 ? first_name(status.st_ino, path) : NULL;
    if (before) {
        put_item(path, before, &status, A_LINK);
        return;
    }
    if (S_ISLNK(status.st_mode)) check(readlinkat(directory, name, target, sizeof target - 1) < 0, "read a link of /dev/shm");
    put_item(path, target, &status, status.st_mode);
    if (S_ISREG(status.st_mode)) put_data(directory, name);
}

/* Closes `fd`. */
static void save_directory(int fd, const char *path, int depth) {
    DIR *entries = fdopendir(fd);
    check(!entries, "read a directory of /dev/shm");
    errno = ELOOP;
    check(depth > MOST_DEPTH, "save /dev/shm: its directories are too deep");
    for (struct dirent *one; (one = readdir(entries));) {
        char below[PATH_MAX];
        if (!strcmp(one->d_name, ".") || !strcmp(one->d_name, "..")) continue;
        int bytes = snprintf(below, sizeof below, "%s%s%s", path, *path ? "/" : "", one->d_name);
        errno = ENAMETOOLONG;
        check(bytes >= (int)sizeof below, "save /dev/shm: its paths are too long");
        save_one(fd, one->d_name, below, depth);
    }
    closedir(entries);
}

static int open_place(void) {
    int fd = open(PLACE, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    check(fd < 0, "open /dev/shm");
    return fd;
}

void save_shared(int image, uid_t first_id) {
    struct stat status;
    int place = open_place(), fd = openat(image, NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    file = fd < 0 ? NULL : fdopen(fd, "we");
    check(!file || look(place, "", &status, AT_EMPTY_PATH), "make the file for /dev/shm");
    first = first_id;
    save_directory(place, "", 0);
    put_item(".", "", &status, status.st_mode);
    check(fclose(file), "write the files of /dev/shm");
}

static void get_data(int fd) {
    for (struct span span;;) {
        get(&span, sizeof span);
        if (!span.bytes) return;
        errno = EINVAL;
        check(span.bytes < 0, "read the files of /dev/shm");
        while (span.bytes) {
            size_t part = (size_t)span.bytes < sizeof block ? (size_t)span.bytes : sizeof block;
            get(block, part);
            check(pwrite(fd, block, part, span.start) != (ssize_t)part, "write a file of /dev/shm");
            span.start += (int64_t)part;
            span.bytes -= (int64_t)part;
        }
    }
}

/* A file, directory, link, pipe or socket at `path`, with the data that follows its item. */
static void make(int place, const char *path, const char *target, const struct item *item) {
    if (S_ISDIR(item->mode)) {
        check(mkdirat(place, path, 0700) && errno != EEXIST, "make a directory of /dev/shm");
    } else if (S_ISLNK(item->mode)) {
        check(symlinkat(target, place, path), "make a link of /dev/shm");
    } else if (S_ISREG(item->mode)) {
        int fd = openat(place, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        check(fd < 0 || ftruncate(fd, (off_t)item->size), "make a file of /dev/shm");
        get_data(fd);
        close(fd);
    } else {
        check(syscall(SYS_mknodat, place, path, item->mode & (S_IFMT | 0600), 0), "make a pipe or a socket of /dev/shm");
    }
}

static void load_one(int place) {
    struct item item;
    char path[PATH_MAX], target[PATH_MAX];
    get(&item, sizeof item);
    errno = ENAMETOOLONG;
    check(item.path_bytes >= sizeof path || item.target_bytes >= sizeof target, "read the files of /dev/shm");
    get(path, item.path_bytes);
    get(target, item.target_bytes);
    path[item.path_bytes] = target[item.target_bytes] = 0;
    if (item.mode == A_LINK) {
        check(linkat(place, target, place, path, 0), "make a second name in /dev/shm");
        return;
    }
    make(place, path, target, &item);
    check(fchownat(place, path, item.uid, item.gid, AT_SYMLINK_NOFOLLOW), "give a file of /dev/shm to its owner");
    if (!S_ISLNK(item.mode)) check(fchmodat(place, path, item.mode & 07777, 0), "set the mode of a file of /dev/shm");
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = item.seconds, .tv_nsec = item.nanoseconds}};
    check(utimensat(place, path, times, AT_SYMLINK_NOFOLLOW), "set the time of a file of /dev/shm");
}

void load_shared(int image) {
    int place = open_place(), fd = openat(image, NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return; /* an image of an earlier release, which refused to save such files */
    file = fd < 0 ? NULL : fdopen(fd, "re");
    check(!file, "open the file for /dev/shm");
    for (int next; (next = getc(file)) != EOF;) {
        ungetc(next, file);
        load_one(place);
    }
    fclose(file);
    close(place);
}
