#!/usr/bin/env bash
# Makes src/runtime/rdma/bindings.rs from rdma-core's <infiniband/verbs.h>. With --check, compares
# instead of writing. Another version of bindgen or of the header writes other output, so both must be
# these; elsewhere the checked-in file stays as it is, and the script says so:
#   cargo install --locked bindgen-cli@0.73.2; apt-get install libibverbs-dev libclang-dev
# RDMA_INCLUDE names another folder with the header.
. "$(dirname "$0")/lib.sh"

BINDGEN_VERSION=0.73.2
HEADER_VERSION=1.14.44.0
BINDINGS=src/runtime/rdma/bindings.rs
INCLUDE=${RDMA_INCLUDE:-/usr/include}

# What the library calls; post_send, post_recv, poll_cq and req_notify_cq go through the context.
FUNCTIONS="ibv_get_device_list ibv_free_device_list ibv_get_device_name ibv_open_device
ibv_close_device ibv_query_device ibv_query_port _ibv_query_gid_table ibv_alloc_pd ibv_dealloc_pd
ibv_reg_mr ibv_dereg_mr ibv_create_comp_channel ibv_destroy_comp_channel ibv_create_cq
ibv_destroy_cq ibv_get_cq_event ibv_ack_cq_events ibv_create_qp ibv_destroy_qp ibv_modify_qp"
TYPES="ibv_(port_attr|access_flags|wc_status|wc_opcode|wc_flags|wr_opcode|send_flags|qp_state|qp_type|\
qp_attr_mask|port_state|mtu|gid_type)"
OPAQUE="ibv_(srq|mw|mw_bind|ah)"
SYSTEM_TYPES="pthread_.*"

make_bindings() {
    local function options=()
    for function in $FUNCTIONS; do options+=(--allowlist-function "$function"); done
    cat <<'HEAD'
//! The verbs of libibverbs as C declares them, to be found in the library at run time: written by
//! `scripts/bless-rdma.sh`, by bindgen from rdma-core's header, under that header's MIT licence.

HEAD
    # lib.sh calls the build folder TARGET, which bindgen takes for a machine.
    env -u TARGET bindgen "${options[@]}" --allowlist-type "$TYPES" --opaque-type "$OPAQUE" \
        --blocklist-type "$SYSTEM_TYPES" --raw-line "use libc::{pthread_cond_t, pthread_mutex_t};" \
        --dynamic-loading Functions --dynamic-link-require-all --default-enum-style consts \
        --no-prepend-enum-name --no-doc-comments --no-derive-debug --rust-target 1.89 \
        --rust-edition 2024 --disable-header-comment --formatter rustfmt \
        --wrap-unsafe-ops "$INCLUDE/infiniband/verbs.h" -- -I "$INCLUDE" -isystem "$(cc -print-file-name=include)"
}

missing() {
    local bindgen header
    bindgen=$(bindgen --version 2>/dev/null || true)
    header=$(pkg-config --modversion libibverbs 2>/dev/null || true)
    [ "$bindgen" = "bindgen $BINDGEN_VERSION" ] || echo "bindgen is '${bindgen#bindgen }', not $BINDGEN_VERSION"
    [ "$header" = "$HEADER_VERSION" ] || echo "libibverbs's header is '$header', not $HEADER_VERSION"
}

main() {
    local reasons
    reasons=$(missing)
    if [ -n "$reasons" ]; then
        note "$BINDINGS is neither made nor compared: ${reasons//$'\n'/; }"
        return 0
    fi
    fresh=$(mktemp --suffix .rs)
    trap 'rm -f "$fresh"' EXIT
    # Sizes are checked on the machine that they are of; a mutex is longer elsewhere.
    make_bindings | sed 's/^const _: () = {/#[cfg(target_arch = "x86_64")]\n&/' >"$fresh"
    rustfmt --edition 2024 "$fresh"
    if [ "${1:-write}" = --check ]; then
        diff -u $BINDINGS "$fresh" || die "$BINDINGS is stale: run $0"
    else
        cmp -s $BINDINGS "$fresh" || { cp "$fresh" $BINDINGS && echo "wrote $BINDINGS"; }
    fi
}

main "$@"
