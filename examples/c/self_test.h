/* Everything but the library: a guest copied within the process, live, and proved. */
#ifndef SELF_TEST_H
#define SELF_TEST_H

#include "options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A guest as the options want it: on KVM, or a thread with the reason said. NULL: neither. */
struct guest *guest_for(const struct options *options);

/* Lays out the program and lets it run. */
int boot_guest(struct guest *guest, const struct options *options);

/* Waits until the guest has written all of its memory once; false if it does not get on. */
bool wait_until_filled(struct guest *guest);

/* Whether the guest ticks, and writes if it is to; waits a while for a host that is busy. */
bool guest_gets_on(struct guest *guest, struct guest_counters since);

void sleep_seconds(double seconds);

int self_test(const struct options *options);

#ifdef __cplusplus
}
#endif
#endif
