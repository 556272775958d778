/* The modes of peers: named, found out, forced and forgotten; probes and a test of a path. */
#include "check.h"
#include "guest.h"
#include <stdlib.h>

enum { PROBES = 5, TEST_MS = 300 };

/* Refuses at once: nobody listens on port 1. */
static const char nobody[] = "127.0.0.1:1";

static dwcp_peer known(dwcp_node *node, const char *address) {
    dwcp_peer peer;
    memset(&peer, 0x55, sizeof peer);
    peer.struct_size = sizeof peer;
    OK(dwcp_node_peer(node, address, &peer));
    CHECK(strcmp(peer.peer, address) == 0);
    return peer;
}

/* The peers as JSON, in a buffer of the length that was asked for. */
static char *peers_json(dwcp_node *node) {
    size_t needed = 0;
    OK(dwcp_node_peers_json(node, NULL, 0, &needed));
    /* Figures may grow by some digits meanwhile. */
    char *text = calloc(1, needed + 512);
    CHECK(text != NULL);
    OK(dwcp_node_peers_json(node, text, needed + 512, NULL));
    return text;
}

static void a_peer_is_found_out(void) {
    dwcp_node *here = new_node(NULL), *there = new_node("127.0.0.1:0");
    const char *address = address_of(there);
    dwcp_peer peer;
    memset(&peer, 0, sizeof peer);
    peer.struct_size = sizeof peer;
    CHECK_STATUS(DWCP_ERR_NOT_FOUND, dwcp_node_peer(here, address, &peer));
    CHECK(last_error_has(address));
    OK(dwcp_node_detect_mode(here, address, &peer));
    CHECK(peer.mode == DWCP_MODE_HYBRID && peer.forced == DWCP_MODE_AUTO);
    CHECK(peer.flags & DWCP_PEER_HEARD && peer.flags & DWCP_PEER_HAS_RTT);
    CHECK(peer.rtt_us > 0 && peer.min_rtt_us > 0 && peer.min_rtt_us <= peer.rtt_us);
    CHECK(!(peer.flags & DWCP_PEER_IN_USE) && peer.failure[0] == 0);
    CHECK(peer.rdma == DWCP_RDMA_UNKNOWN && peer.switches == 0);
    char *text = peers_json(here);
    CHECK(strstr(text, address) && strstr(text, "\"mode\":\"hybrid\""));
    free(text);
    OK(dwcp_node_remove_peer(here, address));
    CHECK_STATUS(DWCP_ERR_NOT_FOUND, dwcp_node_remove_peer(here, address));
    text = peers_json(here);
    CHECK(strcmp(text, "[]") == 0);
    free(text);
    OK(dwcp_node_free(here));
    OK(dwcp_node_free(there));
}

static void a_peer_that_does_not_answer_is_told_of(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_probe_series series;
    dwcp_peer peer;
    memset(&series, 0, sizeof series);
    memset(&peer, 0, sizeof peer);
    series.struct_size = sizeof series;
    peer.struct_size = sizeof peer;
    OK(dwcp_node_add_peer(node, nobody));
    OK(dwcp_node_add_peer(node, nobody));
    OK(dwcp_node_detect_mode(node, nobody, &peer));
    CHECK(strstr(peer.failure, "refused") && peer.flags == 0);
    CHECK(peer.measured == DWCP_MODE_AUTO);
    CHECK_STATUS(DWCP_ERR_CONNECT, dwcp_node_probe_peer(node, nobody, 1, &series));
    CHECK(last_error_has("127.0.0.1:1: Connection refused"));
    OK(dwcp_node_free(node));
}

static void probes_are_timed(void) {
    dwcp_node *here = new_node(NULL), *there = new_node("127.0.0.1:0");
    dwcp_probe_series series;
    memset(&series, 0x55, sizeof series);
    series.struct_size = sizeof series;
    OK(dwcp_node_probe_peer(here, address_of(there), PROBES, &series));
    CHECK(series.answers == PROBES && series.connect_us > 0 && series.min_rtt_us > 0);
    for (int i = 0; i < 64; i++)
        CHECK(i < PROBES ? series.answers_us[i] >= series.min_rtt_us : series.answers_us[i] == 0);
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT,
                 dwcp_node_probe_peer(here, address_of(there), 0, &series));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT,
                 dwcp_node_probe_peer(here, address_of(there), 65, &series));
    CHECK(last_error_has("count is 65"));
    OK(dwcp_node_free(here));
    OK(dwcp_node_free(there));
}

