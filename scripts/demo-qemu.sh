#!/usr/bin/env bash
# `make demo-qemu`: a Linux guest in an unmodified QEMU moves to another QEMU, from one dwcpd to
# another, while it dirties its memory; its own console proves that it goes on whole. The
# environment may change it:
#   MEMORY_MIB (512), FILL_MIB (128), DIRTY_MIB_PER_S (8), BANDWIDTH (300mbit), CODEC
#   DWCP_PROFILE=debug takes the programs of an unoptimised build
. "$(dirname "$0")/lib.sh"

PROFILE=${DWCP_PROFILE:-release}
CLI="$TARGET/$PROFILE/dwcp-v3-cli"
GUEST=("$TARGET/$PROFILE/examples/lab-guest" "${MEMORY_MIB:-512}" "${FILL_MIB:-128}"
    "${DIRTY_MIB_PER_S:-8}")
BOOT_S=120
MORE_TICKS=5
scratch=$(mktemp -d)
guests=()
daemons=()

main() {
    trap clean_up EXIT
    build
    say "source: a QEMU with a guest that writes text to its memory and proves it every second"
    # Open for both ways, so that neither side waits; it ends with this script.
    mkfifo "$scratch/hold" && exec 9<>"$scratch/hold"
    start_guest source
    await_tick source 3
    show_ticks source
    say "destination: another QEMU, started with -incoming defer"
    start_guest destination incoming

    say "an authority, and an identity for each node: connections are over TLS"
    "$CLI" identity init --authority "$scratch/authority"
    "$CLI" identity issue source --authority "$scratch/authority" --out "$scratch/source.identity"
    "$CLI" identity issue destination --authority "$scratch/authority" \
        --out "$scratch/destination.identity"
    say "a dwcpd on each side; each takes on its QEMU by the QMP socket"
    start_daemon source
    start_daemon destination
    on source vm attach demo --qmp "$(qmp_of source)"
    on destination vm attach demo --qmp "$(qmp_of destination)" --incoming

    say "dwcp-v3-cli migrate demo --to $(address_of destination)"
    migrate
    prove
    say "report"
    python3 scripts/show-qemu-report.py "$scratch/report.json"
    say "done: the guest went on in the other QEMU and every page was what it had written"
}

build() {
    say "building the programs ($PROFILE)"
    local options=(--locked)
    [ "$PROFILE" = debug ] || options+=(--profile "$PROFILE")
    cargo build "${options[@]}" --bins
    cargo build "${options[@]}" --package dwcp-qemulab --example lab-guest
}

start_guest() { # SIDE [incoming]
    "${GUEST[@]}" "${@:2}" <"$scratch/hold" 9>&- >"$scratch/$1.paths" 2>"$scratch/$1.log" &
    guests+=($!)
    await 60 "$1's QEMU" test -s "$scratch/$1.paths"
    note "QMP socket $(qmp_of "$1")"
}

start_daemon() { # SIDE
    cat >"$scratch/$1.yaml" <<CONFIG
node:
  name: $1
  listen: 127.0.0.1:0
  state_dir: $scratch/$1.state
  metrics_listen: none
  log_dir: none
security:
  identity_dir: $scratch/$1.identity
CONFIG
    "$TARGET/$PROFILE/dwcpd" --config "$scratch/$1.yaml" --socket "$scratch/$1.sock" \
        9>&- 2>"$scratch/$1.log" &
    daemons+=($!)
    await 20 "$1's dwcpd" grep -q 'accepts migrations' "$scratch/$1.log"
}

# On a terminal the command draws its own progress; elsewhere its lines are asked for.
migrate() {
    local began
    began=$(last_tick source)
    on source migrate demo --to "$(address_of destination)" ${CODEC:+--codec "$CODEC"} \
        --bandwidth-limit "${BANDWIDTH:-300mbit}" >"$scratch/report.json" &
    local migration=$!
    if [ ! -t 2 ]; then
        while kill -0 $migration 2>/dev/null; do
            on source vm status demo 2>/dev/null | sed -n 's/^migration  [0-9a-f]*: /   /p' || true
            sleep 0.3
        done
    fi
    wait $migration || {
        cat "$scratch/report.json" >&2
        die "the migration failed"
    }
    note "the guest ticked from $began to $(last_tick source) meanwhile"
}

# What the guest itself prints, on the consoles of both QEMUs.
prove() {
    local stopped first now
    stopped=$(last_tick source)
    await_tick destination $((stopped + MORE_TICKS))
    first=$(ticks destination | head -n 1 | cut -d' ' -f2)
    now=$(last_tick destination)
    say "the guest's console at the destination goes on where the source's ended"
    note "source:       ... $(ticks source | tail -n 1)"
    ticks destination | head -n "$MORE_TICKS" | sed 's/^/   destination:  /'
    [ "$first" -gt "$stopped" ] && [ "$first" -le $((stopped + 2)) ] ||
        die "the counter went from $stopped to $first"
    [ "$(last_tick source)" -eq "$stopped" ] || die "the guest still runs at the source"
    ! grep -aE 'CORRUPT|FAILED|panic|BUG' "$(console_of source)" "$(console_of destination)" ||
        die "the guest complains"
    ! ticks destination | grep -v 'checksum=OK' || die "a checksum is wrong"
    [ "$(on source --json vm list)" = '{"vms":[]}' ] || die "the source still has the guest"
    on destination vm list
    note "at tick $now nothing is missing"
}

qmp_of() { cut -d' ' -f1 "$scratch/$1.paths"; }
console_of() { cut -d' ' -f2 "$scratch/$1.paths"; }
address_of() { sed -n 's/.*accepts migrations at \([^,]*\),.*/\1/p' "$scratch/$1.log"; }
on() { "$CLI" --socket "$scratch/$1.sock" "${@:2}"; }

# Whole lines only: the last one may still be on its way.
ticks() { tr -d '\r' <"$(console_of "$1")" | sed '$d' | grep -a '^tick ' || true; }
last_tick() { ticks "$1" | tail -n 1 | awk '{ print $2 } END { if (!NR) print 0 }'; }
show_ticks() { ticks "$1" | tail -n 3 | sed 's/^/   /'; }
has_tick() { [ "$(last_tick "$1")" -ge "$2" ]; }
await_tick() { await $BOOT_S "tick $2 at the $1" has_tick "$1" "$2"; }

await() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1))
    until "${@:3}"; do
        [ $SECONDS -lt $end ] || {
            cat "$scratch"/*.log >&2
            die "no $2 within $1 s"
        }
        sleep 0.1
    done
}

clean_up() {
    local child
    # The guests go when the pipe does; the daemons take a signal.
    exec 9>&-
    for child in "${daemons[@]}"; do kill "$child" 2>/dev/null || true; done
    for child in "${daemons[@]}" "${guests[@]}"; do wait "$child" 2>/dev/null || true; done
    rm -rf "$scratch"
}

main
