/* What must not be done, done: each is an error with a text, never a crash. */
#include "check.h"
#include "guest.h"
#include <stdlib.h>
#include <unistd.h>

/* Every function about a node's feature flags. */
static dwcp_status call_about_flags(int which, dwcp_node *node) {
    static char text[8192];
    static dwcp_flag_state state;
    static dwcp_flag_change change;
    static dwcp_flag_decision decision;
    static dwcp_decider *decider;
    static dwcp_rollback_limits limits;
    limits.struct_size = sizeof limits;
    state.struct_size = sizeof state;
    change.struct_size = sizeof change;
    change.flag = DWCP_FLAG_HYBRID_MODE;
    change.owner = "net";
    decision.struct_size = sizeof decision;
    switch (which) {
    case 0: return dwcp_node_flags_json(node, text, sizeof text, NULL);
    case 1: return dwcp_node_flag(node, DWCP_FLAG_HYBRID_MODE, &state);
    case 2: return dwcp_node_set_flags(node, &change, 1, NULL, "why");
    case 3: return dwcp_node_disable_all_flags(node, NULL, "why");
    case 4: return dwcp_node_clear_latch(node, DWCP_FLAG_HYBRID_MODE, NULL, "why");
    case 5: return dwcp_node_set_kill_switch(node, NULL, "why");
    case 6: return dwcp_node_explain_flag(node, DWCP_FLAG_HYBRID_MODE, "a|b", &decision);
    case 7: return dwcp_node_flag_history_json(node, 1, text, sizeof text, NULL);
    case 8: return dwcp_node_set_rollout_members(node, NULL, 0);
    case 9: return dwcp_node_decider(node, DWCP_FLAG_HYBRID_MODE, "a|b", &decider);
    case 10: return dwcp_node_rollouts_json(node, text, sizeof text, NULL);
    case 11: return dwcp_node_rollback_limits(node, &limits);
    case 12: return dwcp_node_set_rollback_limits(node, NULL);
    case 13: return dwcp_node_start_schedule(node, DWCP_FLAG_HYBRID_MODE, NULL, NULL, "why");
    case 14: return dwcp_node_stop_schedule(node, DWCP_FLAG_HYBRID_MODE, NULL, "why");
    default: return 1;
    }
}

/* Every function about the modes of a node's peers. */
static dwcp_status call_about_peers(int which, dwcp_node *node) {
    static char text[4096];
    static dwcp_peer peer;
    static dwcp_probe_series series;
    static dwcp_transport_test test;
    static dwcp_transport_options options;
    static dwcp_path_options paths;
    static dwcp_rdma_options rdma;
    peer.struct_size = sizeof peer;
    series.struct_size = sizeof series;
    test.struct_size = sizeof test;
    options.struct_size = sizeof options;
    paths.struct_size = sizeof paths;
    rdma.struct_size = sizeof rdma;
    switch (which) {
    case 0: return dwcp_node_add_peer(node, "127.0.0.1:1");
    case 1: return dwcp_node_remove_peer(node, "127.0.0.1:1");
    case 2: return dwcp_node_peers_json(node, text, sizeof text, NULL);
    case 3: return dwcp_node_peer(node, "127.0.0.1:1", &peer);
    case 4: return dwcp_node_detect_mode(node, "127.0.0.1:1", &peer);
    case 5: return dwcp_node_set_mode(node, NULL, DWCP_MODE_AUTO);
    case 6: return dwcp_node_probe_peer(node, "127.0.0.1:1", 1, &series);
    case 7: return dwcp_node_set_transport(node, NULL);
    case 8: return dwcp_node_transport(node, &options);
    case 9: return dwcp_node_test_transport(node, "127.0.0.1:1", NULL, &test);
    case 10: return dwcp_node_share_paths_with(node, NULL);
    case 11: return dwcp_node_set_paths(node, NULL);
    case 12: return dwcp_node_paths(node, &paths);
    case 13: return dwcp_node_set_rdma(node, NULL);
    case 14: return dwcp_node_rdma(node, &rdma);
    default: return call_about_flags(which - 15, node);
    }
}

