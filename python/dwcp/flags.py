"""Feature flags and who has them, as immutable values.

A *unit* is what a flag is decided for: a pair of nodes, the link or the path to a peer, a group of
replicas or a cluster. Percentages are of units.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from dwcp import _dwcp, _html
from dwcp._dwcp import Decider
from dwcp.model import known_fields

__all__ = [
    "FLAG_NAMES",
    "Decider",
    "Flag",
    "FlagChange",
    "FlagDecision",
    "FlagLatch",
    "FlagTable",
    "RolloutSchedule",
    "RolloutStage",
    "decide_flag",
    "exact_units",
    "guide_schedule",
]

FLAG_NAMES = (
    "hybrid_mode",
    "ml_compression",
    "crdt_sync",
    "pbft_consensus",
    "internet_optimization",
)
"""The flags, in the order of the upgrade guide."""

_NONE = "none"
_GUIDE = "guide"


@dataclass(frozen=True, slots=True)
class RolloutStage:
    """One step of a schedule."""

    after_s: int
    """When it begins, in seconds since the schedule's start."""
    percent: float
    """The percentage from then on."""


@dataclass(frozen=True, slots=True)
class RolloutSchedule:
    """How a percentage is to grow: stages that go forward in time, and never down."""

    stages: tuple[RolloutStage, ...]
    """The stages, in order."""
    start: datetime | None = None
    """When it starts or started; None: when it is put into force."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RolloutSchedule:
        """A schedule from its JSON object."""
        stages = tuple(RolloutStage(**known_fields(RolloutStage, entry)) for entry in values["stages"])
        return cls(stages, _moment(values.get("start")))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        stages = [{"after_s": stage.after_s, "percent": stage.percent} for stage in self.stages]
        start = None if self.start is None else _moment_text(self.start)
        return {"start": start, "stages": stages}


@dataclass(frozen=True, slots=True)
class FlagLatch:
    """A rollback that holds until somebody clears it."""

    since_us: int
    """Since when, in microseconds since 1970."""
    reason: str
    """Why, in words."""
    evidence: Any = None
    """What was measured; None if nothing was."""

    @property
    def since(self) -> datetime:
        """Since when, in UTC."""
        return datetime.fromtimestamp(self.since_us / 1e6, tz=timezone.utc)


@dataclass(frozen=True, slots=True)
class Flag:
    """One feature flag as it stands on a node."""

    name: str
    """Its name, such as ``hybrid_mode``."""
    unit: str
    """What it is decided for: ``node_pair``, ``link``, ``path``, ``replica_group`` or ``cluster``."""
    unit_form: str
    """How such a unit is written, such as ``NODE|NODE``."""
    is_built: bool
    """Whether a component stands behind it."""
    is_in_force: bool
    """Whether, as things stand, some unit could have it."""
    enabled: bool
    """Off for everybody if False, whatever the rest says."""
    rollout_percent: float
    """How many units have it, besides those on the allow list."""
    allow_list: tuple[str, ...]
    """Nodes and units that have it before all others."""
    deny_list: tuple[str, ...]
    """Nodes and units that never have it."""
    seed: int
    """Another one draws the units of a percentage anew."""
    prerequisites: tuple[str, ...]
    """Flags that must be on for the same unit."""
    schedule: RolloutSchedule | None
    """How its percentage is to grow."""
    owner: str
    """Whom to ask about it; empty if nobody is named."""
    expires: datetime | None
    """From when on it is off; None: never."""
    latch: FlagLatch | None
    """That it was rolled back, until that is cleared."""
    killed: str | None
    """Why the kill switch is on, for every flag; None while it is off."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Flag:
        """A flag from its JSON object."""
        schedule, latch = values.get("schedule"), values.get("latch")
        own = {
            "rollout_percent": float(values["rollout_percent"]),
            "allow_list": tuple(values["allow_list"]),
            "deny_list": tuple(values["deny_list"]),
            "prerequisites": tuple(values["prerequisites"]),
            "schedule": None if schedule is None else RolloutSchedule.from_dict(schedule),
            "expires": _moment(values.get("expires")),
            "latch": None if latch is None else FlagLatch(**known_fields(FlagLatch, latch)),
        }
        return cls(**known_fields(cls, {"killed": None, **values, **own}))

    @property
    def state(self) -> str:
        """In a word or two: ``on``, ``12.5 %``, ``rolled back``, ``killed``, ``not built``, ``expired``, ``off``.

        ``on`` and a percentage are as far as the kill switch, rollbacks and dates go; lists and
        prerequisites decide for each unit.
        """
        if self.killed is not None:
            return "killed"
        if not self.enabled:
            return "off"
        if not self.is_built:
            return "not built"
        if self.latch is not None:
            return "rolled back"
        if self.expires is not None and self.expires <= datetime.now(timezone.utc):
            return "expired"
        return "on" if self.rollout_percent == 100 else f"{self.rollout_percent:g} %"


