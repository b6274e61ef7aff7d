/* The capabilities of a sandbox's root: the usual set of containers without those that a sandbox does not need. All others leave the
 * bounding set: in power.c for programs that pid 1 starts, in join.c for the children of a zygote. */
#ifndef CLOISTER_CAPS_H
#define CLOISTER_CAPS_H

#include <linux/capability.h>

static const int kept_caps[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL, CAP_SETGID, CAP_SETUID,
                                CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_AUDIT_WRITE, CAP_SETFCAP};
#define KEPT_CAPS (sizeof kept_caps / sizeof *kept_caps)

static inline int is_kept_cap(int cap) {
    for (unsigned i = 0; i < KEPT_CAPS; i++)
        if (kept_caps[i] == cap) return 1;
    return 0;
}

#endif
