"""The operator's command line: ``python -m dwcp`` is ``dwcp-v3-cli``."""

from __future__ import annotations

import signal
import sys

from dwcp import _dwcp

__all__ = ["main"]


def main() -> int:
    """Runs one command of the process's arguments and returns its exit code."""
    # Python's own handler only leaves a note for the interpreter, which is not running meanwhile.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _dwcp.run_operator(["dwcp", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
