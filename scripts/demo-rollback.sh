#!/usr/bin/env bash
# `make demo-rollback`: seventeen nodes with guests that move between them all the time, a feature flag
# that is raised to 50 %, a fault that strikes those alone who have it, and the rollback that the
# nodes' own guards decide on; then the kill switch, disable-all and the gradual way. The environment
# may change it:
#   FLAG (hybrid_mode), NODES (17), REPEATS (1)
#   DWCP_PROFILE=debug takes the programs of an unoptimised build
. "$(dirname "$0")/lib.sh"

PROFILE=${DWCP_PROFILE:-release}

main() {
    say "building the programs ($PROFILE)"
    local options=(--locked)
    [ "$PROFILE" = debug ] || options+=(--profile "$PROFILE")
    cargo build "${options[@]}" --bins

    say "dwcp-v3-cli rollout drill"
    "$TARGET/$PROFILE/dwcp-v3-cli" rollout drill --flag "${FLAG:-hybrid_mode}" \
        --nodes "${NODES:-17}" --repeats "${REPEATS:-1}" || die "the drill failed"
    say "done: the fault was noticed and rolled back, and every guest is whole"
}

main
