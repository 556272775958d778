"""A node of this process, driven from outside: socket, command line, metrics."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import MIB, WAIT_S, Pair, random_memory

import dwcp


def cli(socket: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dwcp", "--socket", str(socket), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)


def guests(pair: Pair) -> dwcp.BufferGuest:
    arrived = dwcp.BufferGuest(bytearray(MIB))
    pair.source.add_source("vm", dwcp.BufferGuest(random_memory(MIB), running=True))
    pair.destination.add_destination("vm", arrived)
    return arrived


def test_a_node_is_driven_through_its_socket(pair: Pair, tmp_path: Path) -> None:
    arrived = guests(pair)
    pair.source.serve_control(tmp_path / "control.sock")
    remote = dwcp.connect(tmp_path / "control.sock")
    assert remote.status()["node"]["name"] == "source"
    assert remote.guests() == pair.source.guests()
    migration = remote.migrate("vm", pair.to, streams=2, max_downtime_ms=50.5, deadline_s=60)
    assert [progress.phase for progress in migration.watch(0.01)][-1] == "ended"
    report = migration.wait(WAIT_S)
    assert report == pair.source.migration(migration.id).report()
    assert arrived.read(0, MIB) == random_memory(MIB)
    remote_events = [event.sequence for event in remote.events()]
    assert remote_events == [event.sequence for event in pair.source.events()]
    assert {event.event for event in remote.events(filter="migration")} >= {"phase"}
    with pytest.raises(ValueError, match="nonsense"):
        list(remote.events(filter="nonsense"))
    with pytest.raises(dwcp.NotFoundError, match="vm9"):
        remote.migrate("vm9", pair.to)


def test_the_socket_goes_with_the_node(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with dwcp.Node(plain=True) as node:
        node.serve_control(path)
        with dwcp.Node(plain=True) as other, pytest.raises(dwcp.AlreadyExistsError, match="in use"):
            other.serve_control(path)
    assert not path.exists()


def test_metrics_count_what_moved(pair: Pair, tmp_path: Path) -> None:
    guests(pair)
    address = pair.source.serve_control(tmp_path / "c.sock", metrics_listen="127.0.0.1:0")
    report = pair.source.migrate("vm", pair.to).wait(WAIT_S)
    metrics = {metric["name"]: metric for metric in pair.source.metrics()}
    values = [
        series["value"]
        for metric in metrics.values()
        for series in metric["series"]
        if "value" in series
    ]
    assert report.wire_bytes in values
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    assert text.rstrip().endswith("# EOF")
    assert str(report.wire_bytes) in text


def test_the_command_line_migrates(pair: Pair, tmp_path: Path) -> None:
    guests(pair)
    socket = tmp_path / "control.sock"
    pair.source.serve_control(socket)
    done = cli(socket, "--json", "migrate", "vm", "--to", pair.to)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.strip().splitlines()[-1])
    assert last["status"] == "DWCP_OK"
    assert pair.source.migration(last["id"]).report() == dwcp.Report.from_dict(last)


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    assert cli(tmp_path / "none.sock", "status").returncode == 3
    assert cli(tmp_path / "none.sock", "nonsense").returncode == 2
    assert cli(tmp_path / "none.sock", "--help").returncode == 0
