"""Every C symbol has a Python counterpart, or a line that says why not."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import dwcp

ROOT = Path(__file__).resolve().parents[2]


def resolve(path: str) -> object:
    """The object behind a dotted path such as ``dwcp.Node.migrate``."""
    found: Any = dwcp
    package, *names = path.split(".")
    assert package == "dwcp", path
    for name in names:
        fields = getattr(found, "__dataclass_fields__", {})
        found = fields[name] if name in fields else getattr(found, name)
    return found


def test_every_symbol_is_accounted_for() -> None:
    symbols = (ROOT / "include/dwcp.symbols").read_text().split()
    table = tomllib.loads((ROOT / "tests/abi/python_counterparts.toml").read_text())
    counterparts, exempt = table["counterparts"], table["exempt"]
    assert symbols
    assert sorted(symbols) == sorted([*counterparts, *exempt])
    for path in counterparts.values():
        assert resolve(path) is not None, path
    for symbol, reason in exempt.items():
        assert len(reason.split()) > 3, f"{symbol}: {reason!r} is no reason"
