/*
 * A small hypervisor with live migration: how a program uses libdwcp.
 *
 * Read it in this order: `source` and `destination`, what the library is told about a guest; the
 * on_... callbacks, what it asks for; `attend`, the program's one loop. With --event-loop there are
 * no callbacks: the same things are asked for through the node's file descriptor.
 */
#include "console.h"
#include "self_test.h"

#include <dwcp.h>

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The program. Callbacks touch `guest`, `stopped_at`, `arrival` and, under lock, `registrations`. */
struct host {
    const struct options *options;
    struct guest *guest, *left_behind;
    struct dwcp_node *node;
    int fd;
    pthread_mutex_t lock;
    int registrations; /* whose drop callback has not run yet */
    bool is_destination;
    struct guest_counters stopped_at;
    bool was_stopped;
    struct verification arrival;
    struct dwcp_migration *migration; /* the one under way, or the last one */
    char migration_id[40];            /* its id, once a completion named it */
    bool has_ended;
    struct proof arrival_proof, later_proof;
    bool has_arrival_proof, has_later_proof;
    char *sent, *received; /* reports, JSON */
};

static volatile sig_atomic_t must_stop;

static const char *const phase_names[] = {
    "",       "connect",  "precopy", "final_pass", "device_state",
    "verify", "handover", "resume",  "ended",
};

static void on_stop_signal(int signal)
{
    (void)signal;
    must_stop = 1;
}

static void say_error(const char *what)
{
    char text[512];
    (void)dwcp_last_error(text, sizeof(text), NULL);
    say("%s: %s", what, text);
}

/* ---- what the library asks of the guest ------------------------------------------------- */

/* Hands a failure's text to the library, which quotes it in the migration's reason. */
static int32_t answer(struct host *host, int result)
{
    if (result != 0)
        (void)dwcp_callback_set_error(guest_error(host->guest));
    return result;
}

static int32_t on_start_dirty_log(void *ctx)
{
    struct host *host = ctx;
    return answer(host, guest_start_dirty_log(host->guest));
}

static int32_t on_fetch_dirty(void *ctx, uint32_t region, uint64_t *log, size_t words)
{
    struct host *host = ctx;
    (void)region; /* there is one */
    return answer(host, guest_fetch_dirty(host->guest, log, words));
}

static int32_t on_pause(void *ctx)
{
    struct host *host = ctx;
    int result = guest_pause(host->guest);
    host->stopped_at = guest_counters(host->guest);
    host->was_stopped = true;
    return answer(host, result);
}

static int32_t on_resume(void *ctx)
{
    struct host *host = ctx;
    return answer(host, guest_resume(host->guest));
}

static int32_t on_save(void *ctx, struct dwcp_writer *writer)
{
    struct host *host = ctx;
    uint8_t state[GUEST_STATE_MAX_BYTES];
    size_t length;
    int result = guest_save(host->guest, state, &length);
    return result != 0 ? answer(host, result) : dwcp_writer_write(writer, state, length);
}

static int32_t on_throttle(void *ctx, uint32_t percent)
{
    struct host *host = ctx;
    guest_throttle(host->guest, percent);
    return 0;
}

static int32_t on_sent(void *ctx, uint32_t ending)
{
    struct host *host = ctx;
    (void)ending; /* the migration's end says it too; there the program acts on it */
    guest_throttle(host->guest, 0);
    if (guest_has_dirty_log(host->guest))
        return answer(host, guest_stop_dirty_log(host->guest));
    return 0;
}

static int32_t on_load(void *ctx, const void *state, size_t length)
{
    struct host *host = ctx;
    return answer(host, guest_load(host->guest, state, length));
}

/* The guest is here, complete and stopped: the proof looks at exactly this. */
static int32_t on_arrival(void *ctx)
{
    struct host *host = ctx;
    program_damage(guest_memory(host->guest), host->options->corrupt);
    verify_arrival(host->guest, host->options->verify, &host->arrival);
    return on_resume(ctx);
}

static void on_drop(void *ctx)
{
    struct host *host = ctx;
    pthread_mutex_lock(&host->lock);
    host->registrations--;
    pthread_mutex_unlock(&host->lock);
}

/* ---- the same without callbacks ---------------------------------------------------------- */

