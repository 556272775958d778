#!/usr/bin/env bash
# Installs the debug build below a temporary prefix, as a packager would, and builds and runs a
# program against it by pkg-config (shared and static) and by CMake.
. "$(dirname "$0")/../../scripts/lib.sh"

SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
PREFIX="$SCRATCH/usr"
passed=0
failed=0

main() {
    PREFIX="$PREFIX" PROFILE=debug scripts/install.sh
    cp -r tests/c/install_consumer "$SCRATCH/consumer"
    for check in every_file soname shared static cmake cpp moved staged bad_version relative_prefix; do
        if ("check_$check") >"$SCRATCH/log" 2>&1; then
            passed=$((passed + 1))
            note "$check ok"
        else
            failed=$((failed + 1))
            cat "$SCRATCH/log"
            note "$check FAILED"
        fi
    done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

# `set -e` does not reach into a condition, hence the chains.
check_every_file() {
    local file
    for file in lib/libdwcp.so lib/libdwcp.a include/dwcp.h include/dwcp.hpp bin/dwcpd \
        bin/dwcp-v3-cli lib/pkgconfig/dwcp.pc lib/cmake/Dwcp/DwcpConfig.cmake \
        share/man/man1/dwcp-v3-cli.1 share/bash-completion/completions/dwcp-v3-cli \
        share/doc/dwcp/LICENSE lib/systemd/system/dwcp-v3.service; do
        [ -s "$PREFIX/$file" ] || die "$file was not installed"
    done
    ! grep -rIl '@[A-Z_]*@' "$PREFIX/lib/pkgconfig" "$PREFIX/lib/cmake" || die "unfilled field"
    grep -q "ExecStart=$PREFIX/bin/dwcpd" "$PREFIX/lib/systemd/system/dwcp-v3.service"
}

check_soname() {
    readelf -d "$PREFIX/lib/libdwcp.so" | grep -q 'SONAME.*\[libdwcp.so.0\]' &&
        [ "$(readlink "$PREFIX/lib/libdwcp.so.0")" = "libdwcp.so.$(project_version)" ]
}

flags() { PKG_CONFIG_PATH="$PREFIX/lib/pkgconfig" pkg-config "$@" dwcp; }

compile() { cc -Wall -Wextra -Werror -o "$SCRATCH/$1" "$SCRATCH/consumer/main.c" "${@:2}"; }

prints_version() { [ "$("$@")" = "$(project_version)" ]; }

check_shared() {
    local options
    read -ra options <<<"$(flags --cflags --libs)"
    compile shared "${options[@]}" &&
        readelf -d "$SCRATCH/shared" | grep -q 'NEEDED.*\[libdwcp.so.0\]' &&
        prints_version env LD_LIBRARY_PATH="$PREFIX/lib" "$SCRATCH/shared"
}

check_static() {
    local options
    read -ra options <<<"$(flags --cflags --libs --static)"
    options=("${options[@]/-ldwcp/-l:libdwcp.a}")
    compile static "${options[@]}" && prints_version "$SCRATCH/static"
}

cmake_build() {
    cmake -S "$SCRATCH/consumer" -B "$SCRATCH/build-$1" -DCMAKE_PREFIX_PATH="$2" "${@:3}" &&
        cmake --build "$SCRATCH/build-$1"
}

check_cmake() {
    cmake_build cmake "$PREFIX" && prints_version "$SCRATCH/build-cmake/consumer" &&
        prints_version "$SCRATCH/build-cmake/consumer_static"
}

check_cpp() {
    local options
    read -ra options <<<"$(flags --cflags --libs)"
    printf '#include <dwcp.hpp>\nint main() {}\n' >"$SCRATCH/main.cpp"
    c++ -std=c++17 -Wall -Wextra -Werror -o "$SCRATCH/cpp" "$SCRATCH/main.cpp" "${options[@]}"
}

# A CMake package finds its files wherever the tree stands.
check_moved() {
    cp -a "$PREFIX" "$SCRATCH/moved" && cmake_build moved "$SCRATCH/moved" &&
        prints_version "$SCRATCH/build-moved/consumer"
}

# DESTDIR is where the files go, never what they say.
check_staged() {
    DESTDIR="$SCRATCH/stage" PREFIX=/usr LIBDIR=lib/x86_64-linux-gnu PROFILE=debug scripts/install.sh &&
        [ -e "$SCRATCH/stage/usr/lib/x86_64-linux-gnu/libdwcp.so.0" ] &&
        grep -qx 'prefix=/usr' "$SCRATCH/stage/usr/lib/x86_64-linux-gnu/pkgconfig/dwcp.pc" &&
        ! grep -rIl "$SCRATCH" "$SCRATCH/stage" &&
        cmake_build staged "$SCRATCH/stage/usr" -DCMAKE_LIBRARY_ARCHITECTURE=x86_64-linux-gnu
}

check_bad_version() {
    if cmake_build bad "$PREFIX" -DWANTED=9.0; then
        die "CMake accepted version 9.0"
    fi
}

check_relative_prefix() {
    if PREFIX=usr scripts/install.sh 2>"$SCRATCH/refusal"; then
        die "a relative PREFIX was accepted"
    fi
    grep -q "PREFIX is 'usr'" "$SCRATCH/refusal"
}

main
