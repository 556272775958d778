#!/bin/sh
# Builds and runs the C and C++ tests: every standard, plain, under sanitizers and under valgrind.
# Usage: tests/c/run.sh [MODE...]   modes: headers golden plain sanitize valgrind   (default: all)
# DWCP_LIBRARY names the library to test; default target/debug/libdwcp.so.
set -u
cd "$(dirname "$0")/../.." || exit 1

library=${DWCP_LIBRARY:-$PWD/target/debug/libdwcp.so}
export DWCP_LIBRARY="$library"
strict="-Wall -Wextra -pedantic -Werror"
programs="status misuse migrate modes flags flag_plans requests threads qemu classes unload"
limit_s=120
passed=0
failed=0

scratch=$(mktemp -d "${TMPDIR:-/tmp}/dwcp-c-tests.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM

verdict() { # NAME STATUS
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL $1"; fi
}

expect() { # NAME COMMAND...
    name=$1
    shift
    "$@" >"$scratch/log" 2>&1
    code=$?
    [ $code -eq 0 ] || cat "$scratch/log"
    verdict "$name" $code
}

# The headers, alone and twice, and every test source, in each language and standard.
headers() {
    for header in dwcp.h dwcp.hpp; do
        printf '#include "%s"\n#include "%s"\nint dwcp_once;\n' $header $header >"$scratch/once.c"
        for compiler in gcc clang; do
            if [ $header = dwcp.h ]; then
                for standard in c99 c11 c17; do
                    expect "$header $compiler $standard" $compiler -std=$standard $strict \
                        -Iinclude -fsyntax-only "$scratch/once.c"
                done
            fi
            for standard in c++17 c++20; do
                expect "$header $compiler $standard" $compiler -x c++ -std=$standard $strict \
                    -Iinclude -fsyntax-only "$scratch/once.c"
            done
        done
    done
    for source in tests/c/*.c; do
        for compiler in "gcc -std=c99" "clang -std=c11" "gcc -std=c11"; do
            expect "$source $compiler" $compiler $strict -Iinclude -I"$scratch" -fsyntax-only \
                -D_DEFAULT_SOURCE "$source"
        done
    done
    expect "classes.cpp clang++" clang++ -std=c++17 $strict -Iinclude -fsyntax-only \
        tests/c/classes.cpp
}

# What describes the interface is fresh, and the library has the name that programs record.
golden() {
    expect "header, layout and symbols are fresh" scripts/bless-header.sh --check
    expect "every symbol is dwcp_" sh -c "! grep -v '^dwcp_' include/dwcp.symbols"
    expect "soname" sh -c "readelf -d '$library' | grep -q 'soname: \[libdwcp.so.0\]'"
    for symbol in $(cat include/dwcp.symbols); do
        grep -q "$symbol(" tests/c/*.c tests/c/*.cpp include/dwcp.hpp
        verdict "$symbol is called by a test" $?
    done
}

build() { # DIRECTORY FLAGS...
    out=$1
    shift
    mkdir -p "$out"
    ln -sf "$library" "$out/libdwcp.so.0"
    for program in $programs; do
        case $program in
        classes) set -- "$@"; compile="g++ -std=c++17"; sources=tests/c/classes.cpp; link="$library" ;;
        unload) compile="gcc -std=c11"; sources=tests/c/unload.c; link=-ldl ;;
        *) compile="gcc -std=c11"; sources="tests/c/$program.c tests/c/guest.c"; link="$library" ;;
        esac
        expect "build $program" $compile $strict -g -D_DEFAULT_SOURCE "$@" -Iinclude -I"$scratch" \
            -o "$out/$program" $sources $link -lpthread -Wl,-rpath,"$out"
    done
}

run() { # MODE DIRECTORY COMMAND...
    mode=$1
    out=$2
    shift 2
    for program in $programs; do
        # A program that dlopens cannot be watched by LeakSanitizer for what it unloaded.
        timeout $limit_s "$@" "$out/$program" >"$scratch/log" 2>&1
        code=$?
        counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$scratch/log" | tail -1)
        set -- "$@"
        if [ $code -ne 0 ] || [ -z "$counts" ]; then
            echo "---- $mode $program (status $code)"
            # Indented, so that its closing line is not taken for one of this script's own.
            sed 's/^/    /' "$scratch/log"
        fi
        passed=$((passed + ${counts%% *}+0))
        failed=$((failed + ${counts##* }+0))
        [ $code -eq 0 ] || [ "${counts##* }" != 0 ] || failed=$((failed + 1))
        [ -n "$counts" ] || failed=$((failed + 1))
    done
}

plain() {
    build "$scratch/plain"
    run plain "$scratch/plain" env
}

sanitize() {
    build "$scratch/sanitize" -fsanitize=address,undefined -fno-sanitize-recover=all
    run sanitize "$scratch/sanitize" env ASAN_OPTIONS=detect_leaks=1
}

valgrind_all() {
    build "$scratch/valgrind"
    run valgrind "$scratch/valgrind" valgrind -q --suppressions=tests/c/valgrind.supp --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite --error-exitcode=99 --fair-sched=yes
}

sed -n 's/^#define \(DWCP_OK\|DWCP_ERR_[A-Z_]*\) .*/STATUS(\1)/p' include/dwcp.h \
    >"$scratch/status_table.inc"
python3 tests/c/rollout_vectors.py tests/vectors/rollout.json >"$scratch/rollout_vectors.inc" || exit 1
cli=$(dirname "$library")/dwcp-v3-cli
export DWCP_IDENTITY="$scratch/identity"
"$cli" identity init --authority "$scratch/authority" >/dev/null &&
    "$cli" identity issue tester --authority "$scratch/authority" --out "$DWCP_IDENTITY" >/dev/null
[ -e "$library" ] || { echo "$library is not built" >&2; exit 1; }
# shellcheck disable=SC2048 # words are wanted
for mode in ${*:-headers golden plain sanitize valgrind}; do
    case $mode in
    valgrind) valgrind_all ;;
    headers | golden | plain | sanitize) $mode ;;
    *) echo "unknown mode $mode" >&2; exit 1 ;;
    esac
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
