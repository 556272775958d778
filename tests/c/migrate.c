/* Migrations driven by callbacks, within one process over loopback. */
#define _GNU_SOURCE
#include "check.h"
#include "guest.h"
#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

enum { PAGES = 512, PATIENCE_MS = 30000 };

typedef struct pair {
    dwcp_node *from, *to;
    guest source, destination;
} pair;

static void pair_make(pair *p) {
    memset(p, 0, sizeof *p);
    p->from = new_node(NULL);
    p->to = new_node("127.0.0.1:0");
    CHECK(p->from && p->to);
    guest_init(&p->source, PAGES);
    guest_init(&p->destination, PAGES);
    memset(p->destination.memory, 0, PAGES * GUEST_PAGE_BYTES);
    dwcp_region region = guest_region(&p->source);
    dwcp_source source = guest_source(&p->source, &region);
    OK(dwcp_node_add_source(p->from, "vm", &source));
    region = guest_region(&p->destination);
    dwcp_destination destination = guest_destination(&p->destination, &region);
    OK(dwcp_node_add_destination(p->to, "vm", &destination));
    guest_run(&p->source);
}

static void pair_free(pair *p) {
    OK(dwcp_node_free(p->from));
    OK(dwcp_node_free(p->to));
    CHECK(p->source.drops == 1 && p->destination.drops == 1);
    guest_free(&p->source);
    guest_free(&p->destination);
}

static dwcp_migration *start(pair *p) {
    dwcp_migration_options options = fast_options();
    dwcp_migration *migration = NULL;
    OK(dwcp_node_migrate(p->from, "vm", address_of(p->to), &options, &migration));
    CHECK(migration != NULL);
    return migration;
}

static dwcp_status end_of(dwcp_migration *migration) {
    dwcp_status ended = 1, again = 1;
    OK(dwcp_migration_wait(migration, PATIENCE_MS, &ended));
    OK(dwcp_migration_status(migration, &again));
    CHECK(ended == again);
    if (ended != DWCP_OK) {
        char reason[1024] = "";
        OK(dwcp_migration_reason(migration, reason, sizeof reason, NULL));
        fprintf(stderr, "a migration ended with %s: %s\n", dwcp_status_name(ended), reason);
    }
    return ended;
}

static uint32_t owner_of(dwcp_migration *migration) {
    uint32_t owner = 0;
    OK(dwcp_migration_owner(migration, &owner));
    return owner;
}

/* Waits for the destination's last callback, which may come after the source's end. */
static void wait_for(int *counter) {
    for (int i = 0; i < PATIENCE_MS && !__atomic_load_n(counter, __ATOMIC_ACQUIRE); i++)
        usleep(1000);
}

static void a_running_guest_moves_and_nothing_is_lost(void) {
    pair p;
    pair_make(&p);
    /* The guest stops at once after its arrival, so that both memories can be compared. */
    dwcp_migration *migration = start(&p);
    CHECK(end_of(migration) == DWCP_OK);
    CHECK(owner_of(migration) == DWCP_OWNER_DESTINATION);
    wait_for(&p.destination.finishes);
    guest_pause(&p.destination);
    CHECK(p.source.pauses == 1 && p.source.resumes == 0 && p.destination.resumes == 1);
    CHECK(p.source.last_ending == DWCP_ENDING_DISCARD);
    CHECK(p.destination.last_ending == DWCP_ENDING_KEEP);
    CHECK(p.destination.counter >= p.source.counter && p.source.counter > 0);
    for (size_t page = 0; page < PAGES; page++) {
        unsigned char *a = p.source.memory + page * GUEST_PAGE_BYTES;
        unsigned char *b = p.destination.memory + page * GUEST_PAGE_BYTES;
        CHECK(memcmp(a + 8, b + 8, GUEST_PAGE_BYTES - 8) == 0);
        uint64_t left, arrived;
        memcpy(&left, a, 8), memcpy(&arrived, b, 8);
        /* Written at the destination since, or as it left. */
        CHECK(arrived == left || (arrived > p.source.counter && arrived <= p.destination.counter));
    }
    OK(dwcp_migration_free(migration));
    pair_free(&p);
}