static void serve_request(struct host *host, const struct dwcp_completion *request)
{
    uint8_t state[GUEST_STATE_MAX_BYTES];
    size_t length = 0;
    int32_t result = DWCP_ERR_UNSUPPORTED;
    switch (request->code) {
    case DWCP_REQUEST_START_DIRTY_LOG: result = on_start_dirty_log(host); break;
    case DWCP_REQUEST_FETCH_DIRTY:
        result = on_fetch_dirty(host, request->value, request->buffer,
                                request->buffer_bytes / sizeof(uint64_t));
        break;
    case DWCP_REQUEST_PAUSE: result = on_pause(host); break;
    case DWCP_REQUEST_RESUME:
        result = host->is_destination ? on_arrival(host) : on_resume(host);
        break;
    case DWCP_REQUEST_SAVE_DEVICE_STATE: result = guest_save(host->guest, state, &length); break;
    case DWCP_REQUEST_LOAD_DEVICE_STATE:
        result = on_load(host, request->buffer, request->buffer_bytes);
        break;
    case DWCP_REQUEST_THROTTLE: result = on_throttle(host, request->value); break;
    case DWCP_REQUEST_FINISH: result = host->is_destination ? 0 : on_sent(host, request->value);
    }
    if (dwcp_request_complete(host->node, request->id, result, length != 0 ? state : NULL,
                              length) != DWCP_OK)
        say_error("an answer came too late");
}

/* ---- the loop ---------------------------------------------------------------------------- */

static void reap(struct host *host)
{
    enum { BATCH = 16 };
    struct dwcp_completion completions[BATCH] = {{.struct_size = sizeof(completions[0])}};
    size_t count = 0;
    do {
        if (dwcp_node_reap(host->node, completions, BATCH, &count) != DWCP_OK) {
            say_error("reaping completions");
            return;
        }
        for (size_t i = 0; i < count; i++) {
            const struct dwcp_completion *completion = &completions[i];
            if (completion->migration[0] != '\0')
                memcpy(host->migration_id, completion->migration, sizeof(host->migration_id));
            if (completion->kind == DWCP_COMPLETION_REQUEST)
                serve_request(host, completion);
            else if (completion->kind == DWCP_COMPLETION_MIGRATION_ENDED)
                host->has_ended = true;
        }
    } while (count == BATCH);
}

/* An incoming migration is known by a completion first; its handle is opened as soon as it can. */
static void find_migration(struct host *host)
{
    if (host->migration == NULL && host->migration_id[0] != '\0')
        (void)!dwcp_node_migration(host->node, host->migration_id, &host->migration);
}

static void show_migration(struct host *host)
{
    struct dwcp_progress progress = {.struct_size = sizeof(progress)};
    if (host->migration == NULL || host->has_ended ||
        dwcp_migration_progress(host->migration, &progress) != DWCP_OK)
        return;
    struct shown_progress shown = {
        .phase = progress.phase <= DWCP_PHASE_ENDED ? phase_names[progress.phase] : "",
        .pass = progress.pass,
        .streams = progress.streams,
        .throttle_percent = progress.throttle_percent,
        .pages = progress.pages,
        .remaining_pages = progress.remaining_pages,
        .wire_bytes = progress.wire_bytes,
        .bandwidth_bytes_per_s = progress.bandwidth_bytes_per_s,
        .dirty_rate_bytes_per_s = progress.dirty_rate_bytes_per_s,
        .predicted_downtime_us = progress.predicted_downtime_us,
        .elapsed_us = progress.elapsed_us,
    };
    show_progress(&shown);
}

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Whether the migration is over and its report written. */
static bool has_report(const struct host *host)
{
    dwcp_status ended;
    return host->has_ended && host->migration != NULL &&
           dwcp_migration_status(host->migration, &ended) != DWCP_ERR_WOULD_BLOCK;
}

/* Serves the node for so long, less if a migration ends or the program is to stop. */
static void attend(struct host *host, double seconds)
{
    const double tick_seconds = 0.1;
    double end = now_seconds() + seconds, left;
    while (!must_stop && !has_report(host) && (left = end - now_seconds()) > 0) {
        struct pollfd poll_fd = {.fd = host->fd, .events = POLLIN};
        double wait = left < tick_seconds ? left : tick_seconds;
        if (poll(&poll_fd, 1, (int)(wait * 1000) + 1) > 0)
            reap(host);
        find_migration(host);
        show_migration(host);
    }
}

static const double FOREVER_SECONDS = 1e9;

static void forget_migration(struct host *host)
{
    (void)dwcp_migration_free(host->migration);
    host->migration = NULL;
    host->migration_id[0] = '\0';
    host->has_ended = false;
}

/* ---- what the library is told ------------------------------------------------------------ */

