"""What a hypervisor written in Python, or driven from it, gives to a node.

A guest is any object with the methods of `SourceGuest` or `DestinationGuest`. The methods are
called from threads of the library, one at a time, holding the GIL. An exception fails the
migration: its text becomes the migration's reason and it is chained to the `CallbackError`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dwcp import _dwcp
from dwcp._dwcp import DirtyLog
from dwcp.errors import error_from_code
from dwcp.status import Status

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = [
    "BufferGuest",
    "DestinationGuest",
    "DirtyLog",
    "ProcessMemoryGuest",
    "Region",
    "SourceGuest",
    "kernel_tracking",
]

_LONGEST_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Region:
    """One region of guest memory."""

    name: str
    """Name that both sides must agree on, such as ``ram``."""
    buffer: ReadableBuffer
    """The memory itself: bytearray, mmap, memoryview, numpy array; it must be
    writable.

    It is held while the guest is registered, so it cannot be resized or closed then.
    """
    guest_address: int = 0
    """Where the guest sees it; compared between the two sides."""


class ProcessMemoryGuest(Protocol):
    """A running guest in memory of this process whose writes the kernel can track.

    Register it with `dwcp.Node.add_process_memory_source`. Inherit to get the methods that have a
    default; the others must be written.
    """

    @property
    def regions(self) -> Sequence[Region]:
        """The guest's memory, writable, read once when the guest is registered."""
        ...

    def pause(self) -> None:
        """Stops the guest; on return nothing writes its memory."""
        ...

    def resume(self) -> None:
        """Lets a paused guest go on, after a migration that failed."""
        ...

    def save_device_state(self) -> ReadableBuffer:
        """The state of CPUs and devices of the paused guest."""
        ...

    def throttle(self, percent: int) -> bool:
        """Holds the guest back for `percent` of its time, 0 for full speed; False: it cannot."""
        return False

    def finish(self, keep: bool) -> None:
        """The last call of a migration: whether the guest stays with this side.

        False too when the guest was lost in post-copy (`PostCopyLostError` says so): what memory
        holds here is then from before the switch.
        True also where nobody can tell, which the report calls ``in_doubt``: then the guest has not
        been resumed, and must stay as it is until the other side was asked.
        """
        return


class SourceGuest(ProcessMemoryGuest, Protocol):
    """A running guest that knows which pages were written."""

    def start_dirty_log(self) -> None:
        """Begins to log writes; everything written from now on must show in `fetch_dirty`."""
        return

    def fetch_dirty(self, region: int) -> ReadableBuffer:
        """The pages of a region (by index) written since the last call.

        One bit for each page, lowest bit of the first byte first; `DirtyLog.take` makes it, and
        ``numpy.packbits(pages, bitorder="little")`` does from booleans.
        """
        ...


class DestinationGuest(Protocol):
    """A stopped, empty guest that waits for its memory."""

    @property
    def regions(self) -> Sequence[Region]:
        """The guest's memory, writable; must have the shape of the source's."""
        ...

    def load_device_state(self, state: bytes) -> None:
        """Restores CPUs and devices; the guest stays stopped."""
        ...

    def resume(self) -> None:
        """Starts the guest: it belongs to this side now."""
        ...

    def finish(self, keep: bool) -> None:
        """The last call of a migration: whether the guest stays with this side.

        True also, without a `resume`, for the whole image of a v1 peer, which does not say whether
        it has let go: the report calls it ``in_doubt``.
        """
        return


def kernel_tracking() -> None:
    """Raises `UnsupportedError` where the kernel cannot track writes to this process's memory.

    The message names the kernel version or the permission that is missing.
    """
    _dwcp.kernel_tracking()


