#!/bin/sh
# Makes what describes the C interface: include/dwcp.h from src/ffi, include/dwcp.symbols from the
# built libdwcp.so, include/dwcp.layout from the header. With --check, compares instead of writing.
set -eu
cd "$(dirname "$0")/.."

# In the header's order; cbindgen is given just these, not the crate.
subjects="codes library node guest callbacks migration modes paths flags decider flag_plans rollback completion"
profile=${DWCP_PROFILE:-debug}
library=${DWCP_LIBRARY:-target/$profile/libdwcp.so}

make_header() {
    for subject in $subjects; do sed '/^\/\/!/d' "src/ffi/$subject.rs"; done >"$scratch/ffi.rs"
    cbindgen --quiet --config bindings/c/cbindgen.toml --output "$scratch/dwcp.h" "$scratch/ffi.rs"
}

make_symbols() {
    nm --dynamic --defined-only --format=posix "$library" | cut -d' ' -f1 | LC_ALL=C sort \
        >"$scratch/dwcp.symbols"
}

# One C program prints size and offsets of every struct that the header defines.
make_layout() {
    awk '
        /^typedef struct [a-z_]+ \{/ { name = $3; print "STRUCT(" name ")"; next }
        /^} / { name = "" }
        name != "" && /^    [a-z]/ {
            line = $0
            if (match(line, /\(\*[a-z_]+\)/)) field = substr(line, RSTART + 2, RLENGTH - 3)
            else { sub(/(\[[0-9]+\])?;$/, "", line); n = split(line, part, /[ *]+/); field = part[n] }
            print "FIELD(" name ", " field ")"
        }' "$scratch/dwcp.h" >"$scratch/fields.inc"
    cat >"$scratch/layout.c" <<'PROGRAM'
#include "dwcp.h"
#include <stdio.h>
#define STRUCT(name) printf("%s %zu\n", #name, sizeof(struct name));
#define FIELD(name, field) \
    printf("  %s %zu %zu\n", #field, offsetof(struct name, field), \
           sizeof(((struct name *)0)->field));
int main(void) {
#include "fields.inc"
    return 0;
}
PROGRAM
    ${CC:-cc} -I "$scratch" -o "$scratch/layout" "$scratch/layout.c"
    "$scratch/layout" >"$scratch/dwcp.layout"
}

settle() {
    if [ "$mode" = --check ]; then
        diff -u "include/$1" "$scratch/$1" || { echo "include/$1 is stale: run $0" >&2; exit 1; }
    else
        cmp -s "include/$1" "$scratch/$1" || { cp "$scratch/$1" "include/$1"; echo "wrote include/$1"; }
    fi
}

mode=${1:-write}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
make_header
settle dwcp.h
make_layout
settle dwcp.layout
make_symbols
settle dwcp.symbols
