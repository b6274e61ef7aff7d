/* Restricts /proc of a sandbox. Each entry at its top is one of four:
 *
 *   own      a file that was written for this sandbox ("procfile" of the packet)
 *   fixed    a file or directory of the tree that all sandboxes of the server have (../proctree.py); all of /proc/sys but `live`
 *   shown    as the kernel has it: it tells of this sandbox's namespaces only, or cannot be replaced (tests/security/proc_inventory.txt)
 *   masked   everything else, so also what a newer kernel adds
 *
 * Whose code runs: ours only, before any other. What lies below /proc/<pid> cannot be masked, since each process has a directory of its own.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "files.h"
#include "setup.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC 02000000
#endif

static const char *const shown[] = {"sysvipc", "uptime", "version"};

/* Parts of /proc/sys that belong to the sandbox's own namespaces (pid_max: from Linux 6.14 on), or that are random. */
static const char *const live[] = {"net", "user", "fs/mqueue", "kernel/hostname", "kernel/domainname", "kernel/pid_max", "kernel/random/uuid"};
enum { LIVE = sizeof live / sizeof *live };

static int is_shown(const char *name) {
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        if (!strcmp(name, shown[i])) return 1;
    return 0;
}

static int is_own(const char *name) {
    for (const char *at = next_value("procfile", NULL); at; at = next_value("procfile", at)) {
        size_t length = strlen(name);
        const char *own = at + strlen("procfile=");
        if (!strncmp(own, name, length) && own[length] == '\n') return 1;
    }
    return 0;
}

static void fit_entry(const struct dirent *entry) {
    char path[300], fixed[300];
    if (entry->d_type == DT_LNK || is_shown(entry->d_name) || is_own(entry->d_name)) return; /* a link leads to an entry that is restricted itself */
    snprintf(path, sizeof path, "/new/proc/%s", entry->d_name);
    snprintf(fixed, sizeof fixed, "/fixed/%s", entry->d_name);
    if (!access(fixed, F_OK)) bind_mount(fixed, path, SEALED);
    else if (entry->d_type == DT_DIR) bind_mount("/memory/empty", path, SEALED);
    else bind_mount("/new/dev/null", path, MS_RDONLY | MS_NOSUID | MS_NOEXEC);
}

/* All entries at the top but the directories of processes, "." and "..". */
static void fit_entries(void) {
    DIR *proc = opendir("/new/proc");
    check(!proc, "list /proc");
    for (const struct dirent *entry; (errno = 0, entry = readdir(proc));)
        if (entry->d_name[0] != '.' && strspn(entry->d_name, "0123456789") != strlen(entry->d_name)) fit_entry(entry);
    check(errno, "list /proc");
    closedir(proc);
}

static void write_own_files(void) {
    int index = 0;
    for (const char *at = next_value("procfile", NULL); at; at = next_value("procfile", at)) {
        const char *name = at + strlen("procfile="), *newline = strchr(name, '\n');
        char from[128], to[128];
        errno = EINVAL;
        check(!newline, "read a proc file");
        snprintf(from, sizeof from, "/memory/proc/%d", index++);
        snprintf(to, sizeof to, "/new/proc/%.*s", (int)(newline - name), name);
        write_file(from, newline + 1, "write a proc file");
        bind_mount(from, to, SEALED);
    }
}

void fit_proc(void) {
    int trees[LIVE];
    char path[128];
    for (int i = 0; i < LIVE; i++) {
        snprintf(path, sizeof path, "/new/proc/sys/%s", live[i]);
        trees[i] = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        check(trees[i] < 0 && errno != ENOENT, path);
    }
    fit_entries();
    for (int i = 0; i < LIVE; i++) {
        if (trees[i] < 0) continue; /* this kernel does not have it */
        snprintf(path, sizeof path, "/new/proc/sys/%s", live[i]);
        attach_mount(trees[i], path, path);
        check(mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | SEALED, NULL), path);
    }
    write_own_files();
}
