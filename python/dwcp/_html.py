"""Reports and flags as HTML: tables and bars, without scripts or outside files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwcp.flags import Flag
    from dwcp.report import Report
    from dwcp.rollout import RolloutReport

_COLOURS = {
    "connect": "#8c8c8c",
    "precopy": "#3b75af",
    "final_pass": "#d1605e",
    "device_state": "#e49444",
    "verify": "#e7ca60",
    "handover": "#a87c9f",
    "resume": "#6a9f58",
    "post_copy": "#967662",
}
_OTHER_COLOUR = "#5778a4"
_WIDTH = 640


def report(report: Report) -> str:
    """The whole fragment."""
    outcome = "moved" if report.ok else f"{report.status.c_name}: {report.reason}"
    rows = [
        ("Outcome", outcome),
        ("Owner", report.owner),
        ("Total", f"{report.total_ms:,.1f} ms"),
        ("Downtime", f"{report.downtime_ms:,.1f} ms"),
        ("Memory", size(report.ram_bytes)),
        ("On the wire", f"{size(report.wire_bytes)} in {report.passes} passes"),
        (
            "Pages",
            f"{report.full_pages:,} whole, {report.delta_pages:,} delta, "
            f"{report.duplicate_pages:,} duplicate, {report.zero_pages:,} zero",
        ),
        ("Reconnects", str(report.reconnects)),
        ("Digest", report.digest or "-"),
    ]
    title = f"Migration of {report.guest} ({report.side})"
    return (
        f"<div><strong>{escape(title)}</strong> <code>{escape(report.id)}</code>"
        f"{_table(rows)}{phase_bar(report.phases)}</div>"
    )


def flags(flags: Iterable[Flag]) -> str:
    """Feature flags as a table, one row for each."""
    heads = ("Flag", "State", "Enabled", "Percent", "Allowed", "Denied", "Needs", "Owner", "Why off")
    rows = [_cells("th", heads)]
    for flag in flags:
        why = flag.killed or (flag.latch.reason if flag.latch else "")
        lists = (", ".join(flag.allow_list), ", ".join(flag.deny_list), ", ".join(flag.prerequisites))
        enabled = "yes" if flag.enabled else "no"
        percent = f"{flag.rollout_percent:g} %"
        rows.append(_cells("td", (flag.name, flag.state, enabled, percent, *lists, flag.owner, why)))
    return f"<table>{''.join(rows)}</table>"


def rollout(report: RolloutReport) -> str:
    """A simulated rollout: where each flag ended, and what happened."""
    ends = [_cells("th", ("Flag", "Ended at", "Rolled back", "Why"))]
    for flag in report.flags:
        day = flag.rolled_back_at_day
        when = "-" if day is None else f"day {day:.2f}"
        why = "" if flag.evidence is None else str(flag.evidence["sentence"])
        ends.append(_cells("td", (flag.flag, f"{flag.percent:g} %", when, why)))
    events = "".join(f"<li>{escape(str(event))}</li>" for event in report.events)
    title = f"{report.name}: {report.days:g} days, {report.requests:,} requests, seed {report.seed}"
    return (
        f"<div><strong>{escape(title)}</strong><table>{''.join(ends)}</table>"
        f"<details><summary>{len(report.events)} events</summary><ul>{events}</ul></details></div>"
    )


def phase_bar(phases: Mapping[str, float]) -> str:
    """A stacked bar, one part for each phase, with a legend that has the figures."""
    entries = [(name, value) for name, value in phases.items() if value > 0]
    total = sum(value for _, value in entries)
    if not total:
        return ""
    parts: list[str] = []
    left = 0.0
    for index, (name, value) in enumerate(entries):
        width = _WIDTH * value / total
        parts.append(_part(name, value, left, width, index))
        left += width
    height = 34 + 16 * len(entries)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="phases" font-family="sans-serif" font-size="12">'
        f"{''.join(parts)}</svg>"
    )


def size(count: float) -> str:
    """Bytes for a reader.

    >>> size(3 * 2**20)
    '3.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f"<table>{cells}</table>"


def _cells(kind: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(text)}</{kind}>' for text in texts)}</tr>"


def _part(name: str, value: float, left: float, width: float, index: int) -> str:
    colour = _COLOURS.get(name, _OTHER_COLOUR)
    label = escape(f"{name}: {value:,.2f} ms")
    baseline = 42 + 16 * index
    return (
        f'<rect x="{left:.2f}" y="4" width="{max(width, 1):.2f}" height="22" fill="{colour}">'
        f"<title>{label}</title></rect>"
        f'<rect x="0" y="{baseline - 9}" width="10" height="10" fill="{colour}"/>'
        f'<text x="16" y="{baseline}" fill="currentColor">{label}</text>'
    )