/* Every function that takes a node, with the rest of its arguments right. */
static dwcp_status call_on_node(int which, dwcp_node *node) {
    static char text[4096];
    static dwcp_completion completion;
    static dwcp_migration *migration;
    size_t count = 0;
    int fd = 0;
    guest g;
    dwcp_status code;
    completion.struct_size = sizeof completion;
    switch (which) {
    case 0: return dwcp_node_free(node);
    case 1: return dwcp_node_stop(node);
    case 2: return dwcp_node_name(node, text, sizeof text, NULL);
    case 3: return dwcp_node_listen_address(node, text, sizeof text, NULL);
    case 4: return dwcp_node_fd(node, &fd);
    case 5: return dwcp_node_remove_guest(node, "vm");
    case 6: return dwcp_node_guests_json(node, text, sizeof text, NULL);
    case 7: return dwcp_node_events_json(node, 0, 1, text, sizeof text, NULL);
    case 8: return dwcp_node_migrate(node, "vm", "127.0.0.1:1", NULL, &migration);
    case 9: return dwcp_node_migration(node, "00", &migration);
    case 10: return dwcp_node_reap(node, &completion, 1, &count);
    case 11: return dwcp_request_complete(node, 1, 0, NULL, 0);
    case 12:
    case 13:
    case 14: {
        guest_init(&g, 1);
        dwcp_region region = guest_region(&g);
        dwcp_source source = guest_source(&g, &region);
        dwcp_destination destination = guest_destination(&g, &region);
        if (which == 12) code = dwcp_node_add_source(node, "vm", &source);
        else if (which == 13) code = dwcp_node_add_process_memory_source(node, "vm", &source);
        else code = dwcp_node_add_destination(node, "vm", &destination);
        guest_free(&g);
        return code;
    }
    case 15: return dwcp_node_serve_control(node, "/nowhere/at/all");
    case 16: return dwcp_node_attach_qemu(node, "vm", "/nowhere/at/all", 0);
    default: return call_about_peers(which - 17, node);
    }
}

/* Every function that takes a migration. */
static dwcp_status call_on_migration(int which, dwcp_migration *migration) {
    static char text[4096];
    static dwcp_progress progress;
    static dwcp_report report;
    uint32_t number = 0;
    dwcp_status status = 0;
    progress.struct_size = sizeof progress;
    report.struct_size = sizeof report;
    switch (which) {
    case 0: return dwcp_migration_free(migration);
    case 1: return dwcp_migration_wait(migration, 0, &status);
    case 2: return dwcp_migration_cancel(migration);
    case 3: return dwcp_migration_set_bandwidth_limit(migration, 0);
    case 4: return dwcp_migration_id(migration, text, sizeof text, NULL);
    case 5: return dwcp_migration_guest(migration, text, sizeof text, NULL);
    case 6: return dwcp_migration_side(migration, &number);
    case 7: return dwcp_migration_status(migration, &status);
    case 8: return dwcp_migration_reason(migration, text, sizeof text, NULL);
    case 9: return dwcp_migration_owner(migration, &number);
    case 10: return dwcp_migration_progress(migration, &progress);
    case 11: return dwcp_migration_report(migration, &report);
    case 12: return dwcp_migration_report_json(migration, text, sizeof text, NULL);
    case 13: return dwcp_migration_start_post_copy(migration);
    case 14: return dwcp_migration_abandon_post_copy(migration);
    default: return 1;
    }
}

