/* Receives and reads the SETUP packet (setup.h). Keeps it as long as the process lives, because values point into it. */
#define _GNU_SOURCE
#include "setup.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_ARGS 512

int control;
int fds[SETUP_FDS];
int fd_count;
char filter_bytes[65536];
ssize_t filter_size;
static char setup[SETUP_MAX + 1];
static size_t setup_size;

void fail(const char *step) {
    struct slot_result result = {.error = errno ? errno : EIO};
    snprintf(result.step, sizeof result.step, "%s", step);
    send(control, &result, sizeof result, MSG_NOSIGNAL);
    _exit(1);
}

void check(int failed, const char *step) {
    if (failed) fail(step);
}

const char *next_value(const char *key, const char *after) {
    size_t length = strlen(key);
    const char *at = after ? after + strlen(after) + 1 : setup;
    for (; at < setup + setup_size; at += strlen(at) + 1)
        if (!strncmp(at, key, length) && at[length] == '=') return at;
    return NULL;
}

const char *value(const char *key) {
    const char *found = next_value(key, NULL);
    return found ? found + strlen(key) + 1 : NULL;
}

long number(const char *key, long otherwise) {
    const char *text = value(key);
    return text ? strtol(text, NULL, 10) : otherwise;
}

char **values(const char *key) {
    char **list = calloc(MAX_ARGS + 1, sizeof *list);
    check(!list, "allocate");
    size_t count = 0;
    for (const char *at = next_value(key, NULL); at; at = next_value(key, at)) {
        errno = E2BIG;
        check(count == MAX_ARGS, key);
        list[count++] = (char *)at + strlen(key) + 1;
    }
    return list;
}

int fd_of(const char *role) {
    int index = 0;
    for (const char *at = next_value("fd", NULL); at; at = next_value("fd", at), index++)
        if (!strcmp(at + 3, role)) return index < fd_count ? fds[index] : -1;
    return -1;
}

void receive_strings(void) {
    struct iovec iov = {setup, SETUP_MAX};
    char space[CMSG_SPACE(sizeof fds)];
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    ssize_t size = recvmsg(control, &msg, MSG_CMSG_CLOEXEC);
    if (size <= 0) _exit(0); /* the supervisor closed this slot, or died, before it was used */
    errno = EMSGSIZE;
    check(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC), "receive the set-up");
    setup_size = (size_t)size;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&msg); head; head = CMSG_NXTHDR(&msg, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
        fd_count = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(head), sizeof(int) * (size_t)fd_count);
    }
}

void receive_setup(void) {
    receive_strings();
    filter_size = recv(control, filter_bytes, sizeof filter_bytes, 0);
    errno = EINVAL;
    check(filter_size <= 0 || filter_size % sizeof(struct sock_filter), "receive the seccomp filter");
}