static void the_report_adds_up(void) {
    static char json[1 << 16];
    char text[64];
    uint32_t side = 0;
    pair p;
    pair_make(&p);
    dwcp_migration *migration = start(&p), *same = NULL;
    CHECK(end_of(migration) == DWCP_OK);
    dwcp_report report = {0};
    dwcp_progress progress = {0};
    report.struct_size = sizeof report;
    progress.struct_size = sizeof progress;
    OK(dwcp_migration_report(migration, &report));
    CHECK(report.status == DWCP_OK && report.owner == DWCP_OWNER_DESTINATION);
    CHECK(report.side == DWCP_SIDE_SOURCE && report.passes >= 1);
    CHECK(report.ram_bytes == (uint64_t)PAGES * GUEST_PAGE_BYTES);
    CHECK(report.zero_pages + report.full_pages + report.delta_pages + report.duplicate_pages >=
          PAGES);
    CHECK(report.total_us >= report.downtime_us && report.downtime_us > 0);
    CHECK(strlen(report.digest) == 32);
    OK(dwcp_migration_progress(migration, &progress));
    CHECK(progress.phase == DWCP_PHASE_ENDED && progress.pages == PAGES);
    OK(dwcp_migration_report_json(migration, json, sizeof json, NULL));
    CHECK(json[0] == '{' && strstr(json, "\"downtime_ms\"") && strstr(json, report.digest));
    OK(dwcp_migration_reason(migration, text, sizeof text, NULL));
    CHECK(text[0] == 0);
    OK(dwcp_migration_guest(migration, text, sizeof text, NULL));
    CHECK(strcmp(text, "vm") == 0);
    OK(dwcp_migration_side(migration, &side));
    CHECK(side == DWCP_SIDE_SOURCE);
    OK(dwcp_migration_id(migration, text, sizeof text, NULL));
    CHECK(strlen(text) == 32 && strstr(json, text));
    /* The destination knows it by the same id. */
    OK(dwcp_node_migration(p.to, text, &same));
    CHECK(end_of(same) == DWCP_OK);
    OK(dwcp_migration_side(same, &side));
    CHECK(side == DWCP_SIDE_DESTINATION);
    dwcp_report other = report;
    OK(dwcp_migration_report(same, &other));
    CHECK(strcmp(report.digest, other.digest) == 0);
    OK(dwcp_migration_free(same));
    /* The node may go first. */
    pair_free(&p);
    OK(dwcp_migration_report(migration, &report));
    OK(dwcp_migration_free(migration));
    CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_migration_report(migration, &report));
}

static void a_cancelled_migration_leaves_the_guest_running_here(void) {
    pair p;
    pair_make(&p);
    dwcp_migration_options options = fast_options();
    dwcp_migration *migration = NULL;
    dwcp_status ended = 1;
    options.bandwidth_limit_bytes_per_s = 65536;
    options.codec = DWCP_CODEC_NONE;
    OK(dwcp_node_migrate(p.from, "vm", address_of(p.to), &options, &migration));
    CHECK_STATUS(DWCP_ERR_TIMEOUT, dwcp_migration_wait(migration, 50, &ended));
    CHECK_STATUS(DWCP_ERR_WOULD_BLOCK, dwcp_migration_status(migration, &ended));
    CHECK_STATUS(DWCP_ERR_BUSY, dwcp_node_remove_guest(p.from, "vm"));
    OK(dwcp_migration_set_bandwidth_limit(migration, 131072));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_migration_set_bandwidth_limit(migration, 5));
    CHECK_STATUS(DWCP_ERR_BAD_STATE, dwcp_migration_start_post_copy(migration));
    CHECK_STATUS(DWCP_ERR_BAD_STATE, dwcp_migration_abandon_post_copy(migration));
    OK(dwcp_migration_cancel(migration));
    OK(dwcp_migration_cancel(migration));
    CHECK(end_of(migration) == DWCP_ERR_CANCELLED);
    CHECK(owner_of(migration) == DWCP_OWNER_SOURCE);
    uint64_t before = __atomic_load_n(&p.source.counter, __ATOMIC_ACQUIRE);
    for (int i = 0; i < PATIENCE_MS && __atomic_load_n(&p.source.counter, __ATOMIC_ACQUIRE) == before;
         i++)
        usleep(1000);
    CHECK(__atomic_load_n(&p.source.counter, __ATOMIC_ACQUIRE) > before);
    CHECK(p.source.last_ending == DWCP_ENDING_KEEP);
    OK(dwcp_migration_free(migration));
    /* And it can be tried again, once the other side knows that it is over. */
    wait_for(&p.destination.finishes);
    CHECK(p.destination.last_ending == DWCP_ENDING_DISCARD);
    migration = start(&p);
    CHECK(end_of(migration) == DWCP_OK);
    OK(dwcp_migration_free(migration));
    pair_free(&p);
}

static void each_failing_callback_is_named_and_the_guest_stays(void) {
    static const char *const before_commit[] = {"start_dirty_log", "fetch_dirty", "pause",
                                                "save_device_state", "load_device_state"};
    for (size_t i = 0; i < sizeof before_commit / sizeof before_commit[0]; i++) {
        char reason[1024];
        pair p;
        pair_make(&p);
        guest *failing = i == 4 ? &p.destination : &p.source;
        failing->fail_in = before_commit[i];
        dwcp_migration *migration = start(&p);
        dwcp_status ended = end_of(migration);
        CHECK(ended == (i == 4 ? DWCP_ERR_PEER_ABORTED : DWCP_ERR_CALLBACK) ||
              ended == DWCP_ERR_CALLBACK);
        CHECK(owner_of(migration) == DWCP_OWNER_SOURCE);
        OK(dwcp_migration_reason(migration, reason, sizeof reason, NULL));
        CHECK(strstr(reason, before_commit[i]) && strstr(reason, "-4711"));
        CHECK(strstr(reason, "told to fail"));
        CHECK(p.destination.resumes == 0);
        CHECK(p.source.resumes == p.source.pauses);
        OK(dwcp_migration_free(migration));
        pair_free(&p);
    }
}

