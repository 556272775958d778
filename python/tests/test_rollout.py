"""Simulated rollouts: scenarios that ship, scenarios of one's own, and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dwcp

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/rollout"
SHORT: dict[str, Any] = {
    "name": "<short>", "days": 16, "requests_per_min": 6, "nodes": 6, "links": 12,
    "faults": [{"at_percent": 50, "flag": "hybrid_mode", "effect": {"errors": {"percent": 40}}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def report() -> dwcp.RolloutReport:
    return dwcp.simulate_rollout(SHORT, seed=3)


def test_a_fault_takes_its_flag_back(report: dwcp.RolloutReport) -> None:
    assert report.rolled_back == ("hybrid_mode",)
    outcome = report.flag("hybrid_mode")
    assert outcome.percent == 0
    assert outcome.evidence is not None
    assert outcome.evidence["metric"] == "error_rate"
    assert "failed" in outcome.evidence["sentence"]
    kinds = [event.kind for event in report.events if event.flag == "hybrid_mode"]
    assert kinds.index("raised") < kinds.index("rolled_back")
    [began] = [event for event in report.events if event.kind == "fault_began"]
    assert outcome.rolled_back_at_day is not None
    assert began.at_day <= outcome.rolled_back_at_day < began.at_day + 1
    assert "40 % of requests" in str(began)
    with pytest.raises(KeyError):
        report.flag("crdt_sync")


def test_points_have_both_arms(report: dwcp.RolloutReport) -> None:
    points = report.of("hybrid_mode")
    assert [point.at_day for point in points] == sorted(point.at_day for point in points)
    assert {point.percent for point in points} >= {0, 10}
    assert points[-1].percent == 0
    canary = [point.canary for point in points if point.canary.requests]
    assert any((arm.error_percent or 0) > 5 for arm in canary)
    assert all(point.control.requests for point in points)
    assert points[0].canary.error_percent is None
    assert points[0].canary.latency_ratio is None


def test_equal_seeds_give_equal_rollouts(report: dwcp.RolloutReport) -> None:
    assert dwcp.simulate_rollout(SHORT, seed=3) == report
    assert dwcp.simulate_rollout({**SHORT, "seed": 3}) == report
    assert dwcp.simulate_rollout(SHORT, seed=4) != report


def test_files_are_read(tmp_path: Path, report: dwcp.RolloutReport) -> None:
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps(SHORT))
    assert dwcp.simulate_rollout(path, seed=3) == report
    shipped = dwcp.simulate_rollout(str(EXAMPLES / "latency.yaml"))
    assert shipped.rolled_back == ("ml_compression",)


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        ({"dys": 1}, "dys"),
        ({"days": -1}, "days is -1, not a number from"),
        ({"faults": [{"at_day": 1, "effect": "missing_data"}]}, "a flag, or reach: all"),
        ({"schedules": {"crdt_sync": [{"after_s": 0, "percent": 1}]}}, "not built yet"),
    ],
)
def test_what_cannot_be_played_is_named(scenario: dict[str, Any], text: str) -> None:
    with pytest.raises(dwcp.ConfigError, match=text):
        dwcp.simulate_rollout(scenario)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        dwcp.simulate_rollout(tmp_path / "nowhere.yaml")
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(dwcp.ConfigError, match="UTF-8"):
        dwcp.simulate_rollout(path)
    path.write_text("a: &a [*a]\n")
    with pytest.raises(dwcp.ConfigError, match="bad.yaml"):
        dwcp.simulate_rollout(path)


def test_it_shows_itself(report: dwcp.RolloutReport) -> None:
    html = report._repr_html_()
    assert "&lt;short&gt;" in html
    assert "<short>" not in html
    assert html.count("<tr>") == 4
    assert html.count("<li>") == len(report.events)


def test_plots_have_a_panel_for_each_figure(report: dwcp.RolloutReport) -> None:
    figure = report.plot()
    assert len(figure.axes) == 4
    assert "hybrid_mode" in figure.axes[1].get_title()
    other = report.plot("ml_compression")
    assert "ml_compression" in other.axes[1].get_title()
    with pytest.raises(KeyError):
        report.plot("crdt_sync")
