#!/usr/bin/env bash
# `make demo`: a guest that writes to its memory all the time moves from one process to another,
# and the other side proves that nothing was lost. The environment may change the guest:
#   MEMORY_MIB (256), DIRTY_MIB_PER_S (50), CODEC (default)
. "$(dirname "$0")/lib.sh"

HYPERVISOR="$TARGET/examples/hypervisor-c"
GUEST=(--memory-mib "${MEMORY_MIB:-256}" --dirty-mib-per-s "${DIRTY_MIB_PER_S:-50}" --name demo)
destination=

main() {
    say "building the library and the example hypervisor"
    cargo build --release --locked --lib
    make --no-print-directory -C examples/c LIBRARY_DIR="$TARGET/release" OUT="$TARGET/examples" \
        "$HYPERVISOR"

    address=127.0.0.1:$(free_port)
    trap stop_destination EXIT
    say "destination: waits at $address"
    "$HYPERVISOR" destination --listen "$address" "${GUEST[@]}" &
    destination=$!
    wait_for_listener "$address"
    say "source: runs the guest for two seconds, then migrates it while it writes"
    "$HYPERVISOR" source --to "$address" --after-seconds 2 --codec "${CODEC:-default}" "${GUEST[@]}"

    wait "$destination" || die "the destination's proof failed"
    destination=
    say "done: the guest went on at the destination and every page was proved"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# By the kernel's table, because a connection would be taken for a migration.
wait_for_listener() {
    local port
    port=$(printf '%04X' "${1##*:}")
    for _ in $(seq 100); do
        ! grep -q "^ *[0-9]*: [0-9A-F]*:$port 00000000:0000 0A" /proc/net/tcp || return 0
        kill -0 "$destination" 2>/dev/null || die "the destination ended before it listened"
        sleep 0.1
    done
    die "the destination does not listen at $1 after 10 s"
}

stop_destination() {
    [ -z "$destination" ] || kill "$destination" 2>/dev/null || true
}

main
