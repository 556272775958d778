/* Migrations driven by file descriptors and reaping alone: one thread, one poll loop, no callback. */
#include "check.h"
#include "guest.h"
#include <poll.h>
#include <unistd.h>

enum { PAGES = 512, PATIENCE_MS = 30000, NO_REQUEST = 0 };

typedef struct side {
    dwcp_node *node;
    guest guest;
    uint32_t seen[16];           /* requests, by kind */
    uint32_t events;
    uint32_t fail_request;       /* this one is answered with an error */
    uint32_t ignored_request;    /* this one is not answered at all */
    uint64_t ignored_id;
    int ended;
    dwcp_status status;
    uint32_t owner;
    char id[40];
} side;

static void make_sides(side *from, side *to, uint32_t timeout_ms) {
    memset(from, 0, sizeof *from);
    memset(to, 0, sizeof *to);
    dwcp_node_options options = {sizeof options, 0, 0, 0, 0, 0, DWCP_NODE_PLAIN,
                                 0, 0, 0, 0, {0}};
    options.request_timeout_ms = timeout_ms;
    OK(dwcp_node_new(&options, &from->node));
    options.listen = "127.0.0.1:0";
    OK(dwcp_node_new(&options, &to->node));
    guest_init(&from->guest, PAGES);
    guest_init(&to->guest, PAGES);
    memset(to->guest.memory, 0, PAGES * GUEST_PAGE_BYTES);
    dwcp_region region = guest_region(&from->guest);
    dwcp_source source = {0};
    source.struct_size = sizeof source;
    source.regions = &region;
    source.region_count = 1;
    OK(dwcp_node_add_source(from->node, "vm", &source));
    region = guest_region(&to->guest);
    dwcp_destination destination = {0};
    destination.struct_size = sizeof destination;
    destination.regions = &region;
    destination.region_count = 1;
    OK(dwcp_node_add_destination(to->node, "vm", &destination));
    guest_run(&from->guest);
}

static void free_sides(side *from, side *to) {
    OK(dwcp_node_free(from->node));
    OK(dwcp_node_free(to->node));
    guest_free(&from->guest);
    guest_free(&to->guest);
}

static void answer(side *s, const dwcp_completion *c) {
    guest *g = &s->guest;
    uint64_t state[2];
    CHECK(strcmp(c->guest, "vm") == 0 && c->code < 16);
    s->seen[c->code]++;
    if (c->code == s->ignored_request) {
        s->ignored_id = c->id;
        return;
    }
    if (c->code == s->fail_request) {
        OK(dwcp_request_complete(s->node, c->id, -4711, NULL, 0));
        return;
    }
    switch (c->code) {
    case DWCP_REQUEST_START_DIRTY_LOG: guest_start_log(g); break;
    case DWCP_REQUEST_FETCH_DIRTY:
        CHECK(c->value == 0 && c->buffer_bytes == g->log_words * 8);
        guest_fetch(g, c->buffer, g->log_words);
        break;
    case DWCP_REQUEST_PAUSE: guest_pause(g); break;
    case DWCP_REQUEST_RESUME: guest_run(g); break;
    case DWCP_REQUEST_SAVE_DEVICE_STATE:
        state[0] = g->counter, state[1] = ~g->counter;
        OK(dwcp_request_complete(s->node, c->id, 0, state, sizeof state));
        CHECK_STATUS(DWCP_ERR_NOT_FOUND, dwcp_request_complete(s->node, c->id, 0, NULL, 0));
        return;
    case DWCP_REQUEST_LOAD_DEVICE_STATE:
        CHECK(c->buffer_bytes == sizeof state);
        memcpy(state, c->buffer, sizeof state);
        CHECK(state[0] == ~state[1]);
        g->counter = state[0];
        break;
    case DWCP_REQUEST_THROTTLE:
        OK(dwcp_request_complete(s->node, c->id, DWCP_ERR_UNSUPPORTED, NULL, 0));
        return;
    case DWCP_REQUEST_FINISH: g->last_ending = (int)c->value; break;
    default: CHECK(!"a request of an unknown kind");
    }
    OK(dwcp_request_complete(s->node, c->id, 0, NULL, 0));
}

static void reap(side *s) {
    dwcp_completion batch[3];
    size_t count = 0;
    memset(batch, 0, sizeof batch);
    batch[0].struct_size = sizeof batch[0];
    OK(dwcp_node_reap(s->node, batch, 3, &count));
    for (size_t i = 0; i < count; i++) {
        CHECK(batch[i].struct_size == sizeof batch[i]);
        switch (batch[i].kind) {
        case DWCP_COMPLETION_REQUEST: answer(s, &batch[i]); break;
        case DWCP_COMPLETION_EVENT: s->events++; break;
        case DWCP_COMPLETION_MIGRATION_ENDED:
            s->ended = 1;
            s->status = batch[i].status;
            s->owner = batch[i].value;
            memcpy(s->id, batch[i].migration, sizeof s->id);
            break;
        default: CHECK(!"a completion of an unknown kind");
        }
    }
}

/* One loop drives both nodes until both migrations ended. */
static void drive(side *from, side *to) {
    struct pollfd fds[2] = {{0, POLLIN, 0}, {0, POLLIN, 0}};
    OK(dwcp_node_fd(from->node, &fds[0].fd));
    OK(dwcp_node_fd(to->node, &fds[1].fd));
    while (!from->ended || !to->ended) {
        CHECK(poll(fds, 2, PATIENCE_MS) > 0);
        if (fds[0].revents) reap(from);
        if (fds[1].revents) reap(to);
    }
}

