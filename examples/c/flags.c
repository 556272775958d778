/* Feature flags of a node: rolled out to a tenth of the peers, asked on a hot path, and switched off.
 *
 * Prints how many of a hundred peers have hybrid_mode after each step. */

#include <dwcp.h>

#include <stdio.h>
#include <stdlib.h>

enum { PEERS = 100 };

static void check(dwcp_status status, const char *what)
{
    char text[512] = "";
    if (status == DWCP_OK) return;
    if (dwcp_last_error(text, sizeof text, NULL) != DWCP_OK) text[sizeof text - 1] = 0;
    fprintf(stderr, "%s: %s: %s\n", what, dwcp_status_name(status), text);
    exit(1);
}

/* A change of one field; what is not set stays. */
static void set_percent(dwcp_node *node, unsigned percent, const char *why)
{
    dwcp_flag_change change = {.struct_size = sizeof change, .flag = DWCP_FLAG_HYBRID_MODE};
    change.fields = DWCP_FLAG_CHANGE_ROLLOUT;
    change.rollout_ppm = percent * 10000;
    check(dwcp_node_set_flags(node, &change, 1, "example", why), "dwcp_node_set_flags");
}

/* What a hot path does: some nanoseconds for each, and no error to handle. */
static void count(dwcp_decider *const deciders[PEERS], const char *when)
{
    unsigned on = 0;
    for (int peer = 0; peer < PEERS; peer++) on += dwcp_decider_is_on(deciders[peer]) == 1;
    printf("%s: %u of %d\n", when, on, PEERS);
}

int main(void)
{
    dwcp_node_options options = {.struct_size = sizeof options, .name = "rack1"};
    dwcp_decider *deciders[PEERS];
    dwcp_node *node = NULL;
    options.flags = DWCP_NODE_PLAIN;
    check(dwcp_node_new(&options, &node), "dwcp_node_new");
    for (int peer = 0; peer < PEERS; peer++) {
        char unit[32];
        snprintf(unit, sizeof unit, "rack1|peer-%d", peer);
        check(dwcp_node_decider(node, DWCP_FLAG_HYBRID_MODE, unit, &deciders[peer]), "dwcp_node_decider");
    }
    count(deciders, "at first");
    set_percent(node, 10, "week 2");
    count(deciders, "at 10 %");
    set_percent(node, 50, "week 3");
    count(deciders, "at 50 %");
    check(dwcp_node_set_kill_switch(node, "example", "a drill"), "dwcp_node_set_kill_switch");
    count(deciders, "killed");
    for (int peer = 0; peer < PEERS; peer++) dwcp_decider_free(deciders[peer]);
    dwcp_node_free(node);
    return 0;
}