static struct dwcp_region region_of(struct host *host)
{
    struct dwcp_region region = {
        .struct_size = sizeof(region),
        .name = "ram",
        .guest_address = 0,
        .length_bytes = guest_memory_bytes(host->guest),
        .host = guest_memory(host->guest),
    };
    return region;
}

static void count_registration(struct host *host, int change)
{
    pthread_mutex_lock(&host->lock);
    host->registrations += change;
    pthread_mutex_unlock(&host->lock);
}

static bool registered(struct host *host, dwcp_status status)
{
    if (status == DWCP_OK)
        return true;
    count_registration(host, -1); /* refused: there will be no drop callback */
    say_error("registering the guest");
    return false;
}

/* Registers the running guest. Without its own dirty log, the kernel tracks its memory. */
static bool source(struct host *host)
{
    bool is_logged = guest_has_dirty_log(host->guest);
    struct dwcp_region region = region_of(host);
    struct dwcp_source source = {
        .struct_size = sizeof(source), .regions = &region, .region_count = 1, .page_bytes = 4096,
        .ctx = host, .drop = on_drop,
    };
    if (!host->options->event_loop) {
        source.start_dirty_log = is_logged ? on_start_dirty_log : NULL;
        source.fetch_dirty = is_logged ? on_fetch_dirty : NULL;
        source.pause = on_pause;
        source.resume = on_resume;
        source.save_device_state = on_save;
        source.throttle = on_throttle;
        source.finish = on_sent;
    }
    count_registration(host, 1);
    host->is_destination = false;
    if (is_logged)
        return registered(host, dwcp_node_add_source(host->node, host->options->name, &source));
    return registered(host, dwcp_node_add_process_memory_source(host->node, host->options->name,
                                                                &source));
}

/* Registers an empty guest of the same size. */
static bool destination(struct host *host)
{
    struct dwcp_region region = region_of(host);
    struct dwcp_destination destination = {
        .struct_size = sizeof(destination), .regions = &region, .region_count = 1,
        .page_bytes = 4096, .ctx = host, .drop = on_drop,
    };
    if (!host->options->event_loop) {
        destination.load_device_state = on_load;
        destination.resume = on_arrival;
    }
    count_registration(host, 1);
    host->is_destination = true;
    return registered(host, dwcp_node_add_destination(host->node, host->options->name,
                                                      &destination));
}

static struct dwcp_migration_options migration_options(const struct options *options)
{
    struct dwcp_migration_options wanted = {
        .struct_size = sizeof(wanted),
        .streams = options->streams,
        .codec = DWCP_CODEC_DEFAULT,
        .codec_level = options->codec_level,
        .flags = options->no_throttle ? DWCP_MIGRATION_NO_THROTTLE : 0,
        .max_downtime_us = options->max_downtime_ms * 1000,
        .deadline_ms = options->deadline_ms,
        .bandwidth_limit_bytes_per_s = options->bandwidth_mib_per_s << 20,
    };
    if (strcmp(options->codec, "none") == 0)
        wanted.codec = DWCP_CODEC_NONE;
    else if (strcmp(options->codec, "lz4") == 0)
        wanted.codec = DWCP_CODEC_LZ4;
    else if (strcmp(options->codec, "zstd") == 0)
        wanted.codec = DWCP_CODEC_ZSTD;
    return wanted;
}

static bool open_node(struct host *host)
{
    char address[128];
    struct dwcp_node_options options = {
        .struct_size = sizeof(options),
        .listen = host->options->listen,
        .state_dir = host->options->state_dir,
        .identity_dir = host->options->identity,
        .flags = host->options->identity == NULL ? DWCP_NODE_PLAIN : 0,
    };
    int32_t fd = -1;
    if (dwcp_node_new(&options, &host->node) != DWCP_OK ||
        dwcp_node_fd(host->node, &fd) != DWCP_OK) {
        say_error("starting a node");
        return false;
    }
    host->fd = fd;
    if (dwcp_node_listen_address(host->node, address, sizeof(address), NULL) == DWCP_OK)
        say("listening on %s", address);
    if (host->options->control != NULL) {
        if (dwcp_node_serve_control(host->node, host->options->control) != DWCP_OK) {
            say_error("serving the control socket");
            return false;
        }
        say("control socket %s", host->options->control);
    }
    return true;
}

/* ---- the guest's way ---------------------------------------------------------------------- */

static char *report_json(struct host *host)
{
    size_t needed = 0;
    if (dwcp_migration_report_json(host->migration, NULL, 0, &needed) != DWCP_OK)
        return NULL;
    char *text = malloc(needed);
    if (text != NULL &&
        dwcp_migration_report_json(host->migration, text, needed, NULL) != DWCP_OK) {
        free(text);
        return NULL;
    }
    return text;
}

