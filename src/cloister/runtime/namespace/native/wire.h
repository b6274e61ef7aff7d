/* The messages between the supervisor, the slot maker and a slot. Python's side: ../wire.py.
 *
 *   supervisor                 slot maker (pid 1 of zone Z)          slot child (pid 1 of the sandbox)
 *       | MAKE slot ------------->|                                        |
 *       |                         | unshare netns, clone(user,mnt,pid,…) ->| waits
 *       |                         | write uid_map, gid_map                 |
 *       |<- REPLY + 4 fds --------| (pidfd, userns, netns, control)        |
 *       | cgroup attach, veth, idmapped mounts                             |
 *       | SETUP strings + fds on control --------------------------------->| steps of slot.c, in order
 *       |<- OK, or FAIL step errno ----------------------------------------| then init.c, for ever
 *       | ZYGOTE slot ----------->| clone(mnt,net,ipc,uts) -> a process of the zone, set up and answered like a slot, then a zygote
 *       | VOLUMES --------------->| clone() -> a process of the zone, which enters the sandbox whose namespaces come with its SETUP (without a
 *       |                         |   filter), mounts volumes there, answers and ends (volumes.c)
 *       | LIST ------------------>|                                        |
 *       |<- REPLY + pidfd, one a live slot; last one has slot 0 ----------|
 *
 * Every socket is SOCK_SEQPACKET: one message a packet.
 */
#ifndef CLOISTER_WIRE_H
#define CLOISTER_WIRE_H

#include <stdint.h>
#include <sys/types.h>

enum op { OP_MAKE = 1, OP_LIST = 2, OP_ZYGOTE = 3, OP_VOLUMES = 4 };

struct request {
    uint32_t op;
    uint32_t slot; /* 1..slots of this zone; host uids start at zone base + slot * 65536 */
};

struct reply {
    uint32_t slot;
    int32_t error;  /* errno, 0 when all went well */
    char step[24];  /* the step that failed */
};

/* A SETUP packet is a run of "key=value\0" strings. Descriptors come with it, in the order of the `fd=` strings that name them. */
#define SETUP_MAX (192 * 1024)
#define SETUP_FDS 253 /* as many as the kernel lets one message carry (SCM_MAX_FD) */

/* Mount points /l/0, /l/1, … of the zone's root. The first are for a sandbox's layers (runtime/spec.py: MAX_LAYERS and the host layer), the
 * next for the layers of the agent's interpreter, for the fixed files of /proc, and for other trees. */
#define LAYER_PLACES 256
#define FIRST_INTERPRETER_LAYER 192
#define FIXED_TREE 248
#define FIRST_TREE 249

struct slot_result {
    int32_t error;
    char step[60];
};

/* slot.c: they never return. `control` is the slot's end of the control socket. */
void slot_main(int control) __attribute__((noreturn));

void zygote_main(int control) __attribute__((noreturn));

/* volumes.c: likewise. */
void volumes_main(int control) __attribute__((noreturn));

#define MAX_KEPT 8

struct orphan_end {
    int32_t pid, status; /* as wait(2) gives it */
};

/* init.c: the plan of pid 1, which the slot becomes once it is set up. */
struct init_plan {
    char **argv;   /* the payload: the agent, or a build step */
    char **envp;
    const char *cwd;
    uint32_t uid, gid;
    int restart;   /* 1: an agent, brought back when it dies; 0: a step, whose end is the sandbox's */
    int birth_fd;  /* a zygote's child reports here when it is to be the first payload; -1: none will come */
    int ends_fd;   /* gets a struct orphan_end for each orphan; -1: not wanted */
    int status_fd; /* step: exit status is written here as text; agent: start failures */
    int keep[MAX_KEPT + 1]; /* descriptors that become 3, 4, … of the payload; -1 ends */
    char once[MAX_KEPT + 1]; /* 1: only the first payload gets it */
    int log_fd;    /* stdout and stderr of the payload */
    pid_t restored; /* a restored sandbox: the process that was pid 1 there; 0: pid 1 starts the payload */
};
void init_main(struct init_plan *plan) __attribute__((noreturn));
void run_payload(const struct init_plan *plan) __attribute__((noreturn));

#endif
