/* A live copy by the guest's own dirty log, from one virtual machine into another. */
#include "self_test.h"

#include "console.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void sleep_seconds(double seconds)
{
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

struct guest *guest_for(const struct options *options)
{
    char error[GUEST_ERROR_BYTES] = "--no-kvm was given";
    size_t memory_bytes = (size_t)options->memory_mib << 20;
    struct guest *guest = NULL;
    if (!options->no_kvm)
        guest = guest_new(GUEST_KVM, memory_bytes, error);
    if (guest == NULL) {
        say("no /dev/kvm (%s): the guest runs as a thread, the kernel tracks its writes", error);
        guest = guest_new(GUEST_THREAD, memory_bytes, error);
    }
    if (guest == NULL)
        say("no guest: %s", error);
    return guest;
}

int boot_guest(struct guest *guest, const struct options *options)
{
    program_load(guest_memory(guest), guest_memory_bytes(guest), options->content,
                 options->working_set_mib);
    guest_set_dirty_rate(guest, options->dirty_mib_per_s << 20);
    return guest_resume(guest);
}

bool wait_until_filled(struct guest *guest)
{
    const double step_seconds = 0.02, patience_seconds = 10;
    const struct control *control = program_control(guest_memory(guest));
    uint64_t before = 0, now;
    double still_seconds = 0;
    while ((now = guest_counters(guest).writes) < control->data_pages) {
        still_seconds = now == before ? still_seconds + step_seconds : 0;
        if (still_seconds > patience_seconds)
            return false;
        before = now;
        sleep_seconds(step_seconds);
    }
    return true;
}

bool guest_gets_on(struct guest *guest, struct guest_counters since)
{
    const double step_seconds = 0.01, patience_seconds = 10;
    bool is_to_write = guest_dirty_rate(guest) != 0;
    for (double waited = 0; waited < patience_seconds; waited += step_seconds) {
        struct guest_counters now = guest_counters(guest);
        if (now.ticks != since.ticks && (!is_to_write || now.writes > since.writes))
            return true;
        sleep_seconds(step_seconds);
    }
    return false;
}

/* Copies the pages that the log names; tells how many. */
static uint64_t copy_dirty(struct guest *from, struct guest *to, uint64_t *log, size_t words)
{
    uint64_t count = 0;
    memset(log, 0, words * sizeof(*log));
    if (guest_fetch_dirty(from, log, words) != 0)
        return UINT64_MAX;
    for (size_t page = 0; page < words * 64; page++) {
        if ((log[page / 64] >> page % 64 & 1) == 0)
            continue;
        memcpy(guest_memory(to) + page * PAGE_BYTES, guest_memory(from) + page * PAGE_BYTES,
               PAGE_BYTES);
        count++;
    }
    return count;
}

/* Pre-copy with a dirty log if there is one, else a copy of the stopped guest. */
static int copy_guest(struct guest *from, struct guest *to)
{
    uint8_t state[GUEST_STATE_MAX_BYTES];
    size_t length, words = (guest_memory_bytes(from) / PAGE_BYTES + 63) / 64;
    uint64_t *log = calloc(words, sizeof(*log));
    bool is_logged = guest_has_dirty_log(from);
    int result = log == NULL ? -1 : is_logged ? guest_start_dirty_log(from) : guest_pause(from);
    if (result == 0)
        memcpy(guest_memory(to), guest_memory(from), guest_memory_bytes(from));
    for (int pass = 1; result == 0 && is_logged && pass <= 3; pass++) {
        sleep_seconds(0.1);
        if (pass == 3)
            result = guest_pause(from);
        uint64_t pages = copy_dirty(from, to, log, words);
        say("pass %d: %" PRIu64 " pages in KVM's dirty log%s", pass, pages,
            pass == 3 ? ", guest paused" : "");
        result = pages == UINT64_MAX ? -1 : result;
    }
    free(log);
    if (result == 0)
        result = guest_save(from, state, &length);
    return result != 0 ? result : guest_load(to, state, length);
}

/* Each kind of damage must be found. The snapshot keeps the running guest's memory sound. */
static bool damage_is_found(const struct guest *guest, const uint8_t *image)
{
    static const char *const names[] = {"a flipped bit", "a lost update", "a counter gone back",
                                        "a damaged program"};
    size_t bytes = guest_memory_bytes(guest);
    uint8_t *copy = malloc(bytes);
    struct proof proof;
    bool all = copy != NULL;
    for (int damage = DAMAGE_BYTE; all && damage <= DAMAGE_CODE; damage++) {
        memcpy(copy, image, bytes);
        program_damage(copy, (enum damage)damage);
        program_prove(copy, bytes, &proof);
        say("%s is %s: %s", names[damage - 1], proof.holds ? "NOT FOUND" : "found", proof.text);
        all = !proof.holds;
    }
    free(copy);
    return all;
}

/* A migration may pause the guest while it is looked at, and relies on it. */
static bool stays_paused(struct guest *guest)
{
    struct proof proof;
    struct guest_counters before = guest_counters(guest);
    if (verify_running(guest, &proof) != 0) {
        say("the original failed: %s", guest_error(guest));
        return false;
    }
    sleep_seconds(0.1);
    struct guest_counters after = guest_counters(guest);
    bool stays = before.writes == after.writes && before.ticks == after.ticks;
    say("the paused original %s its proof", stays ? "stays so after" : "RUNS AFTER");
    return stays;
}

static int prove_copy(struct guest *from, struct guest *to, const struct options *options)
{
    struct verification arrival;
    struct proof later;
    if (memcmp(guest_memory(from), guest_memory(to), guest_memory_bytes(from)) != 0) {
        say("the copy differs from the original");
        return EXIT_PROOF;
    }
    if (!damage_is_found(to, guest_memory(from)) || !stays_paused(from))
        return EXIT_PROOF;
    program_damage(guest_memory(to), options->corrupt);
    verify_arrival(to, options->verify, &arrival);
    if (guest_resume(to) != 0)
        return EXIT_SETUP;
    const struct proof *first = verify_result(&arrival);
    show_proof("at arrival", first);
    sleep_seconds(options->run_seconds);
    struct guest_counters saved = guest_loaded_counters(to);
    bool runs = guest_gets_on(to, saved);
    if (verify_running(to, &later) != 0) {
        say("the copy failed: %s", guest_error(to));
        return EXIT_PROOF;
    }
    show_proof("after running on", &later);
    say("the copy %s: %" PRIu64 " writes since it was stopped", runs ? "runs" : "DOES NOT RUN",
        later.counter - saved.writes);
    return first->holds && later.holds && runs ? EXIT_FINE : EXIT_PROOF;
}

int self_test(const struct options *options)
{
    int code = EXIT_SETUP;
    struct guest *from = guest_for(options), *to = NULL;
    char error[GUEST_ERROR_BYTES] = "";
    if (from != NULL)
        to = guest_new(guest_kind_of(from), guest_memory_bytes(from), error);
    if (to != NULL) {
        show_guest(from, options);
        if (boot_guest(from, options) == 0 && wait_until_filled(from) && copy_guest(from, to) == 0)
            code = prove_copy(from, to, options);
        else
            say("self-test failed: %s%s", guest_error(from), guest_error(to));
    }
    guest_free(to);
    guest_free(from);
    if (options->json)
        printf("{\"self_test\":%s}\n", code == EXIT_FINE ? "true" : "false");
    return code;
}
