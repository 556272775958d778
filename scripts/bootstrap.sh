#!/usr/bin/env bash
# Brings what a fresh Debian 12 lacks, and only that.
# usage: scripts/bootstrap.sh packages|python|tools...
#   packages  compilers and test programs, by apt, as root or by sudo
#   python    .venv with the pinned Python tools
#   tools     cbindgen, cargo-nextest, cargo-deny: the user's if the version fits, else .cache/tools
. "$(dirname "$0")/lib.sh"

# Exact where another version writes other output, a lower bound where it does not.
CBINDGEN_VERSION=0.29.4
NEXTEST_VERSION=0.9.143
DENY_VERSION=0.20.2

# Program (or check) and the Debian package that has it.
PACKAGES="
cc:gcc
g++:g++
clang:clang
pkg-config:pkg-config
cmake:cmake
valgrind:valgrind
shellcheck:shellcheck
ip:iproute2
iperf3:iperf3
qemu-system-x86_64:qemu-system-x86
redis-check-rdb:redis-tools
python3:python3
venv:python3-venv
asan:libasan8
"

main() {
    for part in "$@"; do
        case $part in
        packages) install_packages ;;
        python) make_venv ;;
        tools) install_tools ;;
        *) die "unknown part '$part': packages, python or tools" ;;
        esac
    done
    have cargo || die "no cargo: install Rust's stable toolchain from https://rustup.rs first"
}

install_packages() {
    local entry missing=()
    for entry in $PACKAGES; do
        is_present "${entry%%:*}" || missing+=("${entry##*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing Debian packages: ${missing[*]}"
    have apt-get || die "this is no Debian; install by hand: ${missing[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}"
}

is_present() {
    case $1 in
    venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    asan) [ -e "$(cc -print-file-name=libasan.so)" ] ;;
    *) have "$1" ;;
    esac
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo -- "$@"
    else
        die "not root and no sudo; run as root: $*"
    fi
}

make_venv() {
    local wanted have_stamp
    need_file python/requirements-dev.txt
    wanted=$(cat python/requirements-dev.txt && python3 --version)
    have_stamp=$(cat "$VENV/.requirements" 2>/dev/null || true)
    [ "$wanted" != "$have_stamp" ] || return 0
    say "installing Python tools into .venv"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "Python 3.11 or newer is needed, this is $(python3 --version)"
    python3 -m venv --clear "$VENV"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check -r python/requirements-dev.txt
    printf '%s\n' "$wanted" >"$VENV/.requirements"
}

install_tools() {
    rustup_component rustfmt
    rustup_component clippy
    [ "$(version_of cbindgen)" = "$CBINDGEN_VERSION" ] || build_tool cbindgen "$CBINDGEN_VERSION"
    at_least "$(version_of cargo-deny)" "$DENY_VERSION" || build_tool cargo-deny "$DENY_VERSION"
    at_least "$(version_of cargo-nextest)" "$NEXTEST_VERSION" ||
        build_tool cargo-nextest "$NEXTEST_VERSION"
}

rustup_component() {
    have "cargo-${1#rust}" || rustup component add "$1"
}

version_of() {
    { "$1" --version 2>/dev/null || true; } | sed -n '1s/^[^ ]* \([0-9.]*\).*/\1/p'
}

at_least() {
    [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Unoptimised: the tools run for seconds, and optimising them takes minutes.
build_tool() {
    say "building $1 $2 into .cache/tools"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_TARGET_DIR="$TOOLS/build" \
        cargo install --quiet --locked --force --root "$TOOLS" "$1@$2"
    rm -rf "$TOOLS/build"
}

main "$@"