static void no_function_takes_a_bad_handle(void) {
    dwcp_node *freed = new_node(NULL), *live = new_node(NULL);
    dwcp_flag_decision decision = {.struct_size = sizeof decision};
    void *bad[] = {NULL, freed, (void *)1, (void *)8, (void *)UINTPTR_MAX, "text", &freed};
    OK(dwcp_node_free(freed));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        /* Freeing NULL is fine, so that one call is left out. */
        for (int which = bad[i] ? 0 : 1; call_on_node(which, bad[i]) != 1; which++)
            CHECK_STATUS(DWCP_ERR_BAD_HANDLE, call_on_node(which, bad[i]));
        for (int which = bad[i] ? 0 : 1; call_on_migration(which, bad[i]) != 1; which++)
            CHECK_STATUS(DWCP_ERR_BAD_HANDLE, call_on_migration(which, bad[i]));
        CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_writer_write(bad[i], "x", 1));
        CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_decider_explain(bad[i], &decision));
        if (bad[i]) CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_decider_free(bad[i]));
        CHECK(dwcp_decider_is_on(bad[i]) == 0);
        CHECK(last_error_has("dwcp_decider handle"));
    }
    for (int which = 0; call_on_migration(which, (dwcp_migration *)live) != 1; which++) {
        CHECK_STATUS(DWCP_ERR_BAD_HANDLE, call_on_migration(which, (dwcp_migration *)live));
        CHECK(last_error_has("is no live dwcp_migration handle"));
    }
    CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_writer_write((dwcp_writer *)live, "x", 1));
    OK(dwcp_node_free(live));
    OK(dwcp_node_free(NULL));
    OK(dwcp_migration_free(NULL));
}

static void no_function_takes_null_where_it_needs_a_pointer(void) {
    dwcp_node *node = new_node(NULL), *other = NULL;
    dwcp_node_options options = {sizeof options, 0, 0, 0, 0, 0, DWCP_NODE_PLAIN,
                                 0, 0, 0, 0, {0}};
    dwcp_migration *migration = NULL;
    dwcp_completion completion;
    size_t count = 0;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_new(NULL, &other));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_new(&options, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_name(node, NULL, 0, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_guests_json(node, NULL, 5, &count));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_events_json(node, 0, 1, NULL, 0, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_fd(node, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_remove_guest(node, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_migrate(node, NULL, "h:1", NULL, &migration));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_migrate(node, "vm", NULL, NULL, &migration));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_migrate(node, "vm", "h:1", NULL, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_migration(node, NULL, &migration));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_migration(node, "00", NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_reap(node, NULL, 1, &count));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_reap(node, &completion, 1, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_request_complete(node, 1, 0, NULL, 5));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_source(node, "vm", NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_process_memory_source(node, "vm", NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_destination(node, "vm", NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_attach_qemu(node, NULL, "/nowhere", 0));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_attach_qemu(node, "vm", NULL, 0));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_peer(node, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_remove_peer(node, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_peers_json(node, NULL, 5, &count));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_peer(node, NULL, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_transport(node, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_paths(node, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_rdma(node, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_flag(node, DWCP_FLAG_HYBRID_MODE, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_set_flags(node, NULL, 1, NULL, "why"));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_disable_all_flags(node, NULL, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_explain_flag(node, 1, NULL, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_explain_flag(node, 1, "a|b", NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_decider(node, 1, "a|b", NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_rollback_limits(node, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_start_schedule(node, 1, NULL, NULL, NULL));
    OK(dwcp_node_reap(node, NULL, 0, &count));
    OK(dwcp_node_free(node));
}

static void struct_sizes_are_checked(void) {
    static const size_t bad[] = {0, 1, 7, 8, 64, 4097, (size_t)1 << 40, SIZE_MAX};
    dwcp_node_options options = {0, 0, 0, 0, 0, 0, DWCP_NODE_PLAIN,
                                 0, 0, 0, 0, {0}};
    dwcp_completion completion;
    dwcp_node *node = NULL, *live = new_node(NULL);
    size_t count;
    memset(&completion, 0, sizeof completion);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        completion.struct_size = options.struct_size = bad[i];
        CHECK_STATUS(DWCP_ERR_BAD_STRUCT_SIZE, dwcp_node_new(&options, &node));
        CHECK(last_error_has("dwcp_node_options.struct_size is"));
        CHECK(node == NULL);
        CHECK_STATUS(DWCP_ERR_BAD_STRUCT_SIZE, dwcp_node_reap(live, &completion, 1, &count));
    }
    OK(dwcp_node_free(live));
}

static void a_newer_struct_is_fine_while_its_new_fields_are_zero(void) {
    struct {
        dwcp_node_options options;
        uint64_t newer[4];
    } big;
    dwcp_node *node = NULL;
    memset(&big, 0, sizeof big);
    big.options.struct_size = sizeof big;
    OK(dwcp_node_new(&big.options, &node));
    OK(dwcp_node_free(node));
    big.newer[3] = 1;
    CHECK_STATUS(DWCP_ERR_BAD_STRUCT_SIZE, dwcp_node_new(&big.options, &node));
    CHECK(last_error_has("fields that this library does not know"));
    big.newer[3] = 0;
    big.options.reserved[3] = 1;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_new(&big.options, &node));
}

static void node_options_are_checked(void) {
    static const char *const addresses[] = {"", "x", "127.0.0.1", "127.0.0.1:99999", "a\xff:1"};
    static char long_text[8192];
    dwcp_node_options options = {sizeof options, 0, 0, 0, 0, 0, DWCP_NODE_PLAIN,
                                 0, 0, 0, 0, {0}};
    dwcp_node *node = NULL;
    for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        options.listen = addresses[i];
        CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_new(&options, &node));
    }
    options.listen = NULL;
    options.event_level = 99;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_new(&options, &node));
    CHECK(last_error_has("event_level 99"));
    options.event_level = 0;
    options.identity_dir = "/nowhere";
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_new(&options, &node));
    CHECK(last_error_has("exclude each other"));
    options.flags = 0;
    CHECK_STATUS(DWCP_ERR_IO, dwcp_node_new(&options, &node));
    CHECK(last_error_has("/nowhere/node.pem"));
    options.identity_dir = NULL;
    options.listen = "127.0.0.1:0";
    CHECK_STATUS(DWCP_ERR_BAD_STATE, dwcp_node_new(&options, &node));
    CHECK(last_error_has("identity issue"));
    options.listen = "8.8.8.8:0";
    options.flags = DWCP_NODE_PLAIN;
    CHECK_STATUS(DWCP_ERR_REFUSED, dwcp_node_new(&options, &node));
    CHECK(last_error_has("public address"));
    options.listen = NULL;
    options.flags = 6;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_new(&options, &node));
    CHECK(last_error_has("flags 0x6"));
    options.flags = 0;
    options.held_bytes = 1048575;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_new(&options, &node));
    CHECK(last_error_has("held_bytes is 1048575"));
    options.held_bytes = 0;
    options.padding = 1;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_new(&options, &node));
    options.padding = 0;
    memset(long_text, 'a', sizeof long_text - 1);
    options.name = long_text;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_new(&options, &node));
    options.name = "bad\nname";
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_new(&options, &node));
    CHECK(node == NULL);
}

