#!/usr/bin/env bash
# `make demo`: a guest that writes to its memory all the time moves from one process to another,
# and the other side proves that nothing was lost. The environment may change the guest:
#   MEMORY_MIB (256), DIRTY_MIB_PER_S (50), CODEC (default)
. "$(dirname "$0")/lib.sh"

HYPERVISOR="$TARGET/examples/hypervisor-c"
GUEST=(--memory-mib "${MEMORY_MIB:-256}" --dirty-mib-per-s "${DIRTY_MIB_PER_S:-50}" --name demo)
reports=$(mktemp -d)
destination=

main() {
    trap clean_up EXIT
    say "building the library and the example hypervisor"
    cargo build --release --locked --lib --bins
    make --no-print-directory -C examples/c LIBRARY_DIR="$TARGET/release" OUT="$TARGET/examples" \
        "$HYPERVISOR"

    say "an authority, and an identity for each node: connections are over TLS"
    identity init --authority "$reports/authority"
    identity issue destination --authority "$reports/authority" --out "$reports/destination"
    identity issue source --authority "$reports/authority" --out "$reports/source"

    say "destination: process 1, waits on a port that the system chooses"
    "$HYPERVISOR" destination --listen 127.0.0.1:0 --json "${GUEST[@]}" \
        --identity "$reports/destination" \
        >"$reports/destination.json" 2>"$reports/destination.log" &
    destination=$!
    await_address
    say "source: process 2, runs the guest for two seconds, then migrates it while it writes"
    "$HYPERVISOR" source --to "$address" --after-seconds 2 --codec "${CODEC:-default}" --json \
        --identity "$reports/source" "${GUEST[@]}" >"$reports/source.json" || die "the migration failed"

    wait "$destination" || failed=$?
    destination=
    say "destination: what it said"
    grep -v '^[a-z_]*  *pass ' "$reports/destination.log"
    [ -z "${failed:-}" ] || die "the destination's proof failed"
    say "report"
    python3 scripts/show-report.py "$reports/source.json" "$reports/destination.json"
    say "done: the guest went on at the destination and every page was proved"
}

identity() { "$TARGET/release/dwcp-v3-cli" identity "$@" | sed 's/^/   /'; }

# The destination says where it listens.
await_address() {
    for _ in $(seq 300); do
        address=$(sed -n 's/^listening on //p' "$reports/destination.log")
        [ -z "$address" ] || return 0
        kill -0 "$destination" 2>/dev/null || break
        sleep 0.1
    done
    cat "$reports/destination.log" >&2
    die "the destination does not listen"
}

clean_up() {
    if [ -n "$destination" ]; then
        kill "$destination" 2>/dev/null || true
        wait "$destination" 2>/dev/null || true
    fi
    rm -rf "$reports"
}

main
