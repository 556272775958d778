"""Figures of a report; the only module that needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from dwcp.report import Report

_MIB = 2**20


def passes(report: Report) -> Figure:
    """Four panels over time, one mark for each pass at its end."""
    details = report.pass_details
    starts = [entry.start_us / 1e6 for entry in details]
    durations = [entry.duration_us / 1e6 for entry in details]
    panels: list[tuple[str, list[float]]] = [
        ("pages", [float(entry.pages) for entry in details]),
        ("wire MiB", [entry.wire_bytes / _MIB for entry in details]),
        ("dirty rate, MiB/s", [entry.dirty_rate_bytes_per_s / _MIB for entry in details]),
        ("bandwidth, MiB/s", [entry.bandwidth_bytes_per_s / _MIB for entry in details]),
    ]
    figure = Figure(figsize=(9, 6), layout="constrained")
    figure.suptitle(f"{report.guest}: {report.total_ms:,.0f} ms, down {report.downtime_ms:,.1f} ms")
    axes = figure.subplots(2, 2, sharex=True).flat
    for panel, (label, values) in zip(axes, panels, strict=True):
        panel.bar(starts, values, width=durations, align="edge", edgecolor="black", linewidth=0.5)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
    for panel in figure.axes[2:]:
        panel.set_xlabel("seconds since the start")
    return figure
