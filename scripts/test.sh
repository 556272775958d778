#!/usr/bin/env bash
# `make test`: every check of the project, stage by stage, with one summary at the end.
# usage: scripts/test.sh [STAGE...]    all stages, or the named ones; logs in target/test-logs
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stages.sh"

# Cheapest first.
STAGES="format lint shell licenses header units doctests docs simulation c install python \
fuzz"
LOGS="$TARGET/test-logs"
passed=0
failed=0
rows=()
broken=()

main() {
    local stage stages=("$@")
    [ ${#stages[@]} -gt 0 ] || read -ra stages <<<"$STAGES"
    for stage in "${stages[@]}"; do
        declare -F "stage_$stage" >/dev/null || die "no stage '$stage'; there are: $STAGES"
    done
    "$ROOT/scripts/bootstrap.sh" packages python tools
    mkdir -p "$LOGS"
    trap 'exit 130' INT TERM
    for stage in "${stages[@]}"; do
        run_stage "$stage"
    done
    summary
}

# Runs one stage with its output on screen and in its log; a failure does not stop the others.
run_stage() {
    local stage=$1 log="$LOGS/$1.log" start=$SECONDS status counts
    say "$stage: $(about "$stage")"
    set +e
    (
        set -e
        "stage_$stage"
    ) </dev/null 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    set -e
    counts=$(count_tests "$log" "$status")
    read -r stage_passed stage_failed <<<"$counts"
    passed=$((passed + stage_passed))
    failed=$((failed + stage_failed))
    [ "$stage_failed" -eq 0 ] || broken+=("$stage")
    rows+=("$(printf '%-12s %6d passed %4d failed %5d s' \
        "$stage" "$stage_passed" "$stage_failed" $((SECONDS - start)))")
}

# "PASSED FAILED" of a stage: the sum of its runners' closing lines, or the stage itself as one test.
count_tests() {
    awk -v status="$2" '
        function number(word,    at) {
            at = match($0, "[0-9]+ " word)
            return at ? substr($0, RSTART, RLENGTH) + 0 : 0
        }
        { gsub(/\033\[[0-9;]*m/, "") }
        # What nextest ran is in its own line; the lines of single binaries would count it again.
        /^ *Summary \[/ && !nextest { good = bad = 0; nextest = 1 }
        /^ *Summary \[/ || /^test result:/ && !nextest ||
        /^(=+ )?[0-9]+ (passed|failed|error).* in [0-9.]+s/ || /^[0-9]+ passed, [0-9]+ failed$/ {
            good += number("passed"); bad += number("failed") + number("timed out") + number("error")
            seen = 1
        }
        END {
            if (!seen) { good = (status == 0); bad = (status != 0) }
            if (status != 0 && bad == 0) bad = 1
            print good + 0, bad + 0
        }' "$1"
}

summary() {
    say "summary (logs: ${LOGS#"$ROOT"/})"
    printf '   %s\n' "${rows[@]}"
    flaky_tests
    [ ${#broken[@]} -eq 0 ] || printf '\nfailed stages: %s\n' "${broken[*]}"
    printf '\n%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
}

# Tests that were tried a second time: nobody is to overlook them.
flaky_tests() {
    local names
    names=$(sed 's/\x1b\[[0-9;]*m//g' "$LOGS"/*.log | awk '$1 == "FLAKY" || $1 == "RERUN" { $1 = ""; print }' | sort -u)
    [ -z "$names" ] || printf '\ntried a second time, which is a defect to mend:\n%s\n' "$names"
}

main "$@"
