#!/usr/bin/env bash
# `make bench`: measures against peers on the same link in the same run; a table on screen and one
# JSON object per line in target/bench/results.jsonl. Links are network namespaces, hence root.
# usage: scripts/bench.sh [OPTION...]    those of dwcp-bench, such as --suites net --rounds 3
. "$(dirname "$0")/lib.sh"

"$ROOT/scripts/bootstrap.sh" packages
need_file tests/bench/Cargo.toml
cargo build --release --locked --package dwcp --package dwcp-netlab --package dwcp-bench \
    --package dwcp-rdmalab --package dwcp-python
# Alone, everything; the guests of suite qemu take longer than all others together.
[ $# -gt 0 ] || set -- --suites net,wan,relearn,fair,kills,tls,memory,modes,downtime,postcopy,abi,flags,rollout,rdma,qemu
bench=("$TARGET/release/dwcp-bench" --output "$TARGET/bench/results.jsonl" "$@")
mkdir -p "$TARGET/bench"
if [ "$(id -u)" -eq 0 ]; then
    exec "${bench[@]}"
fi
have sudo || die "network namespaces need root or sudo"
exec sudo -- "${bench[@]}"
