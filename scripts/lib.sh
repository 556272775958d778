#!/usr/bin/env bash
# Shared by every script: the repository root, messages, and the pinned tools.
# A script sources this file first and then runs from the root with strict settings.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
VENV="$ROOT/.venv"
TOOLS="$ROOT/.cache/tools"
TARGET="${CARGO_TARGET_DIR:-$ROOT/target}"
# Tools of this checkout win over the user's; sbin holds ip(8), which users often lack in PATH.
PATH="$TOOLS/bin:$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"
export ROOT VENV TOOLS TARGET PATH

say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# The project's version, from the workspace manifest.
project_version() {
    sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"
}

# Fails with the name of the part that the tree lacks.
need_file() { [ -e "$1" ] || die "the tree lacks $1"; }
