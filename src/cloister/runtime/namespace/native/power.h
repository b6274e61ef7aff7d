/* Gives up the power of a process of a sandbox or a zone, before it runs a payload. */
#ifndef CLOISTER_POWER_H
#define CLOISTER_POWER_H

#include <stddef.h>
#include <sys/types.h>

/* Afterwards the process can mount nothing, can enter or make no namespace, and can never again get a capability that is neither a
 * sandbox's (caps.h) nor in `also`. A zygote keeps one more, to enter namespaces; its filter allows that call. */
void give_up_power(const int *also, size_t count);

/* Like give_up_power, but as another user of the zone and with the capabilities `kept` only. Programs that it starts keep these too. */
void become_user(uid_t user, const int *kept, size_t count);

/* Keeps the capabilities `kept` and no other. For a process of ours that starts no program. */
void keep_power(const int *kept, size_t count);

#endif
