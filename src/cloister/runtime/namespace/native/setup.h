/* The SETUP packet of a slot or a zygote: "key=value\0" strings, descriptors named by their role, a seccomp filter. */
#ifndef CLOISTER_SETUP_H
#define CLOISTER_SETUP_H

#include <stddef.h>
#include <sys/types.h>

#include "wire.h"

extern int control; /* the socket to the supervisor, until the result is sent */
extern int fds[SETUP_FDS];
extern int fd_count;
extern char filter_bytes[65536];
extern ssize_t filter_size;

/* Waits for the packet; ends the process when the supervisor closed the socket instead. */
void receive_setup(void);
void receive_strings(void); /* the same for a packet without a filter */

/* Sends the step and errno to the supervisor, and ends the process. */
void fail(const char *step) __attribute__((noreturn));
void check(int failed, const char *step);

/* The string of `key` after the one at `after` (NULL: the first), with its key; NULL when there is none. */
const char *next_value(const char *key, const char *after);
const char *value(const char *key); /* the value of the first such string; NULL: none */
long number(const char *key, long otherwise);
char **values(const char *key); /* all values, NULL at the end */
int fd_of(const char *role);    /* -1: none */

#endif
