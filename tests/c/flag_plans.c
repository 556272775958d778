/* What rules would decide, against the vectors that Rust and Python are held to as well. */
#include "check.h"

static const char all_on[] =
    "{\"flags\":{\"hybrid_mode\":{\"rule\":true},\"ml_compression\":{\"rule\":true},"
    "\"crdt_sync\":{\"rule\":true},\"pbft_consensus\":{\"rule\":true},"
    "\"internet_optimization\":{\"rule\":true}}}";

static int count;

static void decided(const char *why, const char *rules, uint32_t flag, const char *unit,
                    uint32_t peer_can, uint64_t now_s, uint32_t is_on, uint32_t reason) {
    dwcp_flag_decision decision;
    memset(&decision, 0x55, sizeof decision);
    decision.struct_size = sizeof decision;
    OK(dwcp_flag_decide(rules, flag, unit, peer_can, now_s, &decision));
    if (decision.is_on != is_on || decision.reason != reason)
        fprintf(stderr, "%s: %u for reason %u\n", why, decision.is_on, decision.reason);
    CHECK(decision.is_on == is_on && decision.reason == reason);
    count++;
}

static void placed(const char *rules, uint32_t flag, const char *unit, uint32_t bucket) {
    dwcp_flag_decision decision;
    decision.struct_size = sizeof decision;
    OK(dwcp_flag_decide(rules, flag, unit, 1, 0, &decision));
    CHECK(decision.reason == DWCP_REASON_BELOW_PERCENTAGE && decision.rollout_ppm == 0);
    CHECK(decision.bucket == bucket);
    count++;
}

static void chosen(uint32_t flag, uint64_t seed, uint32_t ppm, const char *expected,
                   const char *const *members, size_t members_count) {
    char text[4096];
    OK(dwcp_flag_exact_units_json(flag, seed, ppm, members, members_count, text, sizeof text, NULL));
    CHECK(strcmp(text, expected) == 0);
    count++;
}

static void decisions_are_those_of_the_vectors(void) {
    count = 0;
#define DECISION(why, rules, flag, unit, peer_can, now_s, is_on, reason)                           \
    decided(why, rules, flag, unit, peer_can, now_s, is_on, reason);
#define BUCKET(rules, flag, unit, bucket)
#define EXACT(flag, seed, ppm, expected, ...)
#include "rollout_vectors.inc"
#undef DECISION
#undef BUCKET
#undef EXACT
    CHECK(count >= 39);
}

static void buckets_are_those_of_the_vectors(void) {
    count = 0;
#define DECISION(why, rules, flag, unit, peer_can, now_s, is_on, reason)
#define BUCKET(rules, flag, unit, bucket) placed(rules, flag, unit, bucket);
#define EXACT(flag, seed, ppm, expected, ...)
#include "rollout_vectors.inc"
#undef DECISION
#undef BUCKET
#undef EXACT
    CHECK(count >= 30);
}

static void exact_shares_are_those_of_the_vectors(void) {
    count = 0;
#define DECISION(why, rules, flag, unit, peer_can, now_s, is_on, reason)
#define BUCKET(rules, flag, unit, bucket)
#define EXACT(flag, seed, ppm, expected, ...)                                                      \
    {                                                                                              \
        static const char *const members[] = {__VA_ARGS__};                                        \
        chosen(flag, seed, ppm, expected, members, sizeof members / sizeof members[0]);            \
    }
#include "rollout_vectors.inc"
#undef DECISION
#undef BUCKET
#undef EXACT
    CHECK(count >= 7);
}

static void what_cannot_be_decided_is_named(void) {
    dwcp_flag_decision decision;
    char text[64];
    const char *members[2] = {"a", NULL};
    const uint32_t hybrid = DWCP_FLAG_HYBRID_MODE;
    memset(&decision, 0, sizeof decision);
    CHECK_STATUS(DWCP_ERR_BAD_STRUCT_SIZE, dwcp_flag_decide(all_on, hybrid, "a|b", 1, 0, &decision));
    decision.struct_size = sizeof decision;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_flag_decide(NULL, hybrid, "a|b", 1, 0, &decision));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_flag_decide(all_on, hybrid, NULL, 1, 0, &decision));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_flag_decide(all_on, hybrid, "a|b", 1, 0, NULL));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_flag_decide(all_on, 6, "a|b", 1, 0, &decision));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_flag_decide(all_on, hybrid, "a|", 1, 0, &decision));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_flag_decide(all_on, hybrid, "a|b", 2, 0, &decision));
    CHECK(last_error_has("peer_can is 2"));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT,
                 dwcp_flag_decide("{\"flags\":{}}", hybrid, "a|b", 1, 0, &decision));
    CHECK(last_error_has("hybrid_mode is missing"));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_flag_decide("{", hybrid, "a|b", 1, 0, &decision));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_flag_exact_units_json(hybrid, 0, 1000001, members, 1,
                                                                       text, sizeof text, NULL));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER,
                 dwcp_flag_exact_units_json(hybrid, 0, 1, members, 2, text, sizeof text, NULL));
    OK(dwcp_flag_exact_units_json(hybrid, 0, 1000000, NULL, 0, text, sizeof text, NULL));
    CHECK(strcmp(text, "[]") == 0);
}

int main(void) {
    CASE(decisions_are_those_of_the_vectors);
    CASE(buckets_are_those_of_the_vectors);
    CASE(exact_shares_are_those_of_the_vectors);
    CASE(what_cannot_be_decided_is_named);
    return REPORT();
}
