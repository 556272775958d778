#!/bin/sh
# Fuzzes each target for a bounded time: scripts/fuzz.sh [SECONDS [TARGET...]]; 10 seconds if not said.
#
# Works with stable Rust: the coverage that libFuzzer steers by is an ordinary code generation pass,
# and only the sanitizers would need a nightly compiler. Needs a C++ compiler for libFuzzer itself.
# A finding is left in tests/fuzz/artifacts/TARGET/ and printed with the command that repeats it.
# Prints `N passed, N failed` last; exits 1 if a target failed.
set -eu
cd "$(dirname "$0")/.."

seconds=${1:-10}
[ $# -eq 0 ] || shift
triple=$(rustc -vV | sed -n 's/^host: //p')
fuzz=tests/fuzz
programs=$fuzz/target/$triple/release

coverage="-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing \
-Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
# The library's own locked versions; cargo adds libFuzzer's.
cp Cargo.lock $fuzz/Cargo.lock
# --target keeps the coverage out of build scripts.
RUSTFLAGS="$coverage" CARGO_TARGET_DIR=$fuzz/target cargo build --quiet --release \
    --manifest-path $fuzz/Cargo.toml --target "$triple" --bins

[ $# -gt 0 ] || set -- $(cd $fuzz/fuzz_targets && ls ./*.rs | sed 's,^./,,; s,\.rs$,,')
passed=0
failed=0
for target; do
    mkdir -p "$fuzz/corpus/$target" "$fuzz/artifacts/$target"
    log=$fuzz/artifacts/$target/log
    if DWCP_FUZZ_SEEDS=$fuzz/corpus/$target "$programs/$target" "$fuzz/corpus/$target" \
        -seed=1 -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="$fuzz/artifacts/$target/" -print_final_stats=1 >"$log" 2>&1; then
        passed=$((passed + 1))
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        edges=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -1)
        echo "$target: ok, $runs runs, $edges edges"
    else
        failed=$((failed + 1))
        echo "$target: FAILED"
        tail -25 "$log"
        echo "again: $programs/$target $fuzz/artifacts/$target/<file>"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
