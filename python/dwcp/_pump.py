"""Wakes asyncio tasks when something happens on a node.

One thread for each node waits for events, and only while a task waits for them. The tasks hold no
thread of an executor, so thousands of them can wait at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwcp import _dwcp

_SLICE_S = 0.25


class Pump:
    """Turns the events of a node into wake-ups of `asyncio.Event`s."""

    def __init__(self, node: _dwcp.Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._thread: threading.Thread | None = None

    @contextmanager
    def subscribed(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever the node has news; for the running loop."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiters.append(waiter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dwcp-events", daemon=True)
                self._thread.start()
        try:
            yield waiter[1]
        finally:
            with self._lock:
                self._waiters.remove(waiter)

    def _run(self) -> None:
        after = 0
        while True:
            events = self._node.events(after, _SLICE_S)
            with self._lock:
                if not self._waiters:
                    self._thread = None
                    return
                waiters = list(self._waiters)
            if events:
                after = events[-1]["sequence"]
                for loop, event in waiters:
                    _wake(loop, event)


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:
        return  # The loop was closed while the task still waited.


async def until(changed: asyncio.Event, timeout_s: float) -> None:
    """Waits for news, at most so many seconds."""
    try:
        await asyncio.wait_for(changed.wait(), timeout_s)
    except TimeoutError:
        return