class FlagTable(tuple[Flag, ...]):
    """The flags of a node, in the order of `FLAG_NAMES`; in Jupyter a table."""

    __slots__ = ()

    def named(self, name: str) -> Flag:
        """The flag of this name; KeyError if there is none."""
        for flag in self:
            if flag.name == name:
                return flag
        raise KeyError(name)

    def _repr_html_(self) -> str:
        return _html.flags(self)


@dataclass(frozen=True, slots=True)
class FlagDecision:
    """Whether a unit has a feature, and why; true if it has."""

    flag: str
    """The flag's name."""
    unit: str
    """The unit, as it was given."""
    is_on: bool
    """The answer."""
    reason: str
    """Why, in a word that never changes, such as ``below_percentage``."""
    text: str
    """Why, in words."""
    bucket: int | None = None
    """By percentage: where the unit stands, from 0 to 999,999."""
    percent: float | None = None
    """By percentage: it is on below this one."""
    prerequisite: str | None = None
    """The flag that it needs and that is off."""
    chosen: int | None = None
    """By rank among known members: how many have the feature."""
    members: int | None = None
    """By rank: of how many."""

    @classmethod
    def from_dict(cls, flag: str, unit: str, values: Mapping[str, Any]) -> FlagDecision:
        """The decision about a flag and a unit from its JSON object."""
        return cls(**known_fields(cls, {**values, "flag": flag, "unit": unit}))

    def __bool__(self) -> bool:
        return self.is_on

    def __str__(self) -> str:
        return f"{self.flag} is {'on' if self.is_on else 'off'} for {self.unit}: {self.text}"


