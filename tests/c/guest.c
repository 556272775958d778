/* A guest in software; see guest.h. */
#define _GNU_SOURCE
#include "guest.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void write_page(guest *g, size_t page) {
    uint64_t *word = (uint64_t *)(g->memory + page * GUEST_PAGE_BYTES);
    __atomic_store_n(word, ++g->counter, __ATOMIC_RELEASE);
    /* Marked after the write: a log fetched in between reports the page once more, never less. */
    if (__atomic_load_n(&g->logging, __ATOMIC_ACQUIRE))
        __atomic_fetch_or(&g->log[page / 64], (uint64_t)1 << (page % 64), __ATOMIC_ACQ_REL);
}

static void *run(void *argument) {
    guest *g = argument;
    uint64_t random = 88172645463325252u;
    for (;;) {
        pthread_mutex_lock(&g->lock);
        while (g->want_paused && !g->quit) {
            g->is_paused = 1;
            pthread_cond_broadcast(&g->changed);
            pthread_cond_wait(&g->changed, &g->lock);
        }
        g->is_paused = 0;
        int quit = g->quit;
        pthread_mutex_unlock(&g->lock);
        if (quit) return NULL;
        for (int i = 0; i < 8; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            write_page(g, random % g->pages);
        }
        usleep(g->pause_us);
    }
}

void guest_init(guest *g, size_t pages) {
    memset(g, 0, sizeof *g);
    g->pages = pages;
    g->pause_us = 200;
    g->memory = aligned_alloc(GUEST_PAGE_BYTES, pages * GUEST_PAGE_BYTES);
    g->log_words = (pages + 63) / 64;
    g->log = calloc(g->log_words, sizeof *g->log);
    if (!g->memory || !g->log) abort();
    memset(g->memory, 0, pages * GUEST_PAGE_BYTES);
    for (size_t page = 0; page < pages; page += 3)
        memset(g->memory + page * GUEST_PAGE_BYTES, (int)(page % 251 + 1), GUEST_PAGE_BYTES);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
}

void guest_free(guest *g) {
    pthread_mutex_lock(&g->lock);
    g->quit = 1;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    if (g->started) pthread_join(g->thread, NULL);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g->memory);
    free(g->log);
}

void guest_run(guest *g) {
    pthread_mutex_lock(&g->lock);
    g->want_paused = 0;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    if (!g->started) {
        if (pthread_create(&g->thread, NULL, run, g) != 0) abort();
        g->started = 1;
    }
}

