#!/usr/bin/env bash
# Runs every fuzz target of tests/fuzz for a few seconds, on the stable toolchain.
# usage: scripts/fuzz.sh [SECONDS [TARGET...]]    seconds for each target (10), all targets
#   FUZZ_SANITIZER    address (the default) or none
# Inputs found by earlier runs stay in tests/fuzz/corpus/TARGET; a failure leaves its input in
# tests/fuzz/artifacts/TARGET. The last line is "N passed, N failed".
. "$(dirname "$0")/lib.sh"

SECONDS_EACH=${1:-10}
SANITIZER=${FUZZ_SANITIZER:-address}
TRIPLE=$(rustc -vV | sed -n 's/^host: //p')
BUILD="$TARGET/fuzz"
PROGRAMS="$BUILD/$TRIPLE/debug"

main() {
    local target targets=("${@:2}") passed=0 failed=0
    if [ ${#targets[@]} -eq 0 ]; then
        need_file tests/fuzz/Cargo.toml
        mapfile -t targets < <(basename -as .rs tests/fuzz/fuzz_targets/*.rs)
    fi
    build
    for target in "${targets[@]}"; do
        if fuzz "$target"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

# What `cargo fuzz` passes to a nightly compiler. Coverage needs no unstable option; the sanitizer
# needs one, which RUSTC_BOOTSTRAP admits for this build alone. Naming the target platform keeps
# the flags away from build scripts and procedural macros.
build() {
    local flags=(
        --cfg fuzzing -Cdebug-assertions -Coverflow-checks -Ccodegen-units=4
        -Cpasses=sancov-module
        -Cllvm-args=-sanitizer-coverage-level=4
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
        -Cllvm-args=-sanitizer-coverage-pc-table
        -Cllvm-args=-sanitizer-coverage-trace-compares
    )
    if [ "$SANITIZER" != none ]; then
        flags+=("-Zsanitizer=$SANITIZER")
        export RUSTC_BOOTSTRAP=1
    fi
    # The library's own locked versions; cargo adds libFuzzer's.
    cp Cargo.lock tests/fuzz/Cargo.lock
    RUSTFLAGS="${flags[*]}" CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=line-tables-only \
        CARGO_PROFILE_DEV_INCREMENTAL=false cargo build --manifest-path tests/fuzz/Cargo.toml --bins \
        --target "$TRIPLE" --target-dir "$BUILD"
}

fuzz() {
    local name=$1 corpus="tests/fuzz/corpus/$1" artifacts="tests/fuzz/artifacts/$1" log
    mkdir -p "$corpus" "$artifacts"
    log="$BUILD/$name.log"
    if DWCP_FUZZ_SEEDS="$corpus" "$PROGRAMS/$name" "$corpus" -seed=1 \
        -max_total_time="$SECONDS_EACH" -max_len=65536 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$artifacts/" -print_final_stats=1 >"$log" 2>&1; then
        note "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, no failure"
    else
        tail -n 60 "$log"
        note "$name FAILED; again: ${PROGRAMS#"$ROOT"/}/$name $artifacts/<file>"
        return 1
    fi
}

main "$@"
