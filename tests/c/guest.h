/* A guest in software: a thread that keeps writing memory and logs what it writes. */
#ifndef GUEST_H
#define GUEST_H

#include "dwcp.h"
#include <pthread.h>

enum { GUEST_PAGE_BYTES = 4096, GUEST_STATE_BYTES = 16 };

typedef struct guest {
    unsigned char *memory;
    size_t pages;
    uint64_t *log;
    size_t log_words;
    int logging;

    pthread_t thread;
    int started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int want_paused, is_paused, quit;
    unsigned pause_us;

    uint64_t counter; /* writes made; doubles as the device state */

    /* What the library did. */
    int pauses, resumes, finishes, drops, last_ending;
    uint32_t last_throttle;
    /* Which callback fails, by name, and what it calls from inside. */
    const char *fail_in;
    void (*from_inside)(struct guest *guest, const char *callback);
    dwcp_node *node;
    dwcp_migration *migration;
    int inside_failures;
} guest;

/* pages of memory, zero but for a pattern in every third page. */
void guest_init(guest *g, size_t pages);
void guest_free(guest *g);
/* Lets the guest run (and makes its thread when it has none). */
void guest_run(guest *g);
/* Returns once the guest writes no more. */
void guest_pause(guest *g);
/* Takes the log, as a hypervisor does. */
void guest_fetch(guest *g, uint64_t *log, size_t words);
void guest_start_log(guest *g);

dwcp_region guest_region(guest *g);
/* Callback tables; the region must live as long as the registration call. */
dwcp_source guest_source(guest *g, const dwcp_region *region);
dwcp_destination guest_destination(guest *g, const dwcp_region *region);

dwcp_node *new_node(const char *listen);
dwcp_migration_options fast_options(void);
/* The node's address in a buffer of its own; one thread at a time. */
const char *address_of(dwcp_node *node);

#endif
