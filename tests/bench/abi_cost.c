/* What a call into libdwcp.so costs, an answer of a decider, and a completion taken through the node's file
 * descriptor.
 *
 * Prints one JSON object. A completion is made by removing a guest, which is an event; measured is
 * from the moment it waits: poll() until the descriptor is readable, then dwcp_node_reap(). */

#include <dwcp.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CALLS = 20000000, COMPLETIONS = 1000, LONGEST_MS = 10000, PAGE_BYTES = 4096 };

static char memory[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

static void check(dwcp_status status, const char *what)
{
    if (status != DWCP_OK) {
        char text[512] = "";
        if (dwcp_last_error(text, sizeof text, NULL) != DWCP_OK) {
            text[sizeof text - 1] = 0;
        }
        fprintf(stderr, "%s: %s: %s\n", what, dwcp_status_name(status), text);
        exit(1);
    }
}

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static double call_ns(void)
{
    volatile uint32_t version;
    double start = now_ns();
    for (int call = 0; call < CALLS; call++) {
        version = dwcp_abi_version();
    }
    (void)version;
    return (now_ns() - start) / CALLS;
}

/* Asks about a flag at 50 %, so that neither answer is a matter of course. */
static double decide_ns(void)
{
    dwcp_node_options options = {.struct_size = sizeof options, .name = "abi-cost"};
    dwcp_flag_change change = {.struct_size = sizeof change, .flag = DWCP_FLAG_HYBRID_MODE};
    dwcp_node *node = NULL;
    dwcp_decider *decider = NULL;
    volatile int32_t is_on;
    options.flags = DWCP_NODE_PLAIN;
    change.fields = DWCP_FLAG_CHANGE_ROLLOUT;
    change.rollout_ppm = 500000;
    check(dwcp_node_new(&options, &node), "dwcp_node_new");
    check(dwcp_node_set_flags(node, &change, 1, NULL, "a benchmark"), "dwcp_node_set_flags");
    check(dwcp_node_decider(node, DWCP_FLAG_HYBRID_MODE, "rack1|rack2", &decider), "dwcp_node_decider");
    double start = now_ns();
    for (int call = 0; call < CALLS; call++) {
        is_on = dwcp_decider_is_on(decider);
    }
    double spent_ns = now_ns() - start;
    (void)is_on;
    check(dwcp_decider_free(decider), "dwcp_decider_free");
    check(dwcp_node_free(node), "dwcp_node_free");
    return spent_ns / CALLS;
}

/* Adds or removes the guest; each is an event. */
static void make_event(dwcp_node *node, int add)
{
    dwcp_region region = {.struct_size = sizeof region, .name = "ram"};
    dwcp_destination guest = {.struct_size = sizeof guest};
    region.length_bytes = PAGE_BYTES;
    region.host = memory;
    guest.regions = &region;
    guest.region_count = 1;
    if (add) {
        check(dwcp_node_add_destination(node, "bench", &guest), "dwcp_node_add_destination");
    } else {
        check(dwcp_node_remove_guest(node, "bench"), "dwcp_node_remove_guest");
    }
}

/* Waits for the descriptor and takes one completion; false if none came. */
static size_t reap_one(dwcp_node *node, int fd, int timeout_ms)
{
    dwcp_completion completion;
    struct pollfd waiting = {.fd = fd, .events = POLLIN};
    size_t count = 0;
    if (poll(&waiting, 1, timeout_ms) != 1) {
        return 0;
    }
    memset(&completion, 0, sizeof completion);
    completion.struct_size = sizeof completion;
    check(dwcp_node_reap(node, &completion, 1, &count), "dwcp_node_reap");
    return count;
}

static double reap_us(void)
{
    dwcp_node_options options = {.struct_size = sizeof options, .name = "abi-cost"};
    dwcp_node *node = NULL;
    int32_t fd = -1;
    double spent_ns = 0;
    options.event_level = DWCP_EVENTS_DEBUG;
    check(dwcp_node_new(&options, &node), "dwcp_node_new");
    check(dwcp_node_fd(node, &fd), "dwcp_node_fd");
    while (reap_one(node, fd, 100) > 0) {
    }
    for (int made = 0; made < COMPLETIONS; made++) {
        struct pollfd waiting = {.fd = fd, .events = POLLIN};
        make_event(node, made % 2 == 0);
        if (poll(&waiting, 1, LONGEST_MS) != 1) {
            fprintf(stderr, "no completion after %d ms\n", LONGEST_MS);
            exit(1);
        }
        double start = now_ns();
        if (reap_one(node, fd, LONGEST_MS) != 1) {
            fprintf(stderr, "the descriptor is readable, but nothing is reaped\n");
            exit(1);
        }
        spent_ns += now_ns() - start;
    }
    check(dwcp_node_free(node), "dwcp_node_free");
    return spent_ns / COMPLETIONS / 1e3;
}

int main(void)
{
    printf("{\"call_ns\": %.3f, \"decide_ns\": %.3f, \"reap_us\": %.3f}\n", call_ns(), decide_ns(),
           reap_us());
    return 0;
}