static void regions_are_checked(void) {
    dwcp_node *node = new_node(NULL);
    guest g;
    guest_init(&g, 4);
    dwcp_region good = guest_region(&g), regions[2] = {good, good};
    dwcp_source source = guest_source(&g, regions);

    source.region_count = 0;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "vm", &source));
    source.region_count = SIZE_MAX;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "vm", &source));
    source.region_count = 2;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "vm", &source));
    CHECK(last_error_has("used twice"));
    regions[1].name = "rom";
    regions[1].host = NULL;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "vm", &source));
    CHECK(last_error_has("all or none"));
    regions[1].struct_size = sizeof regions[1] + 8;
    CHECK_STATUS(DWCP_ERR_BAD_STRUCT_SIZE, dwcp_node_add_source(node, "vm", &source));

    source.region_count = 1;
    regions[0].length_bytes = 4095;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "vm", &source));
    CHECK(last_error_has("4095"));
    regions[0].length_bytes = UINT64_MAX & ~(uint64_t)4095;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "vm", &source));
    regions[0] = good;
    regions[0].name = NULL;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_source(node, "vm", &source));
    CHECK(last_error_has("regions[0].name"));
    regions[0] = good;
    regions[0].host = NULL;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_source(node, "vm", &source));
    CHECK(last_error_has("read_pages"));
    regions[0] = good;
    source.page_bytes = 1000;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "vm", &source));
    source.page_bytes = 0;
    source.regions = NULL;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_source(node, "vm", &source));

    OK(dwcp_node_free(node));
    CHECK(g.drops == 0);
    guest_free(&g);
}

