/* Feature flags: listed, set, explained, disabled; the kill switch; deciders; events of changes. */
#include "check.h"
#include "guest.h"
#include <stdlib.h>
#include <unistd.h>

static const char pair[] = "rack1|rack2";

static dwcp_flag_state state_of(dwcp_node *node, uint32_t flag) {
    dwcp_flag_state state;
    memset(&state, 0x55, sizeof state);
    state.struct_size = sizeof state;
    OK(dwcp_node_flag(node, flag, &state));
    CHECK(state.flag == flag);
    return state;
}

static dwcp_flag_decision explain(dwcp_node *node, uint32_t flag, const char *unit) {
    dwcp_flag_decision decision;
    memset(&decision, 0x55, sizeof decision);
    decision.struct_size = sizeof decision;
    OK(dwcp_node_explain_flag(node, flag, unit, &decision));
    CHECK(decision.text[0] != 0);
    return decision;
}

static dwcp_flag_change change_of(uint32_t flag) {
    dwcp_flag_change change;
    memset(&change, 0, sizeof change);
    change.struct_size = sizeof change;
    change.flag = flag;
    return change;
}

static void set_percent(dwcp_node *node, uint32_t flag, uint32_t ppm) {
    dwcp_flag_change change = change_of(flag);
    change.fields = DWCP_FLAG_CHANGE_ROLLOUT;
    change.rollout_ppm = ppm;
    OK(dwcp_node_set_flags(node, &change, 1, NULL, "a test"));
}

/* The history as JSON, in a buffer of the length that was asked for. */
static char *history(dwcp_node *node, size_t limit) {
    size_t needed = 0;
    OK(dwcp_node_flag_history_json(node, limit, NULL, 0, &needed));
    char *text = calloc(1, needed);
    CHECK(text != NULL);
    OK(dwcp_node_flag_history_json(node, limit, text, needed, NULL));
    return text;
}

static void what_is_built_is_on_at_first(void) {
    dwcp_node *node = new_node(NULL);
    char text[8192];
    const uint32_t on = DWCP_FLAG_STATE_ENABLED | DWCP_FLAG_STATE_BUILT | DWCP_FLAG_STATE_IN_FORCE;
    dwcp_flag_state hybrid = state_of(node, DWCP_FLAG_HYBRID_MODE);
    CHECK(hybrid.bits == on && hybrid.unit == DWCP_UNIT_NODE_PAIR && hybrid.rollout_ppm == 1000000);
    CHECK(hybrid.expires_s == 0 && hybrid.rolled_back_us == 0 && hybrid.owner[0] == 0);
    CHECK(hybrid.prerequisites == 0 && hybrid.allow_count == 0 && hybrid.seed == 0);
    CHECK(state_of(node, DWCP_FLAG_ML_COMPRESSION).unit == DWCP_UNIT_LINK);
    CHECK(state_of(node, DWCP_FLAG_INTERNET_OPTIMIZATION).unit == DWCP_UNIT_PATH);
    CHECK(state_of(node, DWCP_FLAG_CRDT_SYNC).bits == 0);
    CHECK(state_of(node, DWCP_FLAG_PBFT_CONSENSUS).unit == DWCP_UNIT_CLUSTER);
    OK(dwcp_node_flags_json(node, text, sizeof text, NULL));
    for (uint32_t flag = DWCP_FLAG_HYBRID_MODE; flag <= DWCP_FLAG_INTERNET_OPTIMIZATION; flag++)
        CHECK(strstr(text, dwcp_flag_name(flag)) != NULL);
    CHECK(strcmp(dwcp_flag_name(0), "unknown") == 0);
    dwcp_flag_decision decision = explain(node, DWCP_FLAG_HYBRID_MODE, pair);
    CHECK(decision.is_on == 1 && decision.reason == DWCP_REASON_PERCENTAGE);
    CHECK(decision.bucket < 1000000 && decision.rollout_ppm == 1000000);
    CHECK(explain(node, DWCP_FLAG_CRDT_SYNC, "group").reason == DWCP_REASON_NOT_ENABLED);
    OK(dwcp_node_free(node));
}