class BufferGuest:
    """A guest that is plain memory, written by Python threads through `write`.

    It can be a source and a destination, keeps its own dirty log, and stops its writers while it
    is paused. Good for tests, for teaching, and for moving the state of a Python program.

    >>> guest = BufferGuest(bytearray(8192), running=True)
    >>> guest.write(4096, b"hello")
    >>> guest.fetch_dirty(0)
    b'\\x02'
    >>> guest.state
    'running'
    """

    def __init__(
        self,
        memory: WriteableBuffer | Mapping[str, WriteableBuffer],
        *,
        page_bytes: int = 4096,
        running: bool = False,
        device_state: bytes = b"",
    ) -> None:
        """Wraps `memory`, one buffer (called ``ram``) or several by name.

        ``running`` guests are sources; the others wait for a migration.
        """
        named = memory if isinstance(memory, Mapping) else {"ram": memory}
        self._regions = tuple(Region(name, buffer) for name, buffer in named.items())
        self._views = tuple(memoryview(region.buffer).cast("B") for region in self._regions)
        self._logs = tuple(DirtyLog(len(view), page_bytes) for view in self._views)
        self._state = "running" if running else "empty"
        self._changed = threading.Condition()
        self._throttle_percent = 0
        self._last_write_s = time.monotonic()
        self.device_state = device_state
        """What `save_device_state` hands over and `load_device_state` receives."""

    @property
    def regions(self) -> Sequence[Region]:
        """The memory."""
        return self._regions

    @property
    def state(self) -> str:
        """``empty``, ``running``, ``paused`` or ``gone`` (it runs elsewhere)."""
        return self._state

    def write(self, offset_bytes: int, data: ReadableBuffer, *, region: int = 0) -> None:
        """Writes guest memory as its CPU would: waits while paused, fails once it is gone."""
        source = memoryview(data).cast("B")
        self._hold_back()
        with self._changed:
            self._changed.wait_for(lambda: self._state != "paused")
            if self._state != "running":
                text = f"the guest is {self._state}, not running: it cannot be written"
                raise error_from_code(Status.BAD_STATE, text)
            # Marked after the write: a page marked too early could be fetched and sent unwritten.
            self._views[region][offset_bytes : offset_bytes + len(source)] = source
            self._logs[region].mark(offset_bytes, len(source))

    def read(self, offset_bytes: int, length_bytes: int, *, region: int = 0) -> bytes:
        """A copy of guest memory."""
        return bytes(self._views[region][offset_bytes : offset_bytes + length_bytes])

    def start_dirty_log(self) -> None:
        """Forgets what was logged before."""
        for log in self._logs:
            log.take()

    def fetch_dirty(self, region: int) -> bytes:
        """The pages written since the last call, one bit each."""
        return self._logs[region].take()

    def pause(self) -> None:
        """Lets the write under way end and holds back the next."""
        self._enter("paused")

    def resume(self) -> None:
        """Lets writers go on, or begin."""
        self._enter("running")

    def save_device_state(self) -> bytes:
        """`device_state`."""
        return self.device_state

    def load_device_state(self, state: bytes) -> None:
        """Sets `device_state`."""
        self.device_state = state

    def throttle(self, percent: int) -> bool:
        """Slows `write` down so that writers lose this share of their time."""
        self._throttle_percent = percent
        return True

    def finish(self, keep: bool) -> None:
        """Lets go of a guest that runs elsewhere; its writers get a `StateError`.

        One that is in doubt stays paused.
        """
        self._throttle_percent = 0
        if not keep and self._state != "empty":
            self._enter("gone")

    def wait_running(self, timeout: float | None = None) -> bool:
        """Waits, at most `timeout` seconds, until the guest runs here; whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state == "running", timeout)

    def _enter(self, state: str) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _hold_back(self) -> None:
        now_s = time.monotonic()
        busy_s = now_s - self._last_write_s
        share = min(self._throttle_percent, 99) / 100
        if share:
            time.sleep(min(busy_s * share / (1 - share), _LONGEST_PAUSE_S))
        self._last_write_s = time.monotonic()
