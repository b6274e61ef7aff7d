/* Gives up power (power.h): users, capabilities and the seccomp filter of the SETUP packet. A step that fails ends the process (I7). */
#define _GNU_SOURCE
#include "power.h"

#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "caps.h"
#include "setup.h"

static uint64_t mask_of(const int *caps, size_t count) {
    uint64_t mask = 0;
    for (size_t i = 0; i < count; i++) mask |= UINT64_C(1) << caps[i];
    return mask;
}

static void set_capabilities(uint64_t permitted, uint64_t inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    for (int half = 0; half < 2; half++) {
        data[half].effective = data[half].permitted = (uint32_t)(permitted >> (32 * half));
        data[half].inheritable = (uint32_t)(inheritable >> (32 * half));
    }
    check(syscall(SYS_capset, &header, data), "give up capabilities");
}

static void bound_capabilities(uint64_t kept) {
    for (int cap = 0; cap <= 63; cap++) {
        if (kept >> cap & 1) continue;
        if (prctl(PR_CAPBSET_READ, cap) == 1) check(prctl(PR_CAPBSET_DROP, cap), "drop a capability");
    }
    check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities");
}

static void install_filter(void) {
    struct sock_fprog program = {(unsigned short)(filter_size / (ssize_t)sizeof(struct sock_filter)), (struct sock_filter *)filter_bytes};
    check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "install the seccomp filter");
}

void give_up_power(const int *also, size_t count) {
    uint64_t kept = mask_of(kept_caps, KEPT_CAPS) | mask_of(also, count);
    bound_capabilities(kept);
    install_filter();
    set_capabilities(kept, 0);
}

void keep_power(const int *caps, size_t count) {
    bound_capabilities(mask_of(caps, count));
    set_capabilities(mask_of(caps, count), 0);
}

void become_user(uid_t user, const int *caps, size_t count) {
    uint64_t kept = mask_of(caps, count);
    bound_capabilities(kept);
    check(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "keep capabilities over a change of user");
    check(setgroups(0, NULL) || setresgid(user, user, user) || setresuid(user, user, user), "become another user of the zone");
    set_capabilities(kept, kept);
    for (size_t i = 0; i < count; i++) check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, caps[i], 0, 0), "keep a capability over exec");
    install_filter();
}
