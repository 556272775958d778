"""The native module; private. `python -m mypy.stubtest` compares it with the built one."""

import os
from collections.abc import Sequence
from typing import Any, final

__all__ = [
    "DirtyLog",
    "Migration",
    "Node",
    "__version__",
    "kernel_tracking",
    "raise_panic",
    "run_operator",
    "status_table",
]

__version__: str

@final
class DirtyLog:
    """One bit for each page of a region, set by `mark`, read and cleared by `take`.

    It may be used from several threads at once.
    """

    def __new__(cls, length_bytes: int, page_bytes: int = 4096) -> DirtyLog: ...
    def mark(self, offset_bytes: int, length_bytes: int) -> None:
        """Marks the pages that `length_bytes` bytes at `offset_bytes` touch."""

    def take(self) -> bytes:
        """The bitmap since the last call, lowest bit first; clears it."""

    def __len__(self) -> int: ...
    @property
    def pages(self) -> int:
        """Pages of the region."""

    @property
    def page_bytes(self) -> int:
        """Page size in bytes."""

@final
class Migration:
    @property
    def id(self) -> str: ...
    @property
    def guest(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def owner(self) -> str: ...
    def progress(self) -> dict[str, Any]: ...
    def report(self) -> dict[str, Any] | None: ...
    def wait(self, timeout_s: float | None = None) -> dict[str, Any] | None: ...
    def cancel(self) -> None: ...
    def set_bandwidth_limit(self, bytes_per_s: int | None) -> None: ...
    def failure(self) -> BaseException | None: ...

@final
class Node:
    def __new__(
        cls,
        name: str,
        listen: str | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        hold_departed_guests: bool = True,
        held_bytes: int | None = None,
        identity_dir: str | os.PathLike[str] | None = None,
        allowed_peers: list[str] = ...,
        plain: bool = False,
    ) -> Node: ...
    @property
    def name(self) -> str: ...
    @property
    def listen_address(self) -> str | None: ...
    def add_source(
        self, name: str, guest: object, page_bytes: int, regions: Sequence[tuple[str, Any, int]]
    ) -> None: ...
    def add_process_memory_source(
        self, name: str, guest: object, page_bytes: int, regions: Sequence[tuple[str, Any, int]]
    ) -> None: ...
    def add_destination(
        self, name: str, guest: object, page_bytes: int, regions: Sequence[tuple[str, Any, int]]
    ) -> None: ...
    def attach_qemu(
        self, name: str, qmp: str | os.PathLike[str], incoming: bool = False
    ) -> None: ...
    def remove_guest(self, name: str) -> None: ...
    def clear_held(
        self, guest: str | None = None, older_than_s: int | None = None
    ) -> int: ...
    def guests(self) -> list[dict[str, Any]]: ...
    def migrate(
        self,
        guest: str,
        to: str,
        *,
        streams: int | None = None,
        codec: str | None = None,
        max_downtime_ms: float | None = None,
        deadline_s: float | None = None,
        bandwidth_limit_bytes_per_s: int | None = None,
        throttle: bool | None = None,
        multifd_channels: int | None = None,
        reconnect_timeout_s: float | None = None,
        stall_timeout_s: float | None = None,
    ) -> Migration: ...
    def migrations(self) -> list[Migration]: ...
    def migration(self, id: str) -> Migration: ...
    def events(self, after: int, timeout_s: float | None) -> list[dict[str, Any]]: ...
    def metrics(self) -> list[dict[str, Any]]: ...
    def serve_control(
        self, path: str | os.PathLike[str], metrics_listen: str | None = None
    ) -> str | None: ...
    def stop(self) -> None: ...

def kernel_tracking() -> None: ...
def raise_panic(text: str) -> None: ...
def run_operator(args: Sequence[str]) -> int: ...
def status_table() -> list[tuple[int, str]]: ...
