"""One migration, watched and steered."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from dwcp._pump import until
from dwcp.errors import error_from_code
from dwcp.model import Progress
from dwcp.report import Report
from dwcp.status import Status

if TYPE_CHECKING:
    from dwcp import _dwcp
    from dwcp._pump import Pump

__all__ = ["Migration", "WatchedMigration"]

_SLICE_S = 0.2


class WatchedMigration(ABC):
    """What can be done with a migration wherever it runs: wait for it and follow it.

    ``for progress in migration`` and ``async for progress in migration`` yield `Progress` until
    the end. Leaving such a loop, or Ctrl-C in it, does not end the migration: `cancel` does.
    """

    @property
    @abstractmethod
    def id(self) -> str:
        """32 hexadecimal digits, the same on both sides."""

    @property
    @abstractmethod
    def guest(self) -> str:
        """The guest's name."""

    @property
    @abstractmethod
    def side(self) -> str:
        """``source`` or ``destination``."""

    @property
    @abstractmethod
    def owner(self) -> str:
        """Who owns the guest: ``source``, ``destination`` or ``in_doubt``."""

    @abstractmethod
    def progress(self) -> Progress:
        """Where it stands now."""

    @abstractmethod
    def report(self) -> Report | None:
        """The report, None while it runs."""

    @abstractmethod
    def cancel(self) -> None:
        """Asks for the end, the guest staying at the source; no effect after the commit point."""

    @abstractmethod
    def start_post_copy(self) -> None:
        """Lets the guest go on at the destination before all of its memory is there.

        At the source, of a migration that was started with ``post_copy="manual"`` or ``"auto"``;
        `StateError` otherwise, or when the guest is being handed over already.
        """

    @abstractmethod
    def abandon_post_copy(self) -> None:
        """Gives up a guest that lacks pages, on this side, because the other will not come back.

        The guest is lost then. Nothing else gives it up, however long it takes. `StateError` in any
        other state.
        """

    @abstractmethod
    def set_bandwidth_limit(self, bytes_per_s: int | None) -> None:
        """Changes the cap on what goes on the wire; None lifts it."""

    @abstractmethod
    def _ended(self, timeout: float | None) -> Report | None:
        """The report once it ended, None when the time is up."""

    @abstractmethod
    async def _ended_async(self, timeout: float | None) -> Report | None:
        """As `_ended`, for asyncio."""

    def wait(self, timeout: float | None = None, *, check: bool = True) -> Report:
        """Waits for the end.

        Raises `DwcpTimeoutError` after `timeout` seconds (the migration goes on), and the error
        with which the migration failed unless ``check`` is False. Ctrl-C ends the wait only.
        """
        return self._judge(self._ended(timeout), timeout, check)

    async def wait_async(self, timeout: float | None = None, *, check: bool = True) -> Report:
        """As `wait`, for asyncio. Cancelling the task does not end the migration."""
        return self._judge(await self._ended_async(timeout), timeout, check)

    def watch(self, interval_s: float = 0.2) -> Iterator[Progress]:
        """Yields `Progress` every `interval_s` seconds, and once more at the end."""
        yield self.progress()
        while self._ended(interval_s) is None:
            yield self.progress()
        yield self.progress()

    async def watch_async(self, interval_s: float = 0.2) -> AsyncIterator[Progress]:
        """As `watch`, for asyncio."""
        yield self.progress()
        while await self._ended_async(interval_s) is None:
            yield self.progress()
        yield self.progress()

    def __iter__(self) -> Iterator[Progress]:
        return self.watch()

    def __aiter__(self) -> AsyncIterator[Progress]:
        return self.watch_async()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.guest!r} ({self.side})>"

    def _cause(self) -> BaseException | None:
        """The exception of a callback that made the migration fail."""
        return None

    def _judge(self, report: Report | None, timeout: float | None, check: bool) -> Report:
        if report is None:
            phase = self.progress().phase
            text = f"migration of {self.guest!r} is in phase {phase} after {timeout} s"
            raise error_from_code(Status.TIMEOUT, text)
        if report.ok or not check:
            return report
        cause = self._cause() if report.status == Status.CALLBACK else None
        raise error_from_code(report.status, report.reason, report) from cause


class Migration(WatchedMigration):
    """A migration of a node in this process; made by `dwcp.Node.migrate`."""

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

    def cancel(self) -> None:
        """Asks for the end, the guest staying at the source; no effect after the commit point."""
        self._native.cancel()

    def start_post_copy(self) -> None:
        """Lets the guest go on at the destination before all of its memory is there."""
        self._native.start_post_copy()

    def abandon_post_copy(self) -> None:
        """Gives up a guest that lacks pages, because the other side will not come back."""
        self._native.abandon_post_copy()

    def set_bandwidth_limit(self, bytes_per_s: int | None) -> None:
        """Changes the cap on what goes on the wire; None lifts it."""
        self._native.set_bandwidth_limit(bytes_per_s)

    def _ended(self, timeout: float | None) -> Report | None:
        values = self._native.wait(timeout)
        return None if values is None else Report.from_dict(values)

    async def _ended_async(self, timeout: float | None) -> Report | None:
        end_s = None if timeout is None else time.monotonic() + timeout
        with self._pump.subscribed() as changed:
            while True:
                changed.clear()
                report = self.report()
                left_s = None if end_s is None else end_s - time.monotonic()
                if report is not None or (left_s is not None and left_s <= 0):
                    return report
                # News may come a moment before the report is there, so never sleep for long.
                await until(changed, _SLICE_S if left_s is None else min(left_s, _SLICE_S))

    def _cause(self) -> BaseException | None:
        return self._native.failure()