@dataclass(frozen=True, slots=True)
class FlagChange:
    """One change of the flags, as the audit log has it."""

    seq: int
    """Its number; each is one more than the one before."""
    at_us: int
    """When, in microseconds since 1970, by the node's clock."""
    who: str
    """Who changed it."""
    why: str
    """Why."""
    change: str
    """What was changed, in a line."""
    evidence: Any
    """What was measured; None if nothing was."""
    before: Mapping[str, Any] | None
    """What was changed, before: ``flags`` by name, ``killed``; None in the first entry of a log."""
    after: Mapping[str, Any]
    """The same, after."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FlagChange:
        """A change from its JSON object, where before and after are called ``from`` and ``to``."""
        own = {"before": values["from"], "after": values["to"]}
        return cls(**known_fields(cls, {**values, **own}))

    @property
    def time(self) -> datetime:
        """When, in UTC."""
        return datetime.fromtimestamp(self.at_us / 1e6, tz=timezone.utc)

    def __str__(self) -> str:
        return f"{self.seq} {self.time:%Y-%m-%d %H:%M:%S} {self.who}: {self.change} ({self.why})"


def guide_schedule(flag: str) -> RolloutSchedule:
    """The upgrade guide's six weeks for a flag.

    >>> [stage.percent for stage in guide_schedule("hybrid_mode").stages]
    [0, 10, 50, 100]
    """
    return RolloutSchedule.from_dict(_dwcp.guide_schedule(flag))


def decide_flag(
    name: str,
    unit: str,
    rules: Mapping[str, bool | Mapping[str, Any]],
    *,
    rolled_back: Iterable[str] = (),
    killed: str | None = None,
    peer_can: bool = True,
    now: datetime | None = None,
) -> FlagDecision:
    """What rules would decide about a unit; they need not be in force anywhere.

    ``rules`` holds for each flag True, False or fields as JSON has them (see `Node.set_flags`); those
    that are missing are off. A unit is written in full, as `Flag.unit_form` says. ``rolled_back``: flags
    with a rollback that was not cleared; ``killed``: why the kill switch is on; ``peer_can``: whether
    the other end takes part; ``now``: for flags that expire.

    >>> decide_flag("hybrid_mode", "rack1|rack2", {"hybrid_mode": {"enabled": True}}).reason
    'below_percentage'
    """
    latched = {"since_us": 0, "reason": "assumed", "evidence": None}
    back = set(rolled_back)
    flags = {
        flag: {"rule": rules.get(flag, False), "latch": latched if flag in back else None}
        for flag in [*FLAG_NAMES, *(flag for flag in rules if flag not in FLAG_NAMES)]
    }
    planned = json.dumps({"flags": flags, "killed": killed, "configuration": None})
    now_s = int(time.time() if now is None else now.timestamp())
    return FlagDecision.from_dict(
        name, unit, _dwcp.decide_flag(planned, name, unit, peer_can, now_s)
    )


def exact_units(
    name: str, percent: float, members: Iterable[str], *, seed: int = 0
) -> list[str]:
    """Which of the known members have a feature at a percentage, by rank: exactly that share, rounded up.

    >>> len(exact_units("hybrid_mode", 10, [f"node-{number}" for number in range(20)]))
    2
    """
    return _dwcp.exact_units(name, seed, percent, list(members))


def caller(who: str | None) -> str:
    """Who changes something: `who`, or the user of this process."""
    if who is not None:
        return who
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def edit(
    flag: str,
    *,
    enabled: bool | None,
    percent: float | None,
    allow_list: str | Iterable[str] | None,
    deny_list: str | Iterable[str] | None,
    seed: int | None,
    prerequisites: str | Iterable[str] | None,
    schedule: str | RolloutSchedule | Sequence[tuple[int, float]] | None,
    owner: str | None,
    expires: str | datetime | None,
) -> dict[str, Any]:
    """The JSON object of an edit: what is None is left out."""
    given = {
        "enabled": enabled,
        "rollout_percent": _percent(percent),
        "allow_list": _names(allow_list),
        "deny_list": _names(deny_list),
        "seed": seed,
        "prerequisites": _names(prerequisites),
        "owner": owner,
    }
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if schedule is not None:
        values["schedule"] = schedule_of(flag, schedule)
    if expires is not None:
        values["expires"] = _expiry(expires)
    return values


def schedule_of(
    flag: str, schedule: str | RolloutSchedule | Sequence[tuple[int, float]]
) -> dict[str, Any] | None:
    """The JSON object of a schedule, None to take one away."""
    if isinstance(schedule, RolloutSchedule):
        return schedule.to_dict()
    if isinstance(schedule, str):
        if schedule == _NONE:
            return None
        if schedule != _GUIDE:
            raise ValueError(f"schedule {schedule!r} is neither {_GUIDE!r} nor {_NONE!r}")
        return guide_schedule(flag).to_dict()
    return RolloutSchedule(tuple(RolloutStage(*stage) for stage in schedule)).to_dict()


def rule_edit(rule: bool | Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON object of an edit from a flag's rule in either form of the upgrade guide."""
    if isinstance(rule, bool):
        return {"enabled": rule, "rollout_percent": 100 if rule else 0}
    return rule


def to_json(edits: Mapping[str, Mapping[str, Any]]) -> str:
    """Edits by the flags' names, as the library reads them."""
    return json.dumps(edits)


def _percent(percent: float | None) -> float | str | None:
    # JSON has no word for these; the library names them when it refuses them.
    return percent if percent is None or math.isfinite(percent) else str(percent)


def _names(names: str | Iterable[str] | None) -> list[str] | None:
    if names is None:
        return None
    parts = names.split(",") if isinstance(names, str) else list(names)
    return [part.strip() for part in parts if part.strip()]


def _expiry(expires: str | datetime) -> str | None:
    if isinstance(expires, datetime):
        return _moment_text(expires)
    return None if expires == _NONE else expires


def _moment(value: str | int | None) -> datetime | None:
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    return None if value is None else datetime.fromtimestamp(value, tz=timezone.utc)


def _moment_text(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