static void modes_are_forced_and_released(void) {
    dwcp_node *node = new_node(NULL);
    OK(dwcp_node_set_mode(node, nobody, DWCP_MODE_INTERNET));
    CHECK(known(node, nobody).mode == DWCP_MODE_INTERNET);
    CHECK(known(node, nobody).forced == DWCP_MODE_INTERNET);
    OK(dwcp_node_set_mode(node, NULL, DWCP_MODE_DATACENTER));
    CHECK(known(node, nobody).mode == DWCP_MODE_INTERNET);
    OK(dwcp_node_set_mode(node, nobody, DWCP_MODE_AUTO));
    CHECK(known(node, nobody).mode == DWCP_MODE_DATACENTER);
    CHECK(known(node, nobody).forced == DWCP_MODE_AUTO);
    OK(dwcp_node_set_mode(node, NULL, DWCP_MODE_AUTO));
    CHECK(known(node, nobody).mode == DWCP_MODE_HYBRID && known(node, nobody).switches == 3);
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_mode(node, nobody, 5));
    CHECK(last_error_has("mode 5"));
    OK(dwcp_node_free(node));
}

static void transport_options_are_kept(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_transport_options options, again;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    OK(dwcp_node_transport(node, &options));
    CHECK(options.mode == DWCP_MODE_AUTO && options.congestion == DWCP_CONGESTION_BBR);
    CHECK(options.datacenter_streams == 64 && options.internet_streams == 8);
    CHECK(options.internet_rtt_us == 50000 && options.fast_rate_bytes_per_s == 112500000);
    options.mode = DWCP_MODE_INTERNET;
    options.flags = DWCP_TRANSPORT_NO_DATACENTER;
    options.congestion = DWCP_CONGESTION_SYSTEM;
    options.internet_rtt_us = 7;
    OK(dwcp_node_set_transport(node, &options));
    memset(&again, 0x55, sizeof again);
    again.struct_size = sizeof again;
    OK(dwcp_node_transport(node, &again));
    CHECK(memcmp(&options, &again, sizeof again) == 0);
    OK(dwcp_node_add_peer(node, nobody));
    CHECK(known(node, nobody).mode == DWCP_MODE_INTERNET);
    options.internet_streams = 65;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_transport(node, &options));
    CHECK(last_error_has("internet_streams is 65"));
    OK(dwcp_node_set_transport(node, NULL));
    CHECK(known(node, nobody).mode == DWCP_MODE_HYBRID);
    OK(dwcp_node_free(node));
}

static void path_options_are_kept(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_path_options options, again;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    OK(dwcp_node_paths(node, &options));
    CHECK(options.flags == 0 && options.dscp == 0 && options.bandwidth_limit_bytes_per_s == 0);
    CHECK(options.source_addresses[0] == '\0');
    options.flags = DWCP_PATH_NO_PACING;
    options.dscp = 10;
    options.bandwidth_limit_bytes_per_s = 1000000;
    strcpy(options.source_addresses, "127.0.0.1,::1");
    OK(dwcp_node_set_paths(node, &options));
    memset(&again, 0x55, sizeof again);
    again.struct_size = sizeof again;
    OK(dwcp_node_paths(node, &again));
    CHECK(memcmp(&options, &again, sizeof again) == 0);
    options.dscp = 64;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_paths(node, &options));
    CHECK(last_error_has("dscp is 64"));
    options.dscp = 10;
    options.bandwidth_limit_bytes_per_s = 9;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_paths(node, &options));
    CHECK(last_error_has("bandwidth limit is 9"));
    options.bandwidth_limit_bytes_per_s = 0;
    strcpy(options.source_addresses, "127.0.0.1,eth0");
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_paths(node, &options));
    CHECK(last_error_has("eth0"));
    memset(options.source_addresses, '1', sizeof options.source_addresses);
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_paths(node, &options));
    CHECK(last_error_has("no NUL"));
    OK(dwcp_node_paths(node, &again));
    CHECK(again.dscp == 10 && again.bandwidth_limit_bytes_per_s == 1000000);
    OK(dwcp_node_set_paths(node, NULL));
    OK(dwcp_node_paths(node, &again));
    CHECK(again.flags == 0 && again.dscp == 0);
    OK(dwcp_node_free(node));
}

