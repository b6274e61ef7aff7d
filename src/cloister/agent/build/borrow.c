/* Runs a program of the agent's interpreter tree under its own name, in an image that has none of that name: provision.py makes
 * /bin/bash, say, a link to this. The tree brings its own dynamic loader and libraries, so the image's libc, if any, plays no part;
 * programs that are started from there are the image's own again. To the kernel the program is called ld-linux-x86-64 (ps, pgrep without -f).
 * Static; compiled where the agent's tree is made (tree.sh). */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#define RT "/.cloister/rt"
#define SELF "/.cloister/agent/bin/borrow"
#define NOT_EXECUTABLE 126
#define NOT_FOUND 127

static const char *const DIRECTORIES[] = {RT "/bin", RT "/sbin"};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The name of the link by which the kernel came here, since a caller may put anything into argv[0]. For a script it came by the script, which
 * is no such link; then argv[0] is what its first line names. */
static const char *wanted_name(const char *argv0)
{
    const char *path = (const char *)getauxval(AT_EXECFN);
    char target[sizeof SELF];
    if (path && readlink(path, target, sizeof target) == sizeof SELF - 1 && memcmp(target, SELF, sizeof SELF - 1) == 0)
        return base_name(path);
    return base_name(argv0[0] == '-' ? argv0 + 1 : argv0);
}

int main(int argc, char **argv)
{
    if (argc < 1)
        return NOT_FOUND;
    const char *name = wanted_name(argv[0]);
    char program[256];
    size_t i, count = sizeof DIRECTORIES / sizeof *DIRECTORIES;
    for (i = 0; i < count; i++) {
        if ((size_t)snprintf(program, sizeof program, "%s/%s", DIRECTORIES[i], name) < sizeof program && access(program, X_OK) == 0)
            break;
    }
    if (i == count) {
        fprintf(stderr, "%s: not found in " RT "\n", name);
        return NOT_FOUND;
    }
    char *words[] = {RT "/lib64/ld-linux-x86-64.so.2", "--argv0", argv[0], "--library-path", RT "/lib/x86_64-linux-gnu", program};
    size_t given = sizeof words / sizeof *words;
    char **all = calloc(given + (size_t)argc, sizeof *all);
    if (!all)
        return NOT_EXECUTABLE;
    memcpy(all, words, sizeof words);
    memcpy(all + given, argv + 1, (size_t)argc * sizeof *all); /* with the null at its end */
    execv(words[0], all);
    fprintf(stderr, "%s: cannot be run: %s\n", name, strerror(errno));
    return NOT_EXECUTABLE;
}