void guest_pause(guest *g) {
    pthread_mutex_lock(&g->lock);
    g->want_paused = 1;
    while (g->started && !g->is_paused) pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

void guest_start_log(guest *g) {
    __atomic_store_n(&g->logging, 1, __ATOMIC_RELEASE);
}

void guest_fetch(guest *g, uint64_t *log, size_t words) {
    for (size_t word = 0; word < words && word < g->log_words; word++)
        log[word] |= __atomic_exchange_n(&g->log[word], 0, __ATOMIC_ACQ_REL);
}

/* What every callback does first; nonzero when it is to fail. */
static int enter(guest *g, const char *callback) {
    if (g->from_inside) g->from_inside(g, callback);
    if (!g->fail_in || strcmp(g->fail_in, callback) != 0) return 0;
    (void)dwcp_callback_set_error("told to fail");
    return -4711;
}

static int32_t on_start_dirty_log(void *ctx) {
    int failure = enter(ctx, "start_dirty_log");
    if (!failure) guest_start_log(ctx);
    return failure;
}

static int32_t on_fetch_dirty(void *ctx, uint32_t region, uint64_t *log, size_t words) {
    guest *g = ctx;
    if (region != 0 || words != g->log_words) return -1;
    int failure = enter(g, "fetch_dirty");
    if (!failure) guest_fetch(g, log, words);
    return failure;
}

static int32_t on_pause(void *ctx) {
    guest *g = ctx;
    int failure = enter(g, "pause");
    if (failure) return failure;
    guest_pause(g);
    g->pauses++;
    return 0;
}

static int32_t on_resume(void *ctx) {
    guest *g = ctx;
    int failure = enter(g, "resume");
    if (failure) return failure;
    g->resumes++;
    guest_run(g);
    return 0;
}

static int32_t on_save(void *ctx, dwcp_writer *writer) {
    guest *g = ctx;
    int failure = enter(g, "save_device_state");
    if (failure) return failure;
    uint64_t halves[2] = {g->counter, ~g->counter};
    dwcp_status first = dwcp_writer_write(writer, &halves[0], 8);
    return first != DWCP_OK ? first : dwcp_writer_write(writer, &halves[1], 8);
}

static int32_t on_load(void *ctx, const void *state, size_t length_bytes) {
    guest *g = ctx;
    int failure = enter(g, "load_device_state");
    if (failure) return failure;
    uint64_t halves[2];
    if (length_bytes != sizeof halves) return -2;
    memcpy(halves, state, sizeof halves);
    if (halves[0] != ~halves[1]) return -3;
    g->counter = halves[0];
    return 0;
}

static int32_t on_throttle(void *ctx, uint32_t percent) {
    guest *g = ctx;
    int failure = enter(g, "throttle");
    if (!failure) g->last_throttle = percent;
    return failure;
}

static int32_t on_finish(void *ctx, uint32_t ending) {
    guest *g = ctx;
    int failure = enter(g, "finish");
    g->finishes++;
    g->last_ending = (int)ending;
    __atomic_store_n(&g->logging, 0, __ATOMIC_RELEASE);
    return failure;
}

static void on_drop(void *ctx) {
    guest *g = ctx;
    (void)enter(g, "drop");
    __atomic_fetch_add(&g->drops, 1, __ATOMIC_ACQ_REL);
}

dwcp_region guest_region(guest *g) {
    dwcp_region region;
    memset(&region, 0, sizeof region);
    region.struct_size = sizeof region;
    region.name = "ram";
    region.host = g->memory;
    region.length_bytes = g->pages * GUEST_PAGE_BYTES;
    return region;
}

dwcp_source guest_source(guest *g, const dwcp_region *region) {
    dwcp_source source;
    memset(&source, 0, sizeof source);
    source.struct_size = sizeof source;
    source.regions = region;
    source.region_count = 1;
    source.ctx = g;
    source.drop = on_drop;
    source.start_dirty_log = on_start_dirty_log;
    source.fetch_dirty = on_fetch_dirty;
    source.pause = on_pause;
    source.resume = on_resume;
    source.save_device_state = on_save;
    source.throttle = on_throttle;
    source.finish = on_finish;
    return source;
}

dwcp_destination guest_destination(guest *g, const dwcp_region *region) {
    dwcp_destination destination;
    memset(&destination, 0, sizeof destination);
    destination.struct_size = sizeof destination;
    destination.regions = region;
    destination.region_count = 1;
    destination.ctx = g;
    destination.drop = on_drop;
    destination.load_device_state = on_load;
    destination.resume = on_resume;
    destination.finish = on_finish;
    return destination;
}

dwcp_node *new_node(const char *listen) {
    dwcp_node_options options;
    dwcp_node *node = NULL;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.listen = listen;
    options.request_timeout_ms = 20000;
    options.flags = DWCP_NODE_PLAIN;
    dwcp_status code = dwcp_node_new(&options, &node);
    if (code != DWCP_OK) {
        char text[1024] = "";
        (void)(dwcp_last_error(text, sizeof text, NULL) == DWCP_OK);
        fprintf(stderr, "dwcp_node_new: %s: %s\n", dwcp_status_name(code), text);
    }
    return node;
}

dwcp_migration_options fast_options(void) {
    dwcp_migration_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.streams = 2;
    /* Under valgrind the prediction alone may exceed the default. */
    options.max_downtime_us = 10000000;
    return options;
}

const char *address_of(dwcp_node *node) {
    static char address[64];
    if (dwcp_node_listen_address(node, address, sizeof address, NULL) != DWCP_OK) address[0] = 0;
    return address;
}
