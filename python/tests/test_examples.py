"""The examples are end-to-end tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/python"


def test_orchestrate_goes_there_and_back() -> None:
    command = [sys.executable, str(EXAMPLES / "orchestrate.py"), "--memory-mib", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)
    assert [report["status"] for report in reports] == ["DWCP_OK"] * 2
    assert done.stderr.count("every byte is right") == 2


def test_flags_are_rolled_out_and_switched_off() -> None:
    command = [sys.executable, str(EXAMPLES / "flags.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    counts = [line.split(";")[0] for line in done.stdout.splitlines() if ";" in line]
    assert [counts[0], counts[1], counts[3]] == [
        "at first: 100 of 100", "canary: 0 of 100", "disabled: 0 of 100",
    ]  # fmt: skip
    assert "allow list" in done.stdout
    assert "week 2" in done.stdout
