"""The report of a finished migration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dwcp import _html
from dwcp.errors import error_from_code
from dwcp.model import Pass, PostCopyFigures, known_fields
from dwcp.status import Status

if TYPE_CHECKING:
    import numpy
    from matplotlib.figure import Figure

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """A finished migration, as one of its two sides saw it.

    The fields are the keys of the object that ``migrate --json`` prints. In Jupyter a report shows
    itself as a table with a bar of its phases.
    """

    id: str
    """The migration, 32 hexadecimal digits."""
    guest: str
    """The guest's name."""
    side: str
    """``source`` or ``destination``: which side wrote this report."""
    status: Status
    """How it ended."""
    reason: str
    """Why, empty on success."""
    owner: str
    """Who owns the guest: ``source``, ``destination`` or ``in_doubt``."""
    total_ms: float
    """Whole duration in milliseconds."""
    downtime_ms: float
    """How long the guest stood still, in milliseconds."""
    phases: Mapping[str, float]
    """Milliseconds of each phase that was entered, in order."""
    ram_bytes: int
    """Guest memory."""
    wire_bytes: int
    """Bytes on the wire in the data direction, headers included."""
    zero_pages: int
    """Pages sent as zero."""
    duplicate_pages: int
    """Pages sent as a reference to an equal page."""
    delta_pages: int
    """Pages sent as a difference."""
    full_pages: int
    """Pages sent whole."""
    passes: int
    """Passes over the memory, the paused one included."""
    reconnects: int
    """Streams that were lost and made anew."""
    digest: str
    """Digest of the whole image, 32 hexadecimal digits; empty if it was not reached."""
    pass_details: tuple[Pass, ...] = field(default=())
    """Each pass."""
    post_copy: PostCopyFigures | None = None
    """What came of a switch to post-copy; None if there was none."""
    rdma_bytes: int = 0
    """Of the bytes on the wire, those that went by RDMA."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """A report from its JSON object."""
        status = Status.from_name(values["status"])
        passes = tuple(Pass.from_dict(entry) for entry in values.get("pass_details", ()))
        figures = values.get("post_copy")
        post_copy = None if figures is None else PostCopyFigures.from_dict(figures)
        known = known_fields(cls, values)
        own = {"status": status, "pass_details": passes, "post_copy": post_copy}
        return cls(**{**known, **own})

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, with the status by its C name."""
        names = [entry.name for entry in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in names}
        values["status"] = self.status.c_name
        values["phases"] = dict(self.phases)
        values["pass_details"] = [entry.to_dict() for entry in self.pass_details]
        if self.post_copy is not None:
            values["post_copy"] = dataclasses.asdict(self.post_copy)
        return values

    def to_json(self, *, indent: int | None = None) -> str:
        """The JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    @property
    def ok(self) -> bool:
        """Whether the guest moved."""
        return self.status == Status.OK

    def raise_for_status(self) -> Report:
        """Returns the report, or raises the error with which the migration ended."""
        if self.ok:
            return self
        raise error_from_code(self.status, self.reason, self)

    def to_numpy(self) -> numpy.ndarray[Any, numpy.dtype[numpy.void]]:
        """The passes as a structured array, one field for each field of `Pass`.

        Needs the extra ``analysis``.
        """
        import numpy

        names = [entry.name for entry in dataclasses.fields(Pass)]
        rows = [dataclasses.astuple(entry) for entry in self.pass_details]
        return numpy.array(rows, dtype=[(name, numpy.uint64) for name in names])

    def plot(self) -> Figure:
        """Pages, bytes on the wire, dirty rate and bandwidth of each pass over time.

        Needs the extra ``report``. The figure belongs to no window: save it with ``savefig`` or
        let Jupyter show it.
        """
        from dwcp import _plot

        return _plot.passes(self)

    def _repr_html_(self) -> str:
        return _html.report(self)
