"""Reports: every key of the JSON, HTML that cannot be broken out of, and plots."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy
import pytest

import dwcp

PASS: dict[str, Any] = {
    "pass": 1,
    "pages": 100,
    "zero_pages": 25,
    "wire_bytes": 310_000,
    "start_us": 1_000,
    "duration_us": 20_000,
    "dirty_rate_bytes_per_s": 5_000_000,
    "bandwidth_bytes_per_s": 15_000_000,
    "predicted_downtime_us": 400,
}
VALUES: dict[str, Any] = {
    "id": "ab" * 16,
    "guest": "vm1",
    "side": "source",
    "status": "DWCP_OK",
    "reason": "",
    "owner": "destination",
    "total_ms": 50.5,
    "downtime_ms": 2.25,
    "phases": {"connect": 1.5, "precopy": 40.0, "final_pass": 0.0, "handover": 2.25},
    "ram_bytes": 409_600,
    "wire_bytes": 320_000,
    "zero_pages": 25,
    "duplicate_pages": 0,
    "delta_pages": 0,
    "full_pages": 77,
    "passes": 2,
    "reconnects": 0,
    "digest": "cd" * 16,
    "pass_details": [PASS, {**PASS, "pass": 2, "start_us": 21_000}],
    "post_copy": {
        "missing_pages": 9,
        "lost_pages": 0,
        "faults": 4,
        "fault_p50_us": 300,
        "fault_p99_us": 900,
        "fault_max_us": 950,
    },
    "rdma_bytes": 300_000,
}


def test_json_goes_both_ways() -> None:
    report = dwcp.Report.from_dict(VALUES)
    assert json.loads(report.to_json()) == VALUES
    assert report.ok and report.post_copy is not None and report.post_copy.faults == 4
    before = {**VALUES, "post_copy": None}
    assert json.loads(dwcp.Report.from_dict(before).to_json()) == before
    assert report.raise_for_status() is report


def test_keys_of_a_newer_library_are_ignored() -> None:
    newer = {**VALUES, "postcopy_pages": 3, "pass_details": [{**PASS, "new": 1}]}
    assert dwcp.Report.from_dict(newer).pass_details[0].number == 1


def test_a_failure_raises_with_the_report() -> None:
    failed = dwcp.Report.from_dict(
        {**VALUES, "status": "DWCP_ERR_DID_NOT_CONVERGE", "reason": "pass 9"}
    )
    with pytest.raises(dwcp.DidNotConvergeError, match="pass 9") as caught:
        failed.raise_for_status()
    assert caught.value.report is failed


def test_html_is_well_formed_and_escaped() -> None:
    hostile = {
        **VALUES,
        "guest": "<script>alert(1)</script>",
        "status": "DWCP_ERR_REFUSED",
        "reason": 'no & "never"</td>',
        "phases": {"<b>": 3.0, "precopy": 9.0},
    }
    html = dwcp.Report.from_dict(hostile)._repr_html_()
    tree = ElementTree.fromstring(html)
    assert tree.find(".//script") is None
    assert "alert(1)" in "".join(tree.itertext())
    svg = "{http://www.w3.org/2000/svg}"
    parts = [rect for rect in tree.iter(f"{svg}rect") if rect.get("height") == "22"]
    assert [round(float(part.get("width", ""))) for part in parts] == [160, 480]


def test_html_of_a_report_without_phases_has_no_bar() -> None:
    assert "<svg" not in dwcp.Report.from_dict({**VALUES, "phases": {}})._repr_html_()


def test_numpy_has_a_field_for_each_figure() -> None:
    passes = dwcp.Report.from_dict(VALUES).to_numpy()
    assert passes.shape == (2,)
    assert passes["number"].tolist() == [1, 2]
    assert numpy.all(passes["wire_bytes"] == 310_000)


def test_plot_draws_the_passes() -> None:
    figure = dwcp.Report.from_dict(VALUES).plot()
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["pages", "wire MiB", "dirty rate, MiB/s", "bandwidth, MiB/s"]
    heights = [bar.get_height() for bar in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert heights == [100, 100]


def test_event_keeps_its_details() -> None:
    event = dwcp.Event.from_dict(
        {"sequence": 1, "time_us": 0, "event": "notice", "text": "hello", "component": "amst",
         "level": "warn"}
    )
    assert event.details == {"text": "hello"}
    assert event.time.year == 1970
    assert event.matches(frozenset({"amst"}))
    assert not event.matches(frozenset({"hde"}))
    assert "text=hello" in str(event)
