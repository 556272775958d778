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

static void use_once(const char *path) {
    dwcp_status (*node_new)(const dwcp_node_options *, dwcp_node **);
    dwcp_status (*node_free)(dwcp_node *);
    dwcp_status (*node_fd)(const dwcp_node *, int32_t *);
    dwcp_status (*last_error)(char *, size_t, size_t *);
    dwcp_node_options options = {sizeof options, 0, "127.0.0.1:0", 0, 0, 0, {0}};
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
    CHECK(node_free(node) == DWCP_OK);
    CHECK(node_free(node) == DWCP_ERR_BAD_HANDLE);
    CHECK(last_error(text, sizeof text, NULL) == DWCP_OK && text[0]);
    CHECK(dlclose(library) == 0);
}

static void the_library_unloads_with_threads_and_descriptors(void) {
    const char *path = getenv("DWCP_LIBRARY");
    CHECK(path != NULL && !is_mapped());
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
