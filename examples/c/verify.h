/*
 * When the proof of program.h is made: on a snapshot at arrival, while the guest already runs on,
 * and again on the paused guest.
 */
#ifndef VERIFY_H
#define VERIFY_H

#include "guest.h"
#include "program.h"

#ifdef __cplusplus
extern "C" {
#endif

enum verify { VERIFY_SNAPSHOT, VERIFY_PAUSED, VERIFY_OFF };

/* A proof under way; `pid` 0: already done. */
struct verification {
    int pid, fd;
    struct proof proof;
};

/*
 * Checks a stopped guest that was just loaded: its counters must be those that it was saved with.
 * Memory is checked here and now, or on a copy-on-write snapshot (fork) that costs no downtime.
 */
void verify_arrival(struct guest *guest, enum verify how, struct verification *verification);

/* Waits for the end of a proof. */
const struct proof *verify_result(struct verification *verification);

/* Checks all of the guest's memory while it stands still. */
int verify_running(struct guest *guest, struct proof *proof);

#ifdef __cplusplus
}
#endif
#endif
