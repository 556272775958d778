"""How data leaves a node, as immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dwcp.model import known_fields

__all__ = ["PathOptions", "RdmaOptions"]


@dataclass(frozen=True, slots=True)
class PathOptions:
    """What holds for the paths of all migrations that leave a node.

    >>> PathOptions(dscp=10).pacing
    True
    """

    bandwidth_limit_bytes_per_s: int | None = None
    """Cap on what all migrations that leave the node send together, shared evenly; at least 65536."""
    pacing: bool = True
    """Whether streams on long paths are paced by what the path was found to carry."""
    dscp: int = 0
    """Code point that data streams are marked with, up to 63; 0: they are not marked."""
    source_addresses: tuple[str, ...] = ()
    """Local addresses over which streams are spread, up to 8; empty: the system chooses."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PathOptions:
        """The options from a mapping."""
        addresses = tuple(values.get("source_addresses", ()))
        return cls(**known_fields(cls, {**values, "source_addresses": addresses}))


@dataclass(frozen=True, slots=True)
class RdmaOptions:
    """How pages go by RDMA, which is not encrypted, and so is off until somebody has said so."""

    enabled: bool = False
    """Whether pages may go by it."""
    max_memory_bytes: int = 1 << 44
    """Most guest memory that may be registered with devices, and so pinned, at a time."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RdmaOptions:
        """The options from a mapping."""
        return cls(**known_fields(cls, values))
