#!/usr/bin/env bash
# The stages of `make test`, cheapest first; sourced by test.sh. A stage fails by its exit status.

about() {
    case $1 in
    format) echo "rustfmt" ;;
    lint) echo "clippy, warnings denied" ;;
    shell) echo "shellcheck" ;;
    licenses) echo "cargo-deny: licences, sources, bans, advisories" ;;
    header) echo "generated files are fresh" ;;
    units) echo "Rust tests, house rules among them" ;;
    doctests) echo "Rust examples in documentation" ;;
    docs) echo "Rust documentation, warnings denied" ;;
    simulation) echo "seeded migrations on a virtual clock" ;;
    c) echo "C programs: plain, sanitizers, valgrind; symbols and layouts" ;;
    install) echo "install, pkg-config and CMake package" ;;
    python) echo "pytest, notebooks executed, mypy --strict, stubs" ;;
    fuzz) echo "every fuzz target for ${FUZZ_SECONDS:-3} s" ;;
    esac
}

stage_format() {
    cargo fmt --all --check
    cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
}

stage_lint() {
    cargo clippy --workspace --all-targets --locked -- -D warnings
}

stage_shell() {
    git ls-files -co --exclude-standard -- '*.sh' .ci/run | xargs shellcheck --severity=warning -x -P SCRIPTDIR
}

# The advisory database comes from the network; without it the other checks still decide.
stage_licenses() {
    cargo deny --locked check bans licenses sources
    if timeout 120 cargo deny --locked fetch db; then
        cargo deny --offline --locked check advisories
    else
        note "advisories NOT checked: the advisory database cannot be reached"
    fi
}

stage_header() {
    cargo build --locked
    scripts/bless.sh --check
}

# The Python module cannot link into a Rust test program; pytest covers it.
stage_units() {
    cargo nextest run --workspace --exclude dwcp-python --locked --profile ci \
        --filterset 'not binary(simulation)'
}

stage_doctests() {
    cargo test --doc --locked
}

stage_docs() {
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
}

stage_simulation() {
    cargo nextest run --locked --profile ci --no-capture --test simulation
}

stage_c() {
    need_file tests/c/run.sh
    cargo build --locked
    tests/c/run.sh
}

stage_install() {
    cargo build --locked
    tests/c/install_test.sh
}


# The notebooks are among the Python tests.
stage_python() {
    need_file scripts/test-python.sh
    scripts/test-python.sh --reruns 1 --reruns-delay 5 -rR
}

stage_fuzz() {
    scripts/fuzz.sh "${FUZZ_SECONDS:-3}"
}
