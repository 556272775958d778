"""Streams of events, for loops and for tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from dwcp._pump import until
from dwcp.model import Event

if TYPE_CHECKING:
    from dwcp import _dwcp
    from dwcp._pump import Pump

__all__ = ["EventStream"]

_SLICE_S = 1.0


class EventStream:
    """Events of a node, oldest first, for ``for`` and ``async for``.

    Without ``follow`` it ends with the last event there is; with it, when the node stops.
    """

    def __init__(
        self, node: _dwcp.Node, pump: Pump, words: frozenset[str], after: int, follow: bool
    ) -> None:
        self._node = node
        self._pump = pump
        self._words = words
        self._follow = follow
        self.position = after
        """Sequence of the last event that was looked at; pass it as ``after`` to go on."""

    def __iter__(self) -> Iterator[Event]:
        while True:
            batch = self._fetch(_SLICE_S if self._follow else 0.0)
            for event in batch:
                if self._advance(event):
                    yield event
                if self._is_last(event):
                    return
            if not self._follow and not batch:
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        with self._pump.subscribed() as changed:
            while True:
                changed.clear()
                batch = self._fetch(0.0)
                for event in batch:
                    if self._advance(event):
                        yield event
                    if self._is_last(event):
                        return
                if batch:
                    continue
                if not self._follow:
                    return
                await until(changed, _SLICE_S)

    def _fetch(self, timeout_s: float) -> list[Event]:
        return [Event.from_dict(event) for event in self._node.events(self.position, timeout_s)]

    def _advance(self, event: Event) -> bool:
        self.position = event.sequence
        return event.matches(self._words)

    def _is_last(self, event: Event) -> bool:
        return self._follow and event.event == "node_stopped"