static void a_change_is_whole_and_kept(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_flag_change changes[2] = {change_of(DWCP_FLAG_HYBRID_MODE), change_of(DWCP_FLAG_ML_COMPRESSION)};
    changes[0].fields = DWCP_FLAG_CHANGE_ROLLOUT | DWCP_FLAG_CHANGE_SEED | DWCP_FLAG_CHANGE_EXPIRES;
    changes[0].rollout_ppm = 125000;
    changes[0].seed = 7;
    changes[0].expires_s = 4102444800u;
    changes[0].allow_list = "rack9, rack1|rack2";
    changes[0].deny_list = "rack8";
    changes[0].owner = "net";
    changes[1].prerequisites = "hybrid_mode";
    OK(dwcp_node_set_flags(node, changes, 2, "tester", "both at once"));
    dwcp_flag_state hybrid = state_of(node, DWCP_FLAG_HYBRID_MODE);
    CHECK(hybrid.rollout_ppm == 125000 && hybrid.seed == 7 && hybrid.expires_s == 4102444800u);
    CHECK(hybrid.allow_count == 2 && hybrid.deny_count == 1 && strcmp(hybrid.owner, "net") == 0);
    CHECK(state_of(node, DWCP_FLAG_ML_COMPRESSION).prerequisites == 1u << DWCP_FLAG_HYBRID_MODE);
    CHECK(explain(node, DWCP_FLAG_HYBRID_MODE, "rack2|rack1").reason == DWCP_REASON_ALLOWED);
    CHECK(explain(node, DWCP_FLAG_HYBRID_MODE, "x|rack9").reason == DWCP_REASON_ALLOWED);
    CHECK(explain(node, DWCP_FLAG_HYBRID_MODE, "rack8|rack9").reason == DWCP_REASON_DENIED);
    dwcp_flag_decision unmet = explain(node, DWCP_FLAG_ML_COMPRESSION, "rack8|x");
    CHECK(unmet.reason == DWCP_REASON_PREREQUISITE_UNMET);
    CHECK(unmet.prerequisite == DWCP_FLAG_HYBRID_MODE && unmet.is_on == 0);
    /* The second one cannot be, so the first one is not either. */
    changes[0] = change_of(DWCP_FLAG_HYBRID_MODE);
    changes[0].deny_list = "";
    changes[1] = change_of(DWCP_FLAG_CRDT_SYNC);
    changes[1].fields = DWCP_FLAG_CHANGE_ENABLED;
    changes[1].enabled = 1;
    CHECK_STATUS(DWCP_ERR_UNSUPPORTED, dwcp_node_set_flags(node, changes, 2, NULL, "too early"));
    CHECK(last_error_has("crdt_sync is not built yet"));
    CHECK(state_of(node, DWCP_FLAG_HYBRID_MODE).deny_count == 1);
    char *text = history(node, 1);
    CHECK(strstr(text, "\"who\":\"tester\"") && strstr(text, "both at once"));
    free(text);
    OK(dwcp_node_free(node));
}