static void callbacks_are_all_or_none(void) {
    dwcp_node *node = new_node(NULL);
    guest g;
    guest_init(&g, 4);
    dwcp_region region = guest_region(&g);
    dwcp_source good = guest_source(&g, &region), source = good;
    source.pause = NULL;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_source(node, "vm", &source));
    CHECK(last_error_has("dwcp_source.pause is NULL"));
    source = good;
    source.fetch_dirty = NULL;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_source(node, "vm", &source));
    source = good;
    source.resume = NULL;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_source(node, "vm", &source));
    source = good;
    source.start_dirty_log = NULL;
    source.fetch_dirty = NULL;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_source(node, "vm", &source));
    source = good;
    source.flags = 1;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "vm", &source));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_process_memory_source(node, "vm", &good));
    CHECK(last_error_has("the kernel tracks this guest"));
    dwcp_destination destination = guest_destination(&g, &region);
    destination.resume = NULL;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_add_destination(node, "vm", &destination));
    OK(dwcp_node_free(node));
    CHECK(g.drops == 0);
    guest_free(&g);
}

static void names_and_registrations_are_checked(void) {
    static char long_name[200];
    dwcp_node *node = new_node(NULL);
    dwcp_migration *migration = (dwcp_migration *)1;
    guest g;
    guest_init(&g, 4);
    dwcp_region region = guest_region(&g);
    dwcp_source source = guest_source(&g, &region);
    dwcp_destination destination = guest_destination(&g, &region);
    memset(long_name, 'a', sizeof long_name - 1);
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "", &source));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, long_name, &source));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "a\nb", &source));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_source(node, "\xc3", &source));
    CHECK(g.drops == 0);
    OK(dwcp_node_add_source(node, "vm", &source));
    CHECK_STATUS(DWCP_ERR_ALREADY_EXISTS, dwcp_node_add_source(node, "vm", &source));
    CHECK_STATUS(DWCP_ERR_ALREADY_EXISTS, dwcp_node_add_destination(node, "vm", &destination));
    CHECK(g.drops == 0);
    CHECK_STATUS(DWCP_ERR_NOT_FOUND, dwcp_node_remove_guest(node, "other"));
    CHECK_STATUS(DWCP_ERR_NOT_FOUND,
                 dwcp_node_migrate(node, "other", "127.0.0.1:1", NULL, &migration));
    CHECK(migration == NULL);
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT,
                 dwcp_node_migrate(node, "vm", "nowhere", NULL, &migration));
    CHECK(last_error_has("nowhere"));
    OK(dwcp_node_remove_guest(node, "vm"));
    CHECK_STATUS(DWCP_ERR_NOT_FOUND, dwcp_node_remove_guest(node, "vm"));
    OK(dwcp_node_free(node));
    CHECK(g.drops == 1);
    guest_free(&g);
}

static void migration_options_are_checked(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_migration *migration = NULL;
    guest g;
    guest_init(&g, 4);
    dwcp_region region = guest_region(&g);
    dwcp_source source = guest_source(&g, &region);
    OK(dwcp_node_add_source(node, "vm", &source));
    dwcp_migration_options bad[8];
    for (int i = 0; i < 8; i++) bad[i] = fast_options();
    bad[0].codec = 99;
    bad[1].codec = DWCP_CODEC_ZSTD, bad[1].codec_level = 99;
    bad[2].streams = 65;
    bad[3].streams = UINT32_MAX;
    bad[4].flags = 0x80000000u;
    bad[5].bandwidth_limit_bytes_per_s = 5;
    bad[6].reserved[0] = 1;
    bad[7].post_copy = 3;
    for (int i = 0; i < 8; i++)
        CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT,
                     dwcp_node_migrate(node, "vm", "127.0.0.1:1", &bad[i], &migration));
    bad[0].struct_size = 3;
    CHECK_STATUS(DWCP_ERR_BAD_STRUCT_SIZE,
                 dwcp_node_migrate(node, "vm", "127.0.0.1:1", &bad[0], &migration));
    CHECK(migration == NULL);
    OK(dwcp_node_free(node));
    guest_free(&g);
}

