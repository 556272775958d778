"""What takes a flag back while it is rolled out, and how each rollout stands."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dwcp.model import known_fields

__all__ = ["RollbackLimits", "RolloutState", "StageLimits"]


@dataclass(frozen=True, slots=True)
class StageLimits:
    """Tighter limits that hold besides while a flag's percentage is small."""

    up_to_percent: float
    """The largest percentage at which they hold."""
    max_error_rate: float
    """Requests that may fail, in percent."""
    max_latency_increase: float
    """How much more latency there may be, in percent."""
    max_detection_failure_rate: float
    """Detections of a peer's mode that may fail, in percent."""


_GUIDE_STAGE = StageLimits(10, 0.5, 10, 5)


@dataclass(frozen=True, slots=True)
class RollbackLimits:
    """What a rollout may not exceed, or else its flag is taken back; the defaults are the guide's.

    >>> RollbackLimits(max_error_rate=2).min_throughput_ratio
    0.8
    """

    max_error_rate: float = 1.0
    """Requests that may fail, in percent."""
    max_latency_increase: float = 50.0
    """How much more latency there may be, in percent."""
    min_throughput_ratio: float = 0.8
    """Which part of the usual throughput is enough."""
    max_mode_switch_rate: float = 10.0
    """Mode switches of a pair of nodes in a minute."""
    stages: tuple[StageLimits, ...] = (_GUIDE_STAGE,)
    """Tighter limits, each up to a percentage."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RollbackLimits:
        """The limits from their JSON object."""
        stages = tuple(
            StageLimits(**known_fields(StageLimits, entry)) for entry in values.get("stages", ())
        )
        return cls(**known_fields(cls, {**values, "stages": stages}))

    def to_json(self) -> str:
        """The JSON text; ValueError for what is no number."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}")
        return json.dumps(values)


@dataclass(frozen=True, slots=True)
class RolloutState:
    """How the rollout of one flag stands, as the guards see it."""

    flag: str
    """The flag."""
    percent: float
    """The percentage in force."""
    is_in_flight: bool
    """Whether it is being watched."""
    evidence: Mapping[str, Any] | None
    """Why it was taken back, if it was."""
    hold: str | Mapping[str, Any] | None
    """Why it stays where it is, if that was said last."""
    requests: int
    """Requests with the flag since the last raise."""
    failures: int
    """Those that failed."""
    unusable: int
    """Measurements that were no usable numbers."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RolloutState:
        """A state from its JSON object."""
        return cls(**known_fields(cls, values))
