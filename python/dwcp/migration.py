"""One migration, watched and steered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from dwcp.errors import error_from_code
from dwcp.model import Progress
from dwcp.report import Report
from dwcp.status import Status

if TYPE_CHECKING:
    from dwcp import _dwcp
    from dwcp._pump import Pump

__all__ = ["Migration"]


class Migration:
    """A migration, outgoing or incoming; made by `dwcp.Node.migrate`.

    ``for progress in migration`` and ``async for progress in migration`` yield `Progress` until
    the end. Leaving such a loop, or Ctrl-C in it, does not end the migration: `cancel` does.
    """

    def __init__(self, native: _dwcp.Migration, pump: Pump) -> None:
        self._native = native
        self._pump = pump

    @property
    def id(self) -> str:
        """32 hexadecimal digits, the same on both sides."""
        return self._native.id

    @property
    def guest(self) -> str:
        """The guest's name."""
        return self._native.guest

    @property
    def side(self) -> str:
        """``source`` or ``destination``."""
        return self._native.side

    @property
    def owner(self) -> str:
        """Who owns the guest: ``source``, ``destination`` or ``in_doubt``."""
        return self._native.owner

    def progress(self) -> Progress:
        """Where it stands now."""
        return Progress.from_dict(self._native.progress())

    def report(self) -> Report | None:
        """The report, None while it runs."""
        values = self._native.report()
        return None if values is None else Report.from_dict(values)

    def wait(self, timeout: float | None = None, *, check: bool = True) -> Report:
        """Waits for the end.

        Raises `DwcpTimeoutError` after `timeout` seconds (the migration goes on), and the error
        with which the migration failed unless ``check`` is False. Ctrl-C ends the wait only.
        """
        values = self._native.wait(timeout)
        if values is None:
            raise self._still_running(timeout)
        return self._finished(values, check)

    async def wait_async(self, timeout: float | None = None, *, check: bool = True) -> Report:
        """As `wait`, for asyncio. Cancelling the task does not end the migration."""
        values = await self._ended(timeout)
        if values is None:
            raise self._still_running(timeout)
        return self._finished(values, check)

    def watch(self, interval_s: float = 0.2) -> Iterator[Progress]:
        """Yields `Progress` every `interval_s` seconds, and once more at the end."""
        yield self.progress()
        while self._native.wait(interval_s) is None:
            yield self.progress()
        yield self.progress()

    async def watch_async(self, interval_s: float = 0.2) -> AsyncIterator[Progress]:
        """As `watch`, for asyncio."""
        yield self.progress()
        while await self._ended(interval_s) is None:
            yield self.progress()
        yield self.progress()

    def __iter__(self) -> Iterator[Progress]:
        return self.watch()

    def __aiter__(self) -> AsyncIterator[Progress]:
        return self.watch_async()

    def cancel(self) -> None:
        """Asks for the end, the guest staying at the source; no effect after the commit point."""
        self._native.cancel()

    def set_bandwidth_limit(self, bytes_per_s: int | None) -> None:
        """Changes the cap on what goes on the wire; None lifts it."""
        self._native.set_bandwidth_limit(bytes_per_s)

    def __repr__(self) -> str:
        return f"<dwcp.Migration {self.id} of {self.guest!r} ({self.side})>"

    async def _ended(self, timeout: float | None) -> dict[str, Any] | None:
        end_s = None if timeout is None else time.monotonic() + timeout
        with self._pump.subscribed() as changed:
            while True:
                changed.clear()
                values = self._native.report()
                left_s = None if end_s is None else end_s - time.monotonic()
                if values is not None or (left_s is not None and left_s <= 0):
                    return values
                # News may come a moment before the report is there, so never sleep for long.
                slice_s = 0.5 if left_s is None else min(left_s, 0.5)
                try:
                    await asyncio.wait_for(changed.wait(), slice_s)
                except TimeoutError:
                    continue

    def _finished(self, values: dict[str, Any], check: bool) -> Report:
        report = Report.from_dict(values)
        if report.ok or not check:
            return report
        cause = self._native.failure() if report.status == Status.CALLBACK else None
        raise error_from_code(report.status, report.reason, report) from cause

    def _still_running(self, timeout: float | None) -> Exception:
        text = f"migration of {self.guest!r} is in phase {self.progress().phase} after {timeout} s"
        return error_from_code(Status.TIMEOUT, text)
