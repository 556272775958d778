#!/usr/bin/env bash
# The tests that build networks of their own: namespaces, a link with rate, delay and loss.
. "$(dirname "$0")/lib.sh"

"$ROOT/scripts/bootstrap.sh" packages tools
[ "$(id -u)" -eq 0 ] || have sudo || die "network namespaces need root or sudo"
need_file netlab/Cargo.toml
cargo build --locked
runner=()
[ "$(id -u)" -eq 0 ] || runner=(--config "target.'cfg(unix)'.runner = ['sudo', '-E', '-n']")
cargo "${runner[@]}" nextest run --locked --profile ci --run-ignored all \
    --package dwcp-netlab --package dwcp-nettests --package dwcp-qemulab
cargo "${runner[@]}" nextest run --locked --profile ci --package dwcp --test cli \
    --filterset 'test(/^chaos::/)'
