"""Rollouts that are played on a simulated cluster: six weeks in seconds, with faults."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwcp import _dwcp, _html
from dwcp.errors import error_from_code
from dwcp.model import known_fields
from dwcp.status import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ArmFigures",
    "RolloutEvent",
    "RolloutOutcome",
    "RolloutPoint",
    "RolloutReport",
    "simulate_rollout",
]


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What units with a flag, or those without it, met in a span of time."""

    requests: int
    """Requests."""
    failures: int
    """Those that failed."""
    latency_ratio: float | None
    """Typical latency as a ratio to the links' medians; None: nothing was measured."""
    throughput_ratio: float | None
    """Typical throughput likewise."""

    @property
    def error_percent(self) -> float | None:
        """Requests that failed, in percent; None without requests."""
        return 100 * self.failures / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class RolloutPoint:
    """Figures of one flag in a span of time."""

    at_day: float
    """The span's end, in days since the start."""
    flag: str
    """The flag."""
    percent: float
    """The percentage in force at its end."""
    canary: ArmFigures
    """Units with the flag."""
    control: ArmFigures
    """Units without it."""


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """Something that happened in a rollout."""

    at_day: float
    """When, in days since the start."""
    flag: str | None
    """The flag that it is about, if it is about one."""
    kind: str
    """``raised``, ``held``, ``rolled_back``, ``fault_began`` or ``fault_ended``."""
    detail: Any
    """The new percentage, the reason, the evidence, or the fault."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RolloutEvent:
        """An event from its JSON object."""
        [(kind, detail)] = values["what"].items()
        return cls(values["at_day"], values["flag"], kind, detail)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {"at_day": self.at_day, "flag": self.flag, "what": {self.kind: self.detail}}

    def __str__(self) -> str:
        return f"day {self.at_day:.2f} {self.flag or '-'} {self.kind}: {self._text()}"

    def _text(self) -> str:
        if self.kind == "raised":
            return f"{self.detail:g} %"
        if self.kind == "rolled_back":
            return str(self.detail["sentence"])
        return self.detail if isinstance(self.detail, str) else json.dumps(self.detail)


@dataclass(frozen=True, slots=True)
class RolloutOutcome:
    """Where a flag ended."""

    flag: str
    """The flag."""
    percent: float
    """The last percentage in force; 0 if it was taken back."""
    rolled_back_at_day: float | None
    """When it was taken back, in days since the start."""
    evidence: Mapping[str, Any] | None
    """Why: figures of both arms, the limit, how sure it is, and a ``sentence``."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RolloutOutcome:
        """An outcome from its JSON object."""
        return cls(**known_fields(cls, values))


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """A rollout that was played. In Jupyter it shows itself as a table."""

    name: str
    """The scenario's name."""
    seed: int
    """The seed it was played with."""
    days: float
    """How long it was."""
    requests: int
    """Requests that were made."""
    flags: tuple[RolloutOutcome, ...]
    """Where each flag ended."""
    events: tuple[RolloutEvent, ...]
    """What happened, in order."""
    points: tuple[RolloutPoint, ...]
    """Figures over time, of every flag."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RolloutReport:
        """A report from the object that ``rollout simulate --json`` prints."""
        own = {
            "flags": tuple(RolloutOutcome.from_dict(entry) for entry in values["flags"]),
            "events": tuple(RolloutEvent.from_dict(entry) for entry in values["events"]),
            "points": tuple(_points(values["points"])),
        }
        return cls(**known_fields(cls, {**values, **own}))

    @property
    def rolled_back(self) -> tuple[str, ...]:
        """The flags that were taken back, the earliest first."""
        days = {flag.flag: flag.rolled_back_at_day for flag in self.flags}
        back = {flag: day for flag, day in days.items() if day is not None}
        return tuple(sorted(back, key=lambda flag: back[flag]))

    def flag(self, name: str) -> RolloutOutcome:
        """Where a flag ended; KeyError if it was not rolled out."""
        for outcome in self.flags:
            if outcome.flag == name:
                return outcome
        raise KeyError(name)

    def of(self, name: str) -> tuple[RolloutPoint, ...]:
        """One flag's figures over time."""
        return tuple(point for point in self.points if point.flag == name)

    def plot(self, flag: str | None = None) -> Figure:
        """Every flag's percentage over time, and of one flag canary against control.

        ``flag`` is the first that was taken back, if one was. A dashed line marks where. Needs the extra
        ``report``. The figure belongs to no window: save it with ``savefig`` or let Jupyter show it.
        """
        from dwcp import _plot

        return _plot.rollout(self, flag or next(iter(self.rolled_back), self.flags[0].flag))

    def _repr_html_(self) -> str:
        return _html.rollout(self)


def simulate_rollout(
    scenario: Mapping[str, Any] | str | os.PathLike[str] | None = None, *, seed: int | None = None
) -> RolloutReport:
    """Plays a rollout on a simulated cluster, by the same flags and guards as a node's.

    ``scenario`` is a mapping, or the path of a YAML or JSON file as ``dwcp-v3-cli rollout simulate``
    reads it; None is a healthy cluster that follows the upgrade guide's six weeks. Equal seeds give equal
    rollouts; ``seed`` goes before the scenario's own. `ConfigError` for a scenario that cannot be
    played.

    >>> fault = {"at_percent": 50, "flag": "hybrid_mode", "effect": {"errors": {"percent": 30}}}
    >>> report = simulate_rollout({"days": 18, "requests_per_min": 6, "faults": [fault]})
    >>> report.rolled_back
    ('hybrid_mode',)
    """
    name, text = _text(scenario)
    return RolloutReport.from_dict(_dwcp.simulate_rollout(name, text, seed))


def _text(scenario: Mapping[str, Any] | str | os.PathLike[str] | None) -> tuple[str, str]:
    if scenario is None or isinstance(scenario, Mapping):
        return "scenario", json.dumps(dict(scenario or {}))
    path = Path(scenario)
    try:
        return str(path), path.read_text(encoding="utf-8")
    except OSError as cause:
        raise error_from_code(Status.IO, f"cannot read {path}: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise error_from_code(Status.CONFIG, f"{path} is not UTF-8") from cause


def _points(spans: Iterable[Mapping[str, Any]]) -> Iterable[RolloutPoint]:
    for span in spans:
        for entry in span["flags"]:
            canary, control = (
                ArmFigures(**known_fields(ArmFigures, entry[arm])) for arm in ("treated", "control")
            )
            yield RolloutPoint(span["at_day"], entry["flag"], entry["percent"], canary, control)

