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
