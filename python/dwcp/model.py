"""What the library tells about nodes and migrations, as immutable values.

Numbers carry their unit at the end of their name. Keys that a newer library or daemon adds are
left out, so that old scripts go on working.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, TypeVar

__all__ = ["Event", "GuestInfo", "Pass", "PostCopyFigures", "Progress"]

_T = TypeVar("_T")


def known_fields(kind: type[_T], values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `values` that are fields of the dataclass `kind`."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if name in names}


@dataclass(frozen=True, slots=True)
class Pass:
    """One pre-copy pass over the dirty pages; the last one runs with the guest paused."""

    number: int
    """Number, from 1."""
    pages: int
    """Pages sent, zero pages included."""
    zero_pages: int
    """Of these, zero pages."""
    wire_bytes: int
    """Bytes on the wire."""
    start_us: int
    """Start, in microseconds since the migration's start."""
    duration_us: int
    """Duration in microseconds."""
    dirty_rate_bytes_per_s: int
    """How fast the guest wrote during the pass."""
    bandwidth_bytes_per_s: int
    """Measured speed of the link."""
    predicted_downtime_us: int
    """Downtime if the guest had been paused at the pass's end."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Pass:
        """A pass from an entry of ``pass_details``, where its number is called ``pass``."""
        return cls(**known_fields(cls, {**values, "number": values["pass"]}))

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``pass_details``."""
        values = dataclasses.asdict(self)
        return {"pass": values.pop("number"), **values}


@dataclass(frozen=True, slots=True)
class PostCopyFigures:
    """What came of a switch to post-copy."""

    missing_pages: int
    """Pages that the destination lacked at the switch."""
    lost_pages: int
    """Of these, pages that never came: 0, unless the guest was given up."""
    faults: int
    """Pages that the guest waited for; at the source, pages that it was asked for."""
    fault_p50_us: int
    """How long the guest waited for half of them; only at the destination."""
    fault_p99_us: int
    """For all but a hundredth of them."""
    fault_max_us: int
    """For the slowest."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PostCopyFigures:
        """The figures from their JSON object."""
        return cls(**known_fields(cls, values))


@dataclass(frozen=True, slots=True)
class Progress:
    """A migration at one instant."""

    phase: str
    """``connect``, ``precopy``, ``final_pass``, ``device_state``, ``verify``, ``handover``,
    ``resume``, ``post_copy`` or ``ended``."""
    pass_number: int
    """The pass, from 1; 0 before the first."""
    ram_bytes: int
    """Guest memory."""
    pages: int
    """Pages of the guest."""
    remaining_pages: int
    """Pages still to be sent in this pass."""
    wire_bytes: int
    """Bytes sent so far."""
    bandwidth_bytes_per_s: int
    """Measured speed of the link, 0 while unknown."""
    dirty_rate_bytes_per_s: int
    """How fast the guest writes, 0 while unknown."""
    predicted_downtime_us: int
    """Downtime if the guest were paused now, 0 while unknown."""
    elapsed_us: int
    """Time since the start, in microseconds."""
    streams: int
    """Connected data streams."""
    reconnects: int
    """Streams that were lost and made anew."""
    throttle_percent: int
    """Share of its time for which the guest is held back."""
    rdma_bytes: int = 0
    """Of the bytes sent, those that went by RDMA."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """A snapshot from its JSON object, where the pass number is called ``pass``."""
        return cls(**known_fields(cls, {**values, "pass_number": values["pass"]}))

    @property
    def pass_fraction(self) -> float:
        """How much of this pass is done, 0 to 1, measured against the whole guest."""
        return 1.0 - self.remaining_pages / self.pages if self.pages else 0.0


@dataclass(frozen=True, slots=True)
class GuestInfo:
    """A guest registered on a node."""

    name: str
    """Its name."""
    role: str
    """``source`` (runs here) or ``destination`` (expected here)."""
    ram_bytes: int
    """Memory size."""
    migration: str | None
    """Id of the migration under way."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GuestInfo:
        """A guest from its JSON object."""
        return cls(**known_fields(cls, {"migration": None, **values}))


_EVENT_FIELDS = ("sequence", "time_us", "event", "component", "level", "migration", "guest")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened on a node."""

    sequence: int
    """Number of the event on its node, from 1."""
    time_us: int
    """Wall-clock time, microseconds since 1970."""
    event: str
    """What happened, such as ``phase`` or ``migration_ended``."""
    component: str
    """The part that speaks: ``amst``, ``hde``, ``migration`` or ``node``; empty if not told."""
    level: str
    """``debug``, ``info``, ``warn`` or ``error``; empty if not told."""
    migration: str | None
    """Id of the migration that it belongs to."""
    guest: str | None
    """Name of the guest that it belongs to."""
    details: Mapping[str, Any]
    """The event's own values."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Event:
        """An event from its JSON object, where the details lie beside the common fields."""
        values = {"component": "", "level": "", **values}
        common = {name: values.get(name) for name in _EVENT_FIELDS}
        details = {name: value for name, value in values.items() if name not in _EVENT_FIELDS}
        return cls(**common, details=MappingProxyType(details))  # type: ignore[arg-type]

    @property
    def time(self) -> datetime:
        """When it happened, in UTC."""
        return datetime.fromtimestamp(self.time_us / 1e6, tz=timezone.utc)

    def matches(self, words: frozenset[str]) -> bool:
        """Whether its name, component or guest is among `words`; no words match all."""
        return not words or bool(words & {self.event, self.component, f"guest:{self.guest}"})

    def __str__(self) -> str:
        details = " ".join(f"{name}={value}" for name, value in self.details.items())
        return f"{self.time:%H:%M:%S.%f} {self.level:5} {self.guest or '-'} {self.event} {details}"


def filter_words(words: str | Iterable[str] | None) -> frozenset[str]:
    """The words of a filter given as one string, with commas between them, or as several.

    >>> sorted(filter_words("phase,throttled"))
    ['phase', 'throttled']
    """
    if words is None:
        return frozenset()
    parts = words.split(",") if isinstance(words, str) else words
    return frozenset(part.strip() for part in parts if part.strip())