static void rdma_is_off_until_it_is_wanted(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_rdma_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    OK(dwcp_node_rdma(node, &options));
    CHECK(options.flags == 0 && options.max_memory_bytes == (uint64_t)1 << 44);
    options.flags = DWCP_RDMA_ENABLED;
    options.max_memory_bytes = 1 << 30;
    OK(dwcp_node_set_rdma(node, &options));
    options.flags = 2;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_rdma(node, &options));
    CHECK(last_error_has("flags 0x2"));
    OK(dwcp_node_rdma(node, &options));
    CHECK(options.flags == DWCP_RDMA_ENABLED && options.max_memory_bytes == 1 << 30);
    OK(dwcp_node_set_rdma(node, NULL));
    OK(dwcp_node_rdma(node, &options));
    CHECK(options.flags == 0);
    OK(dwcp_node_free(node));
}

static void a_test_tells_what_a_path_carries(void) {
    dwcp_node *here = new_node(NULL), *there = new_node("127.0.0.1:0");
    dwcp_transport_test_options options;
    dwcp_transport_test test;
    memset(&options, 0, sizeof options);
    memset(&test, 0x55, sizeof test);
    options.struct_size = sizeof options;
    test.struct_size = sizeof test;
    options.mode = DWCP_MODE_INTERNET;
    options.streams = 2;
    options.duration_ms = TEST_MS;
    OK(dwcp_node_test_transport(here, address_of(there), &options, &test));
    CHECK(strcmp(test.peer, address_of(there)) == 0 && test.congestion[0]);
    CHECK(test.mode == DWCP_MODE_INTERNET && test.in_force != DWCP_MODE_AUTO && test.streams == 2);
    CHECK(test.duration_us >= TEST_MS * 1000 && test.bytes > 0 && test.rate_bytes_per_s > 0);
    CHECK(test.min_rtt_us > 0 && test.loss_ppm <= 1000000);
    options.mode = DWCP_MODE_AUTO;
    OK(dwcp_node_test_transport(here, NULL, &options, &test));
    CHECK(test.mode == DWCP_MODE_HYBRID && strcmp(test.peer, address_of(there)) != 0);
    options.duration_ms = 30001;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_test_transport(here, NULL, &options, &test));
    CHECK(last_error_has("30.001s"));
    options.duration_ms = TEST_MS, options.streams = 65;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_test_transport(here, NULL, &options, &test));
    CHECK(last_error_has("streams is 65"));
    options.streams = 1, options.mode = DWCP_MODE_V1_COMPAT;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_test_transport(here, NULL, &options, &test));
    CHECK_STATUS(DWCP_ERR_CONNECT, dwcp_node_test_transport(here, nobody, NULL, &test));
    OK(dwcp_node_free(here));
    OK(dwcp_node_free(there));
}

static void paths_are_shared_with_those_who_are_named(void) {
    dwcp_node *node = new_node(NULL);
    OK(dwcp_node_share_paths_with(node, "10.0.0.0/8, fd00::1"));
    OK(dwcp_node_share_paths_with(node, ""));
    OK(dwcp_node_share_paths_with(node, NULL));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_share_paths_with(node, "10.0.0.1/8"));
    CHECK(last_error_has("10.0.0.0/8 is meant"));
    OK(dwcp_node_free(node));
}

/* What cannot be filled in is refused before anything is sent. */
static void outputs_are_checked_before_the_wait(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_probe_series series;
    dwcp_peer peer;
    dwcp_transport_test test;
    series.struct_size = peer.struct_size = test.struct_size = 8;
    CHECK_STATUS(DWCP_ERR_BAD_STRUCT_SIZE, dwcp_node_probe_peer(node, nobody, 1, &series));
    CHECK_STATUS(DWCP_ERR_BAD_STRUCT_SIZE, dwcp_node_detect_mode(node, nobody, &peer));
    CHECK_STATUS(DWCP_ERR_BAD_STRUCT_SIZE, dwcp_node_test_transport(node, NULL, NULL, &test));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_probe_peer(node, nobody, 1, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_detect_mode(node, nobody, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_test_transport(node, NULL, NULL, NULL));
    peer.struct_size = sizeof peer;
    CHECK_STATUS(DWCP_ERR_NOT_FOUND, dwcp_node_peer(node, nobody, &peer));
    OK(dwcp_node_free(node));
}

int main(void) {
    CASE(a_peer_is_found_out);
    CASE(a_peer_that_does_not_answer_is_told_of);
    CASE(probes_are_timed);
    CASE(modes_are_forced_and_released);
    CASE(transport_options_are_kept);
    CASE(path_options_are_kept);
    CASE(rdma_is_off_until_it_is_wanted);
    CASE(a_test_tells_what_a_path_carries);
    CASE(paths_are_shared_with_those_who_are_named);
    CASE(outputs_are_checked_before_the_wait);
    return REPORT();
}
