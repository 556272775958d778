"""Live migration of running virtual machines.

A `Node` holds guests and moves them to other nodes; a `Migration` tells how it goes and ends in a
`Report`; `connect` drives a daemon instead of a node in this process. Everything that fails
raises a `DwcpError`.
"""

from __future__ import annotations

from dwcp import errors
from dwcp._dwcp import __version__
from dwcp.errors import *  # noqa: F403
from dwcp.events import EventStream
from dwcp.flags import (
    FLAG_NAMES,
    Decider,
    Flag,
    FlagChange,
    FlagDecision,
    FlagLatch,
    FlagTable,
    RolloutSchedule,
    RolloutStage,
    decide_flag,
    exact_units,
    guide_schedule,
)
from dwcp.guards import RollbackLimits, RolloutState, StageLimits
from dwcp.guests import (
    BufferGuest,
    DestinationGuest,
    DirtyLog,
    ProcessMemoryGuest,
    Region,
    SourceGuest,
    kernel_tracking,
)
from dwcp.migration import Migration, WatchedMigration
from dwcp.model import Event, GuestInfo, Pass, PostCopyFigures, Progress
from dwcp.modes import (
    MatrixPath,
    MatrixRow,
    PeerMode,
    ProbeSeries,
    TransportOptions,
    TransportTest,
)
from dwcp.node import Node
from dwcp.paths import PathOptions, RdmaOptions
from dwcp.remote import RemoteDecider, RemoteEvents, RemoteMigration, RemoteNode, connect
from dwcp.report import Report
from dwcp.rollout import (
    ArmFigures,
    RolloutEvent,
    RolloutOutcome,
    RolloutPoint,
    RolloutReport,
    simulate_rollout,
)
from dwcp.status import Status

__all__ = [
    "FLAG_NAMES",
    "ArmFigures",
    "BufferGuest",
    "Decider",
    "DestinationGuest",
    "DirtyLog",
    "Event",
    "EventStream",
    "Flag",
    "FlagChange",
    "FlagDecision",
    "FlagLatch",
    "FlagTable",
    "GuestInfo",
    "MatrixPath",
    "MatrixRow",
    "Migration",
    "Node",
    "Pass",
    "PathOptions",
    "PeerMode",
    "PostCopyFigures",
    "ProbeSeries",
    "ProcessMemoryGuest",
    "Progress",
    "RdmaOptions",
    "Region",
    "RemoteDecider",
    "RemoteEvents",
    "RemoteMigration",
    "RemoteNode",
    "Report",
    "RollbackLimits",
    "RolloutEvent",
    "RolloutOutcome",
    "RolloutPoint",
    "RolloutReport",
    "RolloutSchedule",
    "RolloutStage",
    "RolloutState",
    "SourceGuest",
    "StageLimits",
    "Status",
    "TransportOptions",
    "TransportTest",
    "WatchedMigration",
    "__version__",
    "connect",
    "decide_flag",
    "exact_units",
    "guide_schedule",
    "kernel_tracking",
    "simulate_rollout",
    *errors.__all__,
]
