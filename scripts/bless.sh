#!/usr/bin/env bash
# Writes every generated, checked-in file anew; with --check, only says which ones are stale.
# Each kind of file has its own script, scripts/bless-KIND.sh, with the same option.
. "$(dirname "$0")/lib.sh"

"$ROOT/scripts/bootstrap.sh" tools
passed=0
failed=0
for script in scripts/bless-*.sh; do
    need_file "$script"
    if "$script" "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        note "$script $* FAILED; if the change is meant: make bless"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