static dwcp_migration *start(side *from, side *to) {
    dwcp_migration_options options = fast_options();
    dwcp_migration *migration = NULL;
    OK(dwcp_node_migrate(from->node, "vm", address_of(to->node), &options, &migration));
    return migration;
}

static void a_guest_moves_by_polling_alone(void) {
    side from, to;
    char id[40];
    make_sides(&from, &to, 0);
    dwcp_migration *migration = start(&from, &to);
    OK(dwcp_migration_id(migration, id, sizeof id, NULL));
    drive(&from, &to);
    CHECK(from.status == DWCP_OK && to.status == DWCP_OK);
    CHECK(from.owner == DWCP_OWNER_DESTINATION && to.owner == DWCP_OWNER_DESTINATION);
    CHECK(strcmp(from.id, id) == 0 && strcmp(to.id, id) == 0);
    CHECK(from.seen[DWCP_REQUEST_START_DIRTY_LOG] == 1 && from.seen[DWCP_REQUEST_PAUSE] == 1);
    CHECK(from.seen[DWCP_REQUEST_FETCH_DIRTY] >= 1 && from.seen[DWCP_REQUEST_RESUME] == 0);
    CHECK(from.seen[DWCP_REQUEST_SAVE_DEVICE_STATE] == 1);
    CHECK(to.seen[DWCP_REQUEST_LOAD_DEVICE_STATE] == 1 && to.seen[DWCP_REQUEST_RESUME] == 1);
    CHECK(from.events > 0 && to.events > 0);
    guest_pause(&to.guest);
    CHECK(to.guest.counter >= from.guest.counter);
    for (size_t page = 0; page < PAGES; page++)
        CHECK(memcmp(from.guest.memory + page * GUEST_PAGE_BYTES + 8,
                     to.guest.memory + page * GUEST_PAGE_BYTES + 8, GUEST_PAGE_BYTES - 8) == 0);
    OK(dwcp_migration_free(migration));
    free_sides(&from, &to);
}

static void a_request_answered_with_an_error_ends_the_migration(void) {
    static const uint32_t failing[] = {DWCP_REQUEST_START_DIRTY_LOG, DWCP_REQUEST_FETCH_DIRTY,
                                       DWCP_REQUEST_PAUSE, DWCP_REQUEST_SAVE_DEVICE_STATE};
    for (size_t i = 0; i < sizeof failing / sizeof failing[0]; i++) {
        side from, to;
        char reason[1024];
        make_sides(&from, &to, 0);
        from.fail_request = failing[i];
        dwcp_migration *migration = start(&from, &to);
        struct pollfd fd = {0, POLLIN, 0};
        OK(dwcp_node_fd(from.node, &fd.fd));
        while (!from.ended) {
            reap(&to);
            CHECK(poll(&fd, 1, 100) >= 0);
            reap(&from);
        }
        CHECK(from.status == DWCP_ERR_CALLBACK && from.owner == DWCP_OWNER_SOURCE);
        OK(dwcp_migration_reason(migration, reason, sizeof reason, NULL));
        CHECK(strstr(reason, "-4711"));
        OK(dwcp_migration_free(migration));
        free_sides(&from, &to);
    }
}

static void an_unanswered_request_fails_the_migration_and_its_late_answer_is_told(void) {
    side from, to;
    char reason[1024];
    make_sides(&from, &to, 300);
    from.ignored_request = DWCP_REQUEST_START_DIRTY_LOG;
    dwcp_migration *migration = start(&from, &to);
    struct pollfd fd = {0, POLLIN, 0};
    OK(dwcp_node_fd(from.node, &fd.fd));
    while (!from.ended) {
        reap(&to);
        CHECK(poll(&fd, 1, 100) >= 0);
        reap(&from);
    }
    OK(dwcp_migration_reason(migration, reason, sizeof reason, NULL));
    CHECK(strstr(reason, "was not answered within 300 ms"));
    CHECK(from.owner == DWCP_OWNER_SOURCE);
    CHECK_STATUS(DWCP_ERR_TIMEOUT,
                 dwcp_request_complete(from.node, from.ignored_id, 0, NULL, 0));
    OK(dwcp_migration_free(migration));
    free_sides(&from, &to);
}

static void a_node_stops_while_requests_are_open(void) {
    side from, to;
    make_sides(&from, &to, 0);
    from.ignored_request = DWCP_REQUEST_START_DIRTY_LOG;
    dwcp_migration *migration = start(&from, &to);
    struct pollfd fd = {0, POLLIN, 0};
    OK(dwcp_node_fd(from.node, &fd.fd));
    while (from.ignored_id == NO_REQUEST) {
        reap(&to);
        CHECK(poll(&fd, 1, 100) >= 0);
        reap(&from);
    }
    OK(dwcp_node_stop(from.node));
    while (!from.ended) reap(&from);
    CHECK(from.status != DWCP_OK && from.owner == DWCP_OWNER_SOURCE);
    OK(dwcp_migration_free(migration));
    free_sides(&from, &to);
}

int main(void) {
    CASE(a_guest_moves_by_polling_alone);
    CASE(a_request_answered_with_an_error_ends_the_migration);
    CASE(an_unanswered_request_fails_the_migration_and_its_late_answer_is_told);
    CASE(a_node_stops_while_requests_are_open);
    return REPORT();
}
