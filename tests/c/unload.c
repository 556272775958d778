/* The library comes and goes with dlopen and dlclose, and nothing of it stays. */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <dlfcn.h>
#include <stdlib.h>

enum { ROUNDS = 5 };

static int is_mapped(void) {
    char line[512];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) found |= strstr(line, "libdwcp.so") != NULL;
    if (maps) fclose(maps);
    return found;
}

static int entries(const char *directory) {
    int count = 0;
    DIR *open = opendir(directory);
    while (open && readdir(open)) count++;
    if (open) closedir(open);
    return count;
}

/* Function pointers by memcpy: ISO C has no cast from void *. */
static void find(void *library, const char *name, void *function) {
    void *symbol = dlsym(library, name);
    if (!symbol) fprintf(stderr, "no symbol %s\n", name), abort();
    memcpy(function, &symbol, sizeof symbol);
}

static int32_t nothing(void *ctx) {
    (void)ctx;
    return 0;
}

static int32_t no_writes(void *ctx, uint32_t region, uint64_t *log, size_t words) {
    (void)ctx, (void)region, (void)log, (void)words;
    return 0;
}

/* Over TLS, so that nothing of that stays either. */
static dwcp_node_options secured(void) {
    dwcp_node_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.listen = "127.0.0.1:0";
    options.identity_dir = getenv("DWCP_IDENTITY");
    return options;
}

/* A migration to another node, so that every kind of thread has run. */
static void move_a_guest(void *library, dwcp_node *node) {
    static unsigned char from[64 * 4096], to[64 * 4096];
    dwcp_status (*add_source)(dwcp_node *, const char *, const dwcp_source *);
    dwcp_status (*add_destination)(dwcp_node *, const char *, const dwcp_destination *);
    dwcp_status (*address)(const dwcp_node *, char *, size_t, size_t *);
    dwcp_status (*migrate)(dwcp_node *, const char *, const char *, const dwcp_migration_options *,
                           dwcp_migration **);
    dwcp_status (*wait)(dwcp_migration *, uint64_t, dwcp_status *);
    dwcp_status (*reason)(const dwcp_migration *, char *, size_t, size_t *);
    dwcp_status (*migration_free)(dwcp_migration *);
    dwcp_status (*node_new)(const dwcp_node_options *, dwcp_node **);
    dwcp_status (*node_free)(dwcp_node *);
    dwcp_node_options options = secured();
    dwcp_region region = {sizeof region, "ram", 0, sizeof from, from, {0}};
    dwcp_source source = {0};
    dwcp_destination destination = {0};
    dwcp_migration_options how = {0};
    dwcp_migration *migration = NULL;
    dwcp_node *other = NULL;
    dwcp_status ended = 1;
    char text[512];
    find(library, "dwcp_node_add_source", &add_source);
    find(library, "dwcp_node_add_destination", &add_destination);
    find(library, "dwcp_node_listen_address", &address);
    find(library, "dwcp_node_migrate", &migrate);
    find(library, "dwcp_migration_wait", &wait);
    find(library, "dwcp_migration_free", &migration_free);
    find(library, "dwcp_node_new", &node_new);
    find(library, "dwcp_node_free", &node_free);
    memset(from, 7, sizeof from);
    memset(to, 0, sizeof to);
    source.struct_size = sizeof source;
    source.regions = &region;
    source.region_count = 1;
    source.start_dirty_log = source.pause = source.resume = nothing;
    source.fetch_dirty = no_writes;
    CHECK(add_source(node, "vm", &source) == DWCP_OK);
    CHECK(node_new(&options, &other) == DWCP_OK);
    region.host = to;
    destination.struct_size = sizeof destination;
    destination.regions = &region;
    destination.region_count = 1;
    destination.resume = nothing;
    CHECK(add_destination(other, "vm", &destination) == DWCP_OK);
    CHECK(address(other, text, sizeof text, NULL) == DWCP_OK);
    /* Under valgrind the prediction alone may exceed the default. */
    how.struct_size = sizeof how;
    how.max_downtime_us = 10000000;
    CHECK(migrate(node, "vm", text, &how, &migration) == DWCP_OK);
    CHECK(wait(migration, 30000, &ended) == DWCP_OK);
    find(library, "dwcp_migration_reason", &reason);
    if (ended != DWCP_OK && reason(migration, text, sizeof text, NULL) != DWCP_ERR_BAD_HANDLE)
        fprintf(stderr, "the migration ended with %d: %s\n", ended, text);
    CHECK(ended == DWCP_OK);
    CHECK(memcmp(from, to, sizeof from) == 0);
    CHECK(migration_free(migration) == DWCP_OK);
    CHECK(node_free(other) == DWCP_OK);
}