static void what_cannot_be_is_named(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_flag_change change = change_of(DWCP_FLAG_HYBRID_MODE);
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_flags(node, &change, 1, NULL, "nothing"));
    CHECK(last_error_has("sets nothing"));
    change.allow_list = "a", change.deny_list = "a";
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_flags(node, &change, 1, NULL, "both"));
    CHECK(last_error_has("\"a\" is on allow_list and on deny_list"));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_flags(node, &change, 1, NULL, ""));
    CHECK(last_error_has("needs a reason"));
    change = change_of(DWCP_FLAG_HYBRID_MODE);
    change.prerequisites = "hybrid_mode";
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_flags(node, &change, 1, NULL, "circle"));
    CHECK(last_error_has("hybrid_mode needs hybrid_mode"));
    change.prerequisites = "hybrid";
    CHECK_STATUS(DWCP_ERR_NOT_FOUND, dwcp_node_set_flags(node, &change, 1, NULL, "which"));
    CHECK(last_error_has("did you mean hybrid_mode?"));
    change = change_of(DWCP_FLAG_HYBRID_MODE);
    change.schedule = "[{\"after_s\":5,\"percent\":1},{\"after_s\":4,\"percent\":2}]";
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_flags(node, &change, 1, NULL, "back"));
    CHECK(last_error_has("goes backwards"));
    dwcp_flag_decision decision;
    decision.struct_size = sizeof decision;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT,
                 dwcp_node_explain_flag(node, DWCP_FLAG_CRDT_SYNC, "a|b", &decision));
    CHECK(last_error_has("GROUP"));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_explain_flag(node, 9, "a", &decision));
    CHECK(last_error_has("flag 9"));
    CHECK_STATUS(DWCP_ERR_BAD_STATE,
                 dwcp_node_clear_latch(node, DWCP_FLAG_HYBRID_MODE, NULL, "there is none"));
    CHECK(last_error_has("not rolled back"));
    OK(dwcp_node_free(node));
}

static void a_schedule_is_taken_and_taken_away(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_flag_change change = change_of(DWCP_FLAG_HYBRID_MODE);
    change.schedule = "guide";
    OK(dwcp_node_set_flags(node, &change, 1, NULL, "six weeks"));
    CHECK(state_of(node, DWCP_FLAG_HYBRID_MODE).bits & DWCP_FLAG_STATE_SCHEDULED);
    change.schedule = "none";
    OK(dwcp_node_set_flags(node, &change, 1, NULL, "by hand"));
    CHECK(!(state_of(node, DWCP_FLAG_HYBRID_MODE).bits & DWCP_FLAG_STATE_SCHEDULED));
    OK(dwcp_node_free(node));
}

static void a_schedule_starts_and_stops(void) {
    dwcp_node *node = new_node(NULL);
    const uint32_t hybrid = DWCP_FLAG_HYBRID_MODE;
    CHECK_STATUS(DWCP_ERR_BAD_STATE, dwcp_node_stop_schedule(node, hybrid, NULL, "there is none"));
    CHECK(last_error_has("hybrid_mode has no schedule"));
    OK(dwcp_node_start_schedule(node, hybrid, NULL, NULL, "six weeks"));
    dwcp_flag_state state = state_of(node, hybrid);
    CHECK(state.rollout_ppm == 0 && state.bits & DWCP_FLAG_STATE_SCHEDULED);
    OK(dwcp_node_start_schedule(node, hybrid, "[{\"after_s\":0,\"percent\":5}]", "me", "one stage"));
    CHECK(state_of(node, hybrid).rollout_ppm == 50000);
    OK(dwcp_node_stop_schedule(node, hybrid, NULL, "by hand"));
    state = state_of(node, hybrid);
    CHECK(state.rollout_ppm == 50000 && !(state.bits & DWCP_FLAG_STATE_SCHEDULED));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT,
                 dwcp_node_start_schedule(node, hybrid, "none", NULL, "what"));
    CHECK_STATUS(DWCP_ERR_UNSUPPORTED,
                 dwcp_node_start_schedule(node, DWCP_FLAG_CRDT_SYNC, "[{\"after_s\":0,\"percent\":5}]",
                                          NULL, "too early"));
    OK(dwcp_node_free(node));
}

