/* Runs a program as another user: become REPORT UID GID GROUP,… PROGRAM [ARGUMENT …]. The agent starts it by vfork, which copies no memory.
 * Its own fork with a change of user would have to copy the agent's page tables (docs/decisions/1350-become.md).
 *
 * Runs in: the sandbox, as its root, until it has the user. REPORT is a descriptor that the program does not get: it closes when the program
 * runs, and tells the errno of the step that failed otherwise. Static; compiled where the agent's tree is made (tree.sh). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define NOT_FOUND 127
#define FIRST_OF_PROGRAM 5

static void take_groups(const char *list) {
    size_t count = 0;
    gid_t *groups = malloc((strlen(list) + 1) * sizeof *groups);
    if (!groups) return;
    for (char *end; *list; list = *end ? end + 1 : end) groups[count++] = (gid_t)strtoul(list, &end, 10);
    errno = setgroups(count, groups) ? errno : 0;
}

/* As Python's subprocess searches: every directory, and the first error that does not only mean "not here". */
static void run(char **program) {
    if (strchr(program[0], '/')) {
        execv(program[0], program);
        return;
    }
    const char *path = getenv("PATH");
    if (!path) path = "/bin:/usr/bin";
    int told = 0;
    char place[PATH_MAX];
    for (const char *end; path; path = *end ? end + 1 : NULL) {
        end = strchrnul(path, ':');
        int length = (int)(end - path);
        int size = snprintf(place, sizeof place, "%.*s%s%s", length, path, length && end[-1] != '/' ? "/" : "", program[0]);
        if (size < 0 || size >= (int)sizeof place) errno = ENAMETOOLONG;
        else execv(place, program);
        if (errno != ENOENT && errno != ENOTDIR && !told) told = errno;
    }
    errno = told ? told : ENOENT;
}

int main(int argc, char **argv) {
    if (argc <= FIRST_OF_PROGRAM) return NOT_FOUND;
    int report = atoi(argv[1]);
    uid_t uid = (uid_t)strtoul(argv[2], NULL, 10);
    gid_t gid = (gid_t)strtoul(argv[3], NULL, 10);
    errno = ENOMEM;
    take_groups(argv[4]);
    if (!errno && !setresgid(gid, gid, gid) && !setresuid(uid, uid, uid) && !fcntl(report, F_SETFD, FD_CLOEXEC)) run(argv + FIRST_OF_PROGRAM);
    int failed = errno ? errno : EINVAL;
    ssize_t ignored = write(report, &failed, sizeof failed);
    (void)ignored;
    return NOT_FOUND;
}