/* Peers that are named, probed, found out and tested, on the thread that outlives the library. */
static void look_at_a_peer(void *library, dwcp_node *node) {
    dwcp_status (*add_peer)(dwcp_node *, const char *);
    dwcp_status (*address)(const dwcp_node *, char *, size_t, size_t *);
    dwcp_status (*detect)(dwcp_node *, const char *, dwcp_peer *);
    dwcp_status (*probe)(dwcp_node *, const char *, uint32_t, dwcp_probe_series *);
    dwcp_status (*test)(dwcp_node *, const char *, const dwcp_transport_test_options *,
                        dwcp_transport_test *);
    dwcp_status (*set_mode)(dwcp_node *, const char *, uint32_t);
    dwcp_transport_test_options how = {sizeof how, 0, 2, 100, 0, {0}};
    dwcp_probe_series series;
    dwcp_transport_test carried;
    dwcp_peer peer;
    char text[64];
    series.struct_size = sizeof series;
    carried.struct_size = sizeof carried;
    peer.struct_size = sizeof peer;
    find(library, "dwcp_node_add_peer", &add_peer);
    find(library, "dwcp_node_listen_address", &address);
    find(library, "dwcp_node_detect_mode", &detect);
    find(library, "dwcp_node_probe_peer", &probe);
    find(library, "dwcp_node_test_transport", &test);
    find(library, "dwcp_node_set_mode", &set_mode);
    CHECK(address(node, text, sizeof text, NULL) == DWCP_OK);
    CHECK(add_peer(node, text) == DWCP_OK);
    CHECK(probe(node, text, 3, &series) == DWCP_OK && series.answers == 3);
    CHECK(detect(node, text, &peer) == DWCP_OK && peer.flags & DWCP_PEER_HEARD);
    CHECK(set_mode(node, text, DWCP_MODE_INTERNET) == DWCP_OK);
    CHECK(test(node, text, &how, &carried) == DWCP_OK && carried.bytes > 0);
    CHECK(test(node, NULL, &how, &carried) == DWCP_OK && carried.bytes > 0);
    CHECK(add_peer(node, "localhost:1") == DWCP_OK);
    CHECK(probe(node, "localhost:1", 1, &series) == DWCP_ERR_CONNECT);
}

static void use_once(const char *path) {
    dwcp_status (*node_new)(const dwcp_node_options *, dwcp_node **);
    dwcp_status (*node_free)(dwcp_node *);
    dwcp_status (*node_fd)(const dwcp_node *, int32_t *);
    dwcp_status (*last_error)(char *, size_t, size_t *);
    dwcp_node_options options = secured();
    dwcp_node *node = NULL;
    char text[256] = "";
    int fd = -1;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) fprintf(stderr, "%s\n", dlerror());
    CHECK(library != NULL && is_mapped());
    find(library, "dwcp_node_new", &node_new);
    find(library, "dwcp_node_free", &node_free);
    find(library, "dwcp_node_fd", &node_fd);
    find(library, "dwcp_last_error", &last_error);
    CHECK(node_new(&options, &node) == DWCP_OK);
    CHECK(node_fd(node, &fd) == DWCP_OK && fd >= 0);
    move_a_guest(library, node);
    look_at_a_peer(library, node);
    CHECK(node_free(node) == DWCP_OK);
    CHECK(node_free(node) == DWCP_ERR_BAD_HANDLE);
    CHECK(last_error(text, sizeof text, NULL) == DWCP_OK && text[0]);
    CHECK(dlclose(library) == 0);
}

static void the_library_unloads_with_threads_and_descriptors(void) {
    const char *path = getenv("DWCP_LIBRARY");
    CHECK(path != NULL && getenv("DWCP_IDENTITY") != NULL && !is_mapped());
    int descriptors = entries("/proc/self/fd"), threads = entries("/proc/self/task");
    for (int round = 0; round < ROUNDS; round++) {
        use_once(path);
        CHECK(!is_mapped());
        CHECK(entries("/proc/self/fd") == descriptors);
        CHECK(entries("/proc/self/task") == threads);
    }
}

int main(void) {
    CASE(the_library_unloads_with_threads_and_descriptors);
    return REPORT();
}
