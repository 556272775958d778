#!/usr/bin/env bash
# Builds the Python package into .venv and runs everything that checks it.
# usage: scripts/test-python.sh [PYTEST ARGUMENT...]    such as -k async
#        DWCP_PYTHON_RELEASE=1 builds with optimisation
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV="$PWD/.venv"
PATH="$VENV/bin:$HOME/.cargo/bin:$PATH"
export VIRTUAL_ENV="$VENV" PATH

# The stamp is the Makefile's too: whoever comes first installs.
make_venv() {
    local wanted
    wanted=$(cat python/requirements-dev.txt && python3 --version)
    [ "$wanted" != "$(cat "$VENV/.requirements" 2>/dev/null || true)" ] || return 0
    [ -x "$VENV/bin/python" ] || python3 -m venv "$VENV"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check -r python/requirements-dev.txt
    printf '%s\n' "$wanted" >"$VENV/.requirements"
}

make_venv
cd python
maturin develop --locked --quiet ${DWCP_PYTHON_RELEASE:+--release}
pytest -q "$@"
mypy
python -m mypy.stubtest dwcp._dwcp