/* What a callback must not call, and what it may. */
static void from_inside(guest *g, const char *callback) {
    uint32_t owner;
    int fd;
    (void)callback;
    int busy = dwcp_node_stop(g->node) == DWCP_ERR_BUSY &&
               dwcp_node_free(g->node) == DWCP_ERR_BUSY &&
               dwcp_node_remove_guest(g->node, "vm") == DWCP_ERR_BUSY &&
               last_error_has("dwcp_node_remove_guest was called from a callback");
    int fine = dwcp_node_fd(g->node, &fd) == DWCP_OK;
    dwcp_migration *migration = __atomic_load_n(&g->migration, __ATOMIC_ACQUIRE);
    if (migration) {
        busy = busy && dwcp_migration_wait(migration, 1, NULL) == DWCP_ERR_BUSY;
        fine = fine && dwcp_migration_owner(migration, &owner) == DWCP_OK;
    }
    if (!busy || !fine) __atomic_fetch_add(&g->inside_failures, 1, __ATOMIC_ACQ_REL);
}

static void callbacks_that_reenter_are_refused(void) {
    pair p;
    pair_make(&p);
    p.source.node = p.from;
    p.source.from_inside = from_inside;
    p.destination.node = p.to;
    p.destination.from_inside = from_inside;
    dwcp_migration *migration = start(&p);
    __atomic_store_n(&p.source.migration, migration, __ATOMIC_RELEASE);
    CHECK(end_of(migration) == DWCP_OK);
    wait_for(&p.destination.finishes);
    /* The drop callbacks run while the nodes' handles are gone already. */
    p.source.from_inside = p.destination.from_inside = NULL;
    CHECK(p.source.inside_failures == 0 && p.destination.inside_failures == 0);
    OK(dwcp_migration_free(migration));
    pair_free(&p);
}

static void nobody_listens_there(void) {
    pair p;
    char reason[1024];
    pair_make(&p);
    dwcp_migration_options options = fast_options();
    dwcp_migration *migration = NULL;
    options.reconnect_timeout_ms = 200;
    OK(dwcp_node_migrate(p.from, "vm", "127.0.0.1:1", &options, &migration));
    CHECK(end_of(migration) == DWCP_ERR_CONNECT);
    CHECK(owner_of(migration) == DWCP_OWNER_SOURCE);
    OK(dwcp_migration_reason(migration, reason, sizeof reason, NULL));
    CHECK(strstr(reason, "127.0.0.1:1"));
    OK(dwcp_migration_free(migration));
    pair_free(&p);
}

static void two_migrations_side_by_side_do_not_mix(void) {
    pair a, b;
    pair_make(&a);
    pair_make(&b);
    dwcp_migration *first = start(&a), *second = start(&b);
    CHECK(end_of(first) == DWCP_OK && end_of(second) == DWCP_OK);
    OK(dwcp_migration_free(first));
    OK(dwcp_migration_free(second));
    pair_free(&a);
    pair_free(&b);
}

/* Counts this process's other threads whose names begin with prefix; all must block signals. */
static int threads_named(const char *prefix) {
    DIR *tasks = opendir("/proc/self/task");
    int seen = 0;
    CHECK(tasks != NULL);
    for (struct dirent *entry; (entry = readdir(tasks));) {
        char path[300], line[256], name[64] = "";
        unsigned long long blocked = 0;
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == getpid()) continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
        FILE *status = fopen(path, "r");
        if (!status) continue;
        while (fgets(line, sizeof line, status)) {
            sscanf(line, "Name: %63s", name);
            sscanf(line, "SigBlk: %llx", &blocked);
        }
        fclose(status);
        if (strncmp(name, prefix, strlen(prefix)) != 0) continue;
        seen++;
        /* SIGINT, SIGPIPE, SIGTERM, SIGUSR1. */
        CHECK((blocked & 0x5202) == 0x5202);
    }
    closedir(tasks);
    return seen;
}

/* Threads of the library carry names and leave the host's signals alone. */
static void library_threads_are_named_and_block_signals(void) {
    dwcp_node *node = new_node("127.0.0.1:0");
    /* New threads name themselves, so each bears the program's name for a moment. */
    int own = 0, unnamed = 1;
    for (int i = 0; i < PATIENCE_MS && (own == 0 || unnamed > 0); i++) {
        usleep(1000);
        own = threads_named("dwcp-");
        unnamed = threads_named("migrate");
    }
    CHECK(own > 0 && unnamed == 0);
    OK(dwcp_node_free(node));
}

int main(void) {
    CASE(library_threads_are_named_and_block_signals);
    CASE(a_running_guest_moves_and_nothing_is_lost);
    CASE(the_report_adds_up);
    CASE(a_cancelled_migration_leaves_the_guest_running_here);
    CASE(each_failing_callback_is_named_and_the_guest_stays);
    CASE(callbacks_that_reenter_are_refused);
    CASE(nobody_listens_there);
    CASE(two_migrations_side_by_side_do_not_mix);
    return REPORT();
}
