"""What is known of the paths to peers, and what steers their modes, as immutable values.

A *mode* says what kind of path leads to a peer: ``datacenter``, ``hybrid``, ``internet`` or
``v1-compat``. Figures that are not known are None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dwcp.model import known_fields

__all__ = ["MatrixPath", "MatrixRow", "PeerMode", "ProbeSeries", "TransportOptions", "TransportTest"]


@dataclass(frozen=True, slots=True)
class PeerMode:
    """What a node knows of a peer and of the path to it."""

    peer: str
    """Its address, as it is dialed."""
    mode: str
    """The mode in force."""
    forced: str | None
    """The mode forced for this peer; None: measured, or forced for all."""
    measured: str | None
    """The mode that the figures speak for now; it takes hold once it has lasted."""
    is_in_use: bool
    """Whether streams to it are open."""
    rtt_us: int | None
    """Shortest round trip of about the last second."""
    min_rtt_us: int | None
    """Shortest round trip of the last minute or two."""
    jitter_us: int | None
    """Mean deviation of the round trip."""
    loss_ppm: int | None
    """Share of the sent bytes that had to be sent again, in parts of a million."""
    rate_bytes_per_s: int | None
    """Payload that the path delivers."""
    rate_is_floor: bool
    """Whether the path may be faster, because nothing has filled it yet."""
    rdma: str
    """Whether RDMA reaches it: ``unknown``, ``reachable`` or ``unreachable``."""
    silent_us: int | None
    """For how long its path has told nothing; None: it never told anything."""
    switches: int
    """Changes of its mode."""
    switches_last_minute: int
    """Measured changes within the last minute."""
    failure: str | None
    """Why the last probe failed; None if it did not."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PeerMode:
        """A peer from its JSON object."""
        return cls(**known_fields(cls, values))


@dataclass(frozen=True, slots=True)
class MatrixPath:
    """The path from one node to another."""

    peer: str
    """The peer's address, as that node dials it."""
    mode: str | None
    """The mode in force; None: one that is not known here."""
    is_in_use: bool
    """Whether streams to it are open."""
    rtt_us: int | None
    """Shortest round trip of about the last second."""
    jitter_us: int | None
    """Its mean deviation."""
    loss_ppm: int | None
    """Share of the sent bytes that had to be sent again, in parts of a million."""
    rate_bytes_per_s: int | None
    """Payload that the path delivers."""
    rate_is_floor: bool
    """Whether the path may be faster, because nothing has filled it yet."""
    silent_us: int | None
    """For how long it has told nothing; None: it never told anything."""


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """The paths from one node."""

    node: str | None
    """The node's name; None: it told nothing."""
    address: str | None
    """Where it was asked; None: it is the node that asked."""
    paths: tuple[MatrixPath, ...]
    """The paths to its peers, by address."""
    left_out: int
    """How many paths it has beside these."""
    failure: str | None
    """Why it told nothing."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MatrixRow:
        """A row from its JSON object."""
        paths = tuple(MatrixPath(**known_fields(MatrixPath, path)) for path in values["paths"])
        return cls(**known_fields(cls, {**values, "paths": paths}))


@dataclass(frozen=True, slots=True)
class ProbeSeries:
    """What probes of one connection told."""

    connect_us: int
    """How long it took to connect."""
    answers_us: tuple[int, ...]
    """How long each answer took, threads of both sides included."""
    min_rtt_us: int | None
    """Shortest round trip as the kernel timed it."""
    rtt_variation_us: int
    """The kernel's mean deviation of the round trip."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbeSeries:
        """A series from its JSON object."""
        return cls(**known_fields(cls, {**values, "answers_us": tuple(values["answers_us"])}))


@dataclass(frozen=True, slots=True)
class TransportTest:
    """What a test of a path told."""

    peer: str
    """Where it went."""
    mode: str
    """The mode for which the streams were set up."""
    measured: str | None
    """The mode that the figures speak for."""
    in_force: str
    """The peer's mode after the test."""
    streams: int
    """Streams."""
    congestion: str
    """Their congestion control, as read back."""
    duration_us: int
    """From the first byte to the last answer."""
    bytes: int
    """Payload that arrived."""
    rate_bytes_per_s: int
    """Payload that arrived in a second."""
    min_rtt_us: int
    """Shortest round trip."""
    rtt_us: int
    """Mean of the streams' smoothed round trips at the end, queues included."""
    retransmitted_bytes: int
    """Bytes that had to be sent again."""
    retransmitted_segments: int
    """Segments that had to be sent again."""
    loss_ppm: int
    """Bytes sent again as a share of all bytes sent, in parts of a million."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransportTest:
        """A test from its JSON object."""
        return cls(**known_fields(cls, values))


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """How the modes of a node's peers are chosen, and what they change.

    >>> TransportOptions(congestion="cubic").internet_streams
    8
    """

    mode: str = "auto"
    """The mode of every peer; ``auto``: it is measured."""
    allow_datacenter: bool = True
    """Whether measurement may choose datacenter mode."""
    allow_internet: bool = True
    """Whether measurement may choose internet mode."""
    congestion: str = "bbr"
    """Congestion control of long paths: ``bbr``, ``cubic``, ``reno``; ``system``: never touched."""
    datacenter_streams: int = 64
    """Streams of a migration in datacenter mode, at most."""
    internet_streams: int = 8
    """Streams of a migration in internet mode, at most."""
    datacenter_rtt_us: int = 10_000
    """A shorter round trip may be a datacenter's."""
    internet_rtt_us: int = 50_000
    """A longer round trip is the internet's."""
    internet_jitter_us: int = 10_000
    """More jitter is the internet's."""
    datacenter_loss_ppm: int = 20_000
    """More loss, in parts of a million, is no datacenter's."""
    fast_rate_bytes_per_s: int = 112_500_000
    """A path that delivers less is the internet's."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransportOptions:
        """The options from a mapping."""
        return cls(**known_fields(cls, values))