static void limits_are_kept_and_rollouts_shown(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_rollback_limits limits;
    char text[8192];
    memset(&limits, 0x55, sizeof limits);
    limits.struct_size = sizeof limits;
    OK(dwcp_node_rollback_limits(node, &limits));
    CHECK(limits.max_error_rate_ppm == 10000 && limits.max_latency_increase_ppm == 500000);
    CHECK(limits.min_throughput_ppm == 800000 && limits.max_mode_switches_per_h == 600);
    CHECK(limits.stage_count == 1 && limits.stage_up_to_ppm[0] == 100000 && limits.flags == 0);
    CHECK(limits.stage_max_error_rate_ppm[0] == 5000 && limits.stage_up_to_ppm[1] == 0);
    limits.max_error_rate_ppm = 20000;
    limits.stage_count = 0;
    limits.flags = DWCP_ROLLBACK_NO_STAGES;
    OK(dwcp_node_set_rollback_limits(node, &limits));
    limits.max_error_rate_ppm = 0;
    limits.min_throughput_ppm = 1000001;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_rollback_limits(node, &limits));
    CHECK(last_error_has("min_throughput_ratio"));
    OK(dwcp_node_rollback_limits(node, &limits));
    CHECK(limits.max_error_rate_ppm == 20000 && limits.flags == DWCP_ROLLBACK_NO_STAGES);
    OK(dwcp_node_set_rollback_limits(node, NULL));
    OK(dwcp_node_rollback_limits(node, &limits));
    CHECK(limits.max_error_rate_ppm == 10000 && limits.stage_count == 1);
    OK(dwcp_node_rollouts_json(node, text, sizeof text, NULL));
    CHECK(strstr(text, "\"flag\":\"hybrid_mode\"") && strstr(text, "is_in_flight"));
    OK(dwcp_node_free(node));
}

static void a_decider_follows_the_flags(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_decider *decider = NULL, *other = NULL;
    dwcp_flag_decision decision;
    decision.struct_size = sizeof decision;
    OK(dwcp_node_decider(node, DWCP_FLAG_HYBRID_MODE, pair, &decider));
    OK(dwcp_node_decider(node, DWCP_FLAG_HYBRID_MODE, "10.0.0.1:7450", &other));
    CHECK(dwcp_decider_is_on(decider) == 1 && dwcp_decider_is_on(other) == 1);
    set_percent(node, DWCP_FLAG_HYBRID_MODE, 0);
    CHECK(dwcp_decider_is_on(decider) == 0 && dwcp_decider_is_on(other) == 0);
    OK(dwcp_decider_explain(decider, &decision));
    CHECK(decision.reason == DWCP_REASON_BELOW_PERCENTAGE && decision.is_on == 0);
    set_percent(node, DWCP_FLAG_HYBRID_MODE, 1000000);
    CHECK(dwcp_decider_is_on(decider) == 1);
    OK(dwcp_node_disable_all_flags(node, "tester", "the end"));
    CHECK(dwcp_decider_is_on(decider) == 0);
    OK(dwcp_decider_explain(decider, &decision));
    CHECK(decision.reason == DWCP_REASON_NOT_ENABLED);
    OK(dwcp_node_free(node));
    /* The node's last word. */
    CHECK(dwcp_decider_is_on(decider) == 0);
    OK(dwcp_decider_free(decider));
    OK(dwcp_decider_free(other));
    CHECK(dwcp_decider_is_on(decider) == 0 && last_error_has("no live dwcp_decider handle"));
    CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_decider_free(decider));
    OK(dwcp_decider_free(NULL));
}

static void the_kill_switch_goes_before_everything(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_decider *decider = NULL;
    OK(dwcp_node_decider(node, DWCP_FLAG_INTERNET_OPTIMIZATION, "a|h:1", &decider));
    CHECK_STATUS(DWCP_ERR_BAD_STATE, dwcp_node_set_kill_switch(node, NULL, NULL));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_set_kill_switch(node, NULL, ""));
    CHECK(dwcp_decider_is_on(decider) == 1);
    OK(dwcp_node_set_kill_switch(node, "tester", "a drill"));
    CHECK(dwcp_decider_is_on(decider) == 0);
    dwcp_flag_state state = state_of(node, DWCP_FLAG_INTERNET_OPTIMIZATION);
    CHECK(state.bits & DWCP_FLAG_STATE_KILLED && !(state.bits & DWCP_FLAG_STATE_IN_FORCE));
    CHECK(strstr(state.kill_reason, "a drill") != NULL);
    CHECK(explain(node, DWCP_FLAG_HYBRID_MODE, pair).reason == DWCP_REASON_KILL_SWITCH);
    OK(dwcp_node_set_kill_switch(node, "tester", NULL));
    CHECK(dwcp_decider_is_on(decider) == 1);
    OK(dwcp_decider_free(decider));
    OK(dwcp_node_free(node));
}

