/* The files of a sandbox's /dev/shm in a memory image. A call that fails ends the process with the step's name. */
#ifndef CLOISTER_SHARED_H
#define CLOISTER_SHARED_H

#include <sys/types.h>

#define HIDDEN __attribute__((visibility("hidden"))) /* CRIU's own names go first, and none of ours replaces one of a library */

HIDDEN void check(int failed, const char *step);

/* Writes the files of /dev/shm into the directory `image`. `first_id` is the host's id of the sandbox's root. The sandbox stands still. */
HIDDEN void save_shared(int image, uid_t first_id);

/* Makes them again in a /dev/shm that is empty. */
HIDDEN void load_shared(int image);

#endif
