"""Figures of reports; the only module that needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dwcp.report import Report
    from dwcp.rollout import ArmFigures, RolloutReport

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


def rollout(report: RolloutReport, flag: str) -> Figure:
    """Percentages of all flags on top; below, canary against control of one of them."""
    arms: list[tuple[str, Callable[[ArmFigures], float | None]]] = [
        ("requests that fail, %", lambda arm: arm.error_percent),
        ("latency, ratio", lambda arm: arm.latency_ratio),
        ("throughput, ratio", lambda arm: arm.throughput_ratio),
    ]
    figure = Figure(figsize=(9, 9), layout="constrained")
    figure.suptitle(f"{report.name}: {report.days:g} days, seed {report.seed}")
    panels = figure.subplots(1 + len(arms), 1, sharex=True)
    _percentages(panels[0], report)
    for panel, (label, read) in zip(panels[1:], arms, strict=True):
        _arms(panel, report, flag, read)
        panel.set_ylabel(label)
    panels[1].set_title(f"{flag}: canary against control", fontsize="medium")
    panels[1].legend(fontsize="small")
    panels[-1].set_xlabel("days since the start")
    back = report.flag(flag).rolled_back_at_day
    for panel in panels if back is not None else ():
        panel.axvline(back, color="black", linestyle="--", linewidth=1)
    return figure


def _percentages(panel: Axes, report: RolloutReport) -> None:
    # Two flags may go the same way, so the lines differ in more than colour.
    for outcome, style in zip(report.flags, ("-", "--", ":", "-.", "-"), strict=False):
        days, percents = [0.0], [0.0]
        for event in report.events:
            if event.flag == outcome.flag and event.kind in {"raised", "rolled_back"}:
                is_back = event.kind == "rolled_back"
                days.append(event.at_day)
                percents.append(0.0 if is_back else event.detail)
                if is_back:
                    panel.plot(event.at_day, percents[-2], "X", color="black", markersize=9)
        days.append(report.days)
        percents.append(percents[-1])
        panel.plot(days, percents, style, drawstyle="steps-post", label=outcome.flag, linewidth=2)
    panel.set_ylabel("units with the flag, %")
    panel.set_ylim(-5, 105)
    panel.legend(fontsize="small")


def _arms(
    panel: Axes, report: RolloutReport, flag: str, read: Callable[[ArmFigures], float | None]
) -> None:
    points = report.of(flag)
    days = [point.at_day for point in points]
    for label, values in (
        ("canary", [read(point.canary) for point in points]),
        ("control", [read(point.control) for point in points]),
    ):
        known = [(day, value) for day, value in zip(days, values, strict=True) if value is not None]
        panel.plot([day for day, _ in known], [value for _, value in known], label=label, linewidth=1)