/* Says how the migration ended; who owns the guest. */
static uint32_t show_end(struct host *host, char **json)
{
    char reason[1024] = "";
    struct dwcp_report report = {.struct_size = sizeof(report)};
    free(*json);
    *json = report_json(host);
    if (dwcp_migration_report(host->migration, &report) != DWCP_OK ||
        dwcp_migration_reason(host->migration, reason, sizeof(reason), NULL) != DWCP_OK) {
        say_error("reading the report");
        return DWCP_OWNER_IN_DOUBT;
    }
    if (report.status != DWCP_OK)
        say("migration failed: %s: %s", dwcp_status_name(report.status), reason);
    else
        say("migrated in %.1f ms, the guest stood still for %.1f ms: %" PRIu64 " MiB of memory, "
            "%.1f MiB on the wire, %u passes, %u reconnects, digest %s",
            (double)report.total_us / 1000, (double)report.downtime_us / 1000,
            report.ram_bytes >> 20, (double)report.wire_bytes / (1 << 20), report.passes,
            report.reconnects, report.digest);
    return report.owner;
}

static bool prove_again(struct host *host, const char *when)
{
    if (verify_running(host->guest, &host->later_proof) != 0) {
        say("the guest failed: %s", guest_error(host->guest));
        return false;
    }
    host->has_later_proof = true;
    show_proof(when, &host->later_proof);
    return host->later_proof.holds;
}

/* After a failed migration: the guest is here, whole, and runs. */
static int go_on_here(struct host *host)
{
    struct guest_counters before = guest_counters(host->guest);
    host->has_ended = false;
    attend(host, host->options->run_seconds);
    bool runs = guest_gets_on(host->guest, before);
    say("the guest %s here, at write %" PRIu64, runs ? "goes on" : "STANDS STILL",
        guest_counters(host->guest).writes);
    return prove_again(host, "after the failure") && runs ? EXIT_FAILED : EXIT_PROOF;
}

/* Runs the guest until it has moved to --to (or --return), or until the program is to stop. */
static int send_guest(struct host *host, double after_seconds)
{
    const struct options *options = host->options;
    struct dwcp_migration_options wanted = migration_options(options);
    if (!source(host))
        return EXIT_SETUP;
    if (options->to == NULL)
        say("ready: guest %s stays until it is told to go", options->name);
    attend(host, options->to != NULL ? after_seconds : FOREVER_SECONDS);
    if (must_stop)
        return EXIT_FINE; /* the guest ends with the program */
    if (!host->has_ended) {
        say("migrating to %s", options->to);
        if (dwcp_node_migrate(host->node, options->name, options->to, &wanted,
                              &host->migration) != DWCP_OK) {
            say_error("starting the migration");
            return go_on_here(host);
        }
        attend(host, FOREVER_SECONDS);
        if (must_stop && !host->has_ended) {
            must_stop = 0; /* a second signal ends the program at once */
            say("cancelling");
            (void)!dwcp_migration_cancel(host->migration);
            attend(host, FOREVER_SECONDS);
            if (!host->has_ended)
                return EXIT_FAILED;
        }
    }
    uint32_t owner = show_end(host, &host->sent);
    while (owner == DWCP_OWNER_SOURCE && options->to == NULL) {
        forget_migration(host); /* somebody's attempt failed; the next one may come */
        int code = go_on_here(host);
        if (code != EXIT_FAILED)
            return code;
        attend(host, FOREVER_SECONDS);
        if (must_stop)
            return EXIT_FINE;
        free(host->sent);
        host->sent = NULL;
        owner = show_end(host, &host->sent);
    }
    if (owner == DWCP_OWNER_SOURCE)
        return go_on_here(host);
    if (owner == DWCP_OWNER_IN_DOUBT) {
        say("in doubt: only %s knows who has the guest; it stays stopped here", options->to);
        return EXIT_IN_DOUBT;
    }
    say("the guest stopped at write %" PRIu64 ", tick %u; it now runs at %s",
        host->stopped_at.writes, host->stopped_at.ticks, options->to ? options->to : "its new home");
    forget_migration(host);
    if (options->control != NULL)
        sleep(1); /* whoever gave the order through the socket still wants to hear how it ended */
    return EXIT_FINE;
}

