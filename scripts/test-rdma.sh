#!/usr/bin/env bash
# `make test-rdma`: the tests of RDMA alone, those with a guest among them. The first run fetches the
# guest's kernel and libibverbs from Debian's archive into target/qemulab.
. "$(dirname "$0")/lib.sh"

"$ROOT/scripts/bootstrap.sh" packages tools
need_file tests/rdma/Cargo.toml
cargo nextest run --locked --profile ci --success-output immediate-final \
    --package dwcp --package dwcp-rdmalab --lib --bins --test verbs \
    --filterset 'package(dwcp-rdmalab) or test(/^runtime::rdma::/) or test(/^wire::rdma::/)'
