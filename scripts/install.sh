#!/usr/bin/env bash
# Installs what `make build` made. From the environment:
#   PREFIX    where it will run from (/usr/local)        LIBDIR  library folder below it (lib)
#   DESTDIR   a staging folder put before PREFIX, for packagers (none)
#   PROFILE   release or debug (release)
. "$(dirname "$0")/lib.sh"

PREFIX=${PREFIX:-/usr/local}
LIBDIR=${LIBDIR:-lib}
BUILT="$TARGET/${PROFILE:-release}"
DEST="${DESTDIR:-}$PREFIX"
VERSION=$(project_version)
ABI=0
# What rustc names for linking the static library (`--print native-static-libs`).
STATIC_LIBS="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"

main() {
    case $PREFIX in
    /*) ;;
    *) die "PREFIX is '$PREFIX'; it must be an absolute path" ;;
    esac
    need_file "$BUILT/libdwcp.so"
    install_libraries
    install_headers
    install_packages
    install_programs
    install_documents
    note "installed libdwcp $VERSION below $DEST"
    [ -n "${DESTDIR:-}" ] || [ "$(id -u)" -ne 0 ] || refresh_linker_cache
}

install_libraries() {
    put 755 "$BUILT/libdwcp.so" "$LIBDIR/libdwcp.so.$VERSION"
    ln -sf "libdwcp.so.$VERSION" "$DEST/$LIBDIR/libdwcp.so.$ABI"
    ln -sf "libdwcp.so.$ABI" "$DEST/$LIBDIR/libdwcp.so"
    put 644 "$BUILT/libdwcp.a" "$LIBDIR/libdwcp.a"
}

install_headers() {
    put 644 include/dwcp.h include/dwcp.h
    put 644 include/dwcp.hpp include/dwcp.hpp
}

install_packages() {
    fill bindings/c/dwcp.pc.in "$LIBDIR/pkgconfig/dwcp.pc"
    fill bindings/c/DwcpConfig.cmake.in "$LIBDIR/cmake/Dwcp/DwcpConfig.cmake"
    fill bindings/c/DwcpConfigVersion.cmake.in "$LIBDIR/cmake/Dwcp/DwcpConfigVersion.cmake"
}

install_programs() {
    local scratch page
    put 755 "$BUILT/dwcpd" bin/dwcpd
    put 755 "$BUILT/dwcp-v3-cli" bin/dwcp-v3-cli
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder's name is wanted now
    trap "rm -rf '$scratch'" EXIT
    mkdir "$scratch/man" "$scratch/completions"
    "$BUILT/dwcp-v3-cli" generate man "$scratch/man"
    "$BUILT/dwcp-v3-cli" generate completions "$scratch/completions"
    for page in "$scratch"/man/*.[1-8]; do
        need_file "$page"
        put 644 "$page" "share/man/man${page##*.}/${page##*/}"
    done
    install_completions "$scratch/completions"
}

# By the names that clap gives them.
install_completions() {
    local file name
    for file in "$1"/*; do
        need_file "$file"
        name=${file##*/}
        case $name in
        *.bash) put 644 "$file" "share/bash-completion/completions/${name%.bash}" ;;
        *.fish) put 644 "$file" "share/fish/vendor_completions.d/$name" ;;
        _*.ps1 | *.elv) ;;
        _*) put 644 "$file" "share/zsh/site-functions/$name" ;;
        esac
    done
}

install_documents() {
    put 644 LICENSE share/doc/dwcp/LICENSE
    put 644 CHANGELOG.md share/doc/dwcp/CHANGELOG.md
    sed "s|/usr/bin/|$PREFIX/bin/|" examples/deploy/systemd/dwcp-v3.service |
        install -D -m 644 /dev/stdin "$DEST/lib/systemd/system/dwcp-v3.service"
}

put() { install -D -m "$1" "$2" "$DEST/$3"; }

fill() {
    local up major minor
    IFS=. read -r major minor _ <<<"$VERSION"
    up=$(realpath -ms --relative-to="/$LIBDIR/cmake/Dwcp" /)
    sed -e "s|@PREFIX@|$PREFIX|g" -e "s|@LIBDIR@|$LIBDIR|g" -e "s|@VERSION@|$VERSION|g" \
        -e "s|@ABI@|$ABI|g" -e "s|@MAJOR@|$major|g" -e "s|@MINOR@|$minor|g" \
        -e "s|@UP_TO_PREFIX@|$up|g" -e "s|@STATIC_LIBS@|$STATIC_LIBS|g" "$1" |
        install -D -m 644 /dev/stdin "$DEST/$2"
}

# The loader looks up what is in its own folders by this cache.
refresh_linker_cache() {
    ! have ldconfig || ldconfig || note "ldconfig failed: run it by hand"
}

main "$@"