static void stopping_twice_and_calls_after_it_are_defined(void) {
    dwcp_node *node = new_node("127.0.0.1:0");
    dwcp_migration *migration = NULL;
    guest g;
    guest_init(&g, 4);
    dwcp_region region = guest_region(&g);
    dwcp_source source = guest_source(&g, &region);
    OK(dwcp_node_stop(node));
    OK(dwcp_node_stop(node));
    CHECK_STATUS(DWCP_ERR_STOPPED, dwcp_node_add_source(node, "vm", &source));
    CHECK_STATUS(DWCP_ERR_STOPPED, dwcp_node_migrate(node, "vm", "h:1", NULL, &migration));
    CHECK_STATUS(DWCP_ERR_NOT_FOUND, dwcp_request_complete(node, 99, 0, NULL, 0));
    OK(dwcp_node_free(node));
    CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_node_free(node));
    guest_free(&g);
}

static void peers_are_checked(void) {
    static const char *const addresses[] = {"", "x", ":1", "host:0", "::1:7", "a\xff:1"};
    static char long_address[300];
    dwcp_node *node = new_node(NULL);
    for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_peer(node, addresses[i]));
        CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT,
                     dwcp_node_set_mode(node, addresses[i], DWCP_MODE_HYBRID));
    }
    memset(long_address, 'a', sizeof long_address - 1);
    memcpy(long_address + sizeof long_address - 3, ":1", 2);
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_add_peer(node, long_address));
    CHECK(last_error_has("longer than 261"));
    OK(dwcp_node_stop(node));
    for (int which = 4; which < 10; which++)
        if (which != 5 && which != 7 && which != 8)
            CHECK_STATUS(DWCP_ERR_STOPPED, call_about_peers(which, node));
    CHECK_STATUS(DWCP_ERR_STOPPED, call_about_peers(0, node));
    CHECK_STATUS(DWCP_ERR_STOPPED, dwcp_node_set_mode(node, "127.0.0.1:1", DWCP_MODE_HYBRID));
    OK(dwcp_node_free(node));
}

static void a_text_is_set_inside_callbacks_only(void) {
    CHECK_STATUS(DWCP_ERR_BAD_STATE, dwcp_callback_set_error("text"));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_callback_set_error(NULL));
}

static void control_sockets_are_checked(void) {
    static char directory[] = "/tmp/dwcp-misuse-XXXXXX";
    char path[64];
    dwcp_node *node = new_node(NULL), *other = new_node(NULL);
    CHECK(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/socket", directory);
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_serve_control(node, NULL));
    CHECK_STATUS(DWCP_ERR_IO, dwcp_node_serve_control(node, "/nowhere/at/all"));
    CHECK(last_error_has("/nowhere/at/all"));
    OK(dwcp_node_serve_control(node, path));
    CHECK_STATUS(DWCP_ERR_ALREADY_EXISTS, dwcp_node_serve_control(node, path));
    CHECK_STATUS(DWCP_ERR_ALREADY_EXISTS, dwcp_node_serve_control(other, path));
    OK(dwcp_node_free(node));
    OK(dwcp_node_serve_control(other, path));
    OK(dwcp_node_free(other));
    CHECK(rmdir(directory) == 0);
}

static void a_port_in_use_is_named(void) {
    dwcp_node *node = new_node("127.0.0.1:0"), *other = NULL;
    dwcp_node_options options = {sizeof options, 0, 0, 0, 0, 0, DWCP_NODE_PLAIN,
                                 0, 0, 0, 0, {0}};
    const char *address = address_of(node);
    options.listen = address;
    CHECK_STATUS(DWCP_ERR_IO, dwcp_node_new(&options, &other));
    CHECK(last_error_has(address));
    OK(dwcp_node_free(node));
}

int main(void) {
    CASE(no_function_takes_a_bad_handle);
    CASE(no_function_takes_null_where_it_needs_a_pointer);
    CASE(struct_sizes_are_checked);
    CASE(a_newer_struct_is_fine_while_its_new_fields_are_zero);
    CASE(node_options_are_checked);
    CASE(regions_are_checked);
    CASE(callbacks_are_all_or_none);
    CASE(names_and_registrations_are_checked);
    CASE(migration_options_are_checked);
    CASE(stopping_twice_and_calls_after_it_are_defined);
    CASE(peers_are_checked);
    CASE(a_text_is_set_inside_callbacks_only);
    CASE(control_sockets_are_checked);
    CASE(a_port_in_use_is_named);
    return REPORT();
}