static void percentages_of_members_are_exact(void) {
    char names[20][16];
    const char *members[20];
    dwcp_node *node = new_node(NULL);
    for (int i = 0; i < 20; i++) {
        snprintf(names[i], sizeof names[i], "node-%d", i);
        members[i] = names[i];
    }
    OK(dwcp_node_set_rollout_members(node, members, 20));
    set_percent(node, DWCP_FLAG_HYBRID_MODE, 100000);
    dwcp_flag_decision decision = explain(node, DWCP_FLAG_HYBRID_MODE, pair);
    CHECK(decision.reason == DWCP_REASON_NOT_RANKED || decision.reason == DWCP_REASON_RANKED);
    CHECK(decision.chosen == 2 && decision.members == 20);
    OK(dwcp_node_set_rollout_members(node, NULL, 0));
    CHECK(explain(node, DWCP_FLAG_HYBRID_MODE, pair).members == 0);
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_set_rollout_members(node, NULL, 1));
    CHECK_STATUS(DWCP_ERR_LIMIT_REACHED, dwcp_node_set_rollout_members(node, members, 65537));
    members[3] = NULL;
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_node_set_rollout_members(node, members, 20));
    CHECK(last_error_has("members[3]"));
    OK(dwcp_node_free(node));
}

static void changes_are_events(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_completion batch[16];
    size_t count = 0, seen = 0;
    char text[4096];
    memset(batch, 0, sizeof batch);
    batch[0].struct_size = sizeof batch[0];
    set_percent(node, DWCP_FLAG_HYBRID_MODE, 500000);
    OK(dwcp_node_reap(node, batch, 16, &count));
    for (size_t i = 0; i < count; i++) {
        if (batch[i].code != DWCP_EVENT_FLAGS_CHANGED) continue;
        seen++;
        OK(dwcp_node_events_json(node, batch[i].id - 1, 1, text, sizeof text, NULL));
        CHECK(strstr(text, "flags_changed") && strstr(text, "rollout_percent 50"));
    }
    CHECK(seen == 1);
    OK(dwcp_node_free(node));
}

static void changes_outlive_the_node(void) {
    static char directory[] = "/tmp/dwcp-flags-XXXXXX";
    static const char *const files[] = {"rollout.log", "rollout.head", "rollout.lock"};
    char path[64];
    dwcp_node_options options = {sizeof options, 0, 0, 0, 0, 0, DWCP_NODE_PLAIN, 0, 0, 0, 0, {0}};
    dwcp_node *node = NULL, *other = NULL;
    dwcp_decider *decider = NULL;
    CHECK(mkdtemp(directory) != NULL);
    options.state_dir = directory;
    OK(dwcp_node_new(&options, &node));
    set_percent(node, DWCP_FLAG_ML_COMPRESSION, 250000);
    CHECK_STATUS(DWCP_ERR_BUSY, dwcp_node_new(&options, &other));
    OK(dwcp_node_decider(node, DWCP_FLAG_ML_COMPRESSION, pair, &decider));
    OK(dwcp_node_free(node));
    /* A decider that is still there does not hold the log. */
    OK(dwcp_node_new(&options, &node));
    CHECK(state_of(node, DWCP_FLAG_ML_COMPRESSION).rollout_ppm == 250000);
    OK(dwcp_node_free(node));
    OK(dwcp_decider_free(decider));
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        CHECK(unlink(path) == 0);
    }
}

int main(void) {
    CASE(what_is_built_is_on_at_first);
    CASE(a_change_is_whole_and_kept);
    CASE(what_cannot_be_is_named);
    CASE(a_schedule_is_taken_and_taken_away);
    CASE(a_schedule_starts_and_stops);
    CASE(limits_are_kept_and_rollouts_shown);
    CASE(a_decider_follows_the_flags);
    CASE(the_kill_switch_goes_before_everything);
    CASE(percentages_of_members_are_exact);
    CASE(changes_are_events);
    CASE(changes_outlive_the_node);
    return REPORT();
}
