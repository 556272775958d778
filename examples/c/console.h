/* What the program prints: lines for people, a progress bar on a terminal, one JSON object. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include "options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A migration at one instant, as it is shown. */
struct shown_progress {
    const char *phase;
    uint32_t pass, streams, throttle_percent;
    uint64_t pages, remaining_pages, wire_bytes;
    uint64_t bandwidth_bytes_per_s, dirty_rate_bytes_per_s, predicted_downtime_us, elapsed_us;
};

/* With --json people read standard error, and programs standard output. */
void console_open(const struct options *options);

/* One line; ends a progress bar first. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

void show_progress(const struct shown_progress *progress);
void show_guest(struct guest *guest, const struct options *options);
void show_proof(const char *when, const struct proof *proof);

/* The members of a proof as a JSON object. */
void format_proof(const struct proof *proof, char *text, size_t room);

#ifdef __cplusplus
}
#endif
#endif
