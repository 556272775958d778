#!/usr/bin/env bash
# `make bench`: every benchmark program against its peer; a table on screen, rows in a file.
# usage: scripts/bench.sh [NAME...]    all programs in benches/, or the named ones
# Each program appends one JSON object per line to the file in DWCP_BENCH_RESULTS:
# suite, case, metric, unit, dwcp, peer_name, peer, ratio.
. "$(dirname "$0")/lib.sh"

"$ROOT/scripts/bootstrap.sh" packages
RESULTS="$TARGET/bench/results.jsonl"
mkdir -p "${RESULTS%/*}"
: >"$RESULTS"
export DWCP_BENCH_RESULTS="$RESULTS"
cargo build --release --locked --workspace --exclude dwcp-python --bins --lib --benches

names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(basename -as .rs benches/*.rs)
failed=()
for name in "${names[@]}"; do
    say "$name"
    cargo bench --quiet --locked --bench "$name" || failed+=("$name")
done
say "rows in ${RESULTS#"$ROOT"/}: $(wc -l <"$RESULTS")"
[ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]}"
