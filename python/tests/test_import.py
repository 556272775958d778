"""`import dwcp` stays light, and the package is what it says."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata, resources

import dwcp


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_import_loads_neither_numpy_nor_matplotlib() -> None:
    heavy = "{'numpy', 'matplotlib', 'IPython', 'asyncio.windows_events'}"
    out = run(f"import sys, dwcp; print(sorted({heavy} & set(sys.modules)))")
    assert out.strip() == "[]"


def test_import_starts_no_thread() -> None:
    out = run("import os, dwcp; print(len(os.listdir('/proc/self/task')))")
    assert out.strip() == "1"


def test_package_is_typed_and_versioned() -> None:
    assert resources.files("dwcp").joinpath("py.typed").is_file()
    assert dwcp.__version__ == metadata.version("dwcp")


def test_everything_public_is_there_and_documented() -> None:
    for name in dwcp.__all__:
        value = getattr(dwcp, name)
        if name != "__version__":
            assert value.__doc__, f"dwcp.{name} has no docstring"
        for member, function in vars(value).items() if isinstance(value, type) else ():
            if not member.startswith("_") and callable(function):
                assert function.__doc__, f"dwcp.{name}.{member} has no docstring"
