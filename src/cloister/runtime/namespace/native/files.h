/* Files, directories and mounts of a root that is being built. A call that fails ends the process with the step's name (setup.h). */
#ifndef CLOISTER_FILES_H
#define CLOISTER_FILES_H

#include <sys/mount.h>

#define SEALED (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)

void write_file(const char *path, const char *text, const char *step);
void make_dirs(char *path); /* changes `path` while it runs, and restores it */

/* "KEY=/path\ncontent": writes each below `root`. */
void write_given_files(const char *key, const char *root);

/* Puts a detached mount at `path`, and closes its descriptor. */
void attach_mount(int fd, const char *path, const char *step);

/* Shows the file or directory `from` at `to` as well, with these flags of mount(2) and no others. */
void bind_mount(const char *from, const char *to, unsigned long flags);

/* volumes.c: mounts the descriptors "volume:/path", once "/" is the sandbox's root. A template or a volume may have links on the way: none is
 * followed. */
void mount_volumes(void);

/* procfs.c: restricts /new/proc to the parts that a sandbox may see, with files from /memory and /fixed. */
void fit_proc(void);

#endif