static int prove_arrival(struct host *host)
{
    host->arrival_proof = *verify_result(&host->arrival);
    host->has_arrival_proof = true;
    show_proof("at arrival", &host->arrival_proof);
    struct guest_counters saved = guest_loaded_counters(host->guest);
    say("the guest goes on from write %" PRIu64 ", tick %u", saved.writes, saved.ticks);
    attend(host, host->options->run_seconds);
    bool runs = guest_gets_on(host->guest, saved);
    bool later = prove_again(host, "after running on");
    say("the guest %s: %" PRIu64 " writes since it arrived", runs ? "runs" : "DOES NOT RUN",
        host->later_proof.counter - saved.writes);
    return host->arrival_proof.holds && later && runs ? EXIT_FINE : EXIT_PROOF;
}

/* Waits for a guest, proves that it is whole, runs it and proves it again. */
static int receive_guest(struct host *host)
{
    if (!destination(host))
        return EXIT_SETUP;
    say("waiting for guest %s", host->options->name);
    for (;;) {
        attend(host, FOREVER_SECONDS);
        if (!host->has_ended)
            return EXIT_FAILED; /* told to stop */
        if (show_end(host, &host->received) == DWCP_OWNER_DESTINATION)
            break;
        forget_migration(host);
        say("still waiting for guest %s", host->options->name);
    }
    forget_migration(host);
    return prove_arrival(host);
}

/* The guest that left may be freed once the library has dropped it; its memory is given up now. */
static bool replace_guest(struct host *host)
{
    pthread_mutex_lock(&host->lock);
    bool is_dropped = host->registrations == 0;
    pthread_mutex_unlock(&host->lock);
    if (is_dropped)
        guest_free(host->guest);
    else
        guest_discard(host->left_behind = host->guest);
    host->guest = guest_for(host->options);
    return host->guest != NULL;
}

static int run_source(struct host *host)
{
    if (boot_guest(host->guest, host->options) != 0 || !wait_until_filled(host->guest)) {
        say("the guest does not run: %s", guest_error(host->guest));
        return EXIT_SETUP;
    }
    int code = send_guest(host, host->options->after_seconds);
    if (code != EXIT_FINE || !host->options->await_return || must_stop)
        return code;
    return replace_guest(host) ? receive_guest(host) : EXIT_SETUP;
}

static int run_destination(struct host *host)
{
    int code = receive_guest(host);
    if (code != EXIT_FINE || (host->options->to == NULL && !host->options->stay))
        return code;
    return send_guest(host, 0);
}

static void print_proof(const char *name, bool has_proof, const struct proof *proof)
{
    char text[768] = "null";
    if (has_proof)
        format_proof(proof, text, sizeof(text));
    printf(",\"%s\":%s", name, text);
}

static void print_json(const struct host *host, int code)
{
    printf("{\"mode\":\"%s\",\"kind\":\"%s\",\"exit_code\":%d",
           host->options->mode == MODE_SOURCE ? "source" : "destination",
           guest_kind_of(host->guest) == GUEST_KVM ? "kvm" : "thread", code);
    if (host->was_stopped)
        printf(",\"stopped_at\":{\"writes\":%" PRIu64 ",\"ticks\":%" PRIu32 "}",
               host->stopped_at.writes, host->stopped_at.ticks);
    else
        printf(",\"stopped_at\":null");
    printf(",\"sent\":%s,\"received\":%s", host->sent != NULL ? host->sent : "null",
           host->received != NULL ? host->received : "null");
    print_proof("arrival_proof", host->has_arrival_proof, &host->arrival_proof);
    print_proof("later_proof", host->has_later_proof, &host->later_proof);
    printf("}\n");
}

static int run(struct host *host)
{
    host->guest = guest_for(host->options);
    if (host->guest == NULL)
        return EXIT_SETUP;
    show_guest(host->guest, host->options);
    if (!open_node(host))
        return EXIT_SETUP;
    return host->options->mode == MODE_SOURCE ? run_source(host) : run_destination(host);
}

int main(int count, char **arguments)
{
    struct options options;
    struct host host = {.options = &options};
    struct sigaction stop = {.sa_handler = on_stop_signal};
    int code;
    if (!options_parse(&options, count, arguments, &code))
        return code;
    console_open(&options);
    if (options.mode == MODE_SELF_TEST)
        return self_test(&options);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    pthread_mutex_init(&host.lock, NULL);
    code = run(&host);
    (void)dwcp_node_free(host.node); /* from here on no callback comes */
    if (options.json && host.guest != NULL)
        print_json(&host, code);
    (void)dwcp_migration_free(host.migration);
    guest_free(host.guest);
    guest_free(host.left_behind);
    free(host.sent);
    free(host.received);
    return code;
}
