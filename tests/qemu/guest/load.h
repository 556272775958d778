/* What the guests' programs share: their settings, and their pace. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

/* The kernel passes what it does not know of its own command line as environment. */
static inline uint64_t number(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static inline uint64_t now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* Sleeps until the next slice of a second. A late one is not made up for, so that a pause does not
 * end in a burst. */
static inline void sleep_until_slice(uint64_t *next_ms, uint64_t slices_per_s) {
    uint64_t now = now_ms();
    *next_ms += 1000 / slices_per_s;
    if (*next_ms <= now) {
        *next_ms = now;
        return;
    }
    struct timespec rest = {.tv_nsec = (long)(*next_ms - now) * 1000000};
    nanosleep(&rest, NULL);
}
