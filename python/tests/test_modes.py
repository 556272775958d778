"""Modes of peers: named, found out, forced, forgotten; probes and tests of paths."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Pair

import dwcp

NOBODY = "127.0.0.1:1"


def test_a_peer_is_found_out_and_forgotten(pair: Pair) -> None:
    found = pair.source.detect_mode(pair.to)
    assert (found.peer, found.mode, found.forced, found.failure) == (pair.to, "hybrid", None, None)
    assert found.rtt_us is not None
    assert found.min_rtt_us is not None
    assert 0 < found.min_rtt_us <= found.rtt_us
    assert found.silent_us is not None
    assert [peer.peer for peer in pair.source.peers()] == [pair.to]
    assert pair.source.peer(pair.to).switches == 0
    pair.source.remove_peer(pair.to)
    assert pair.source.peers() == []
    with pytest.raises(dwcp.NotFoundError, match=pair.to):
        pair.source.peer(pair.to)
    with pytest.raises(KeyError, match=pair.to):
        pair.source.remove_peer(pair.to)


def test_a_peer_that_does_not_answer_is_told_of(pair: Pair) -> None:
    pair.source.add_peer(NOBODY)
    found = pair.source.detect_mode(NOBODY)
    assert found.failure is not None
    assert "refused" in found.failure
    assert (found.rtt_us, found.measured, found.silent_us) == (None, None, None)
    with pytest.raises(ConnectionError, match=f"{NOBODY}: Connection refused"):
        pair.source.probe_peer(NOBODY, 1)
    with pytest.raises(ConnectionError, match="refused"):
        pair.source.test_transport(NOBODY, duration_s=0.1)


def test_a_peer_in_use_is_not_forgotten(pair: Pair) -> None:
    memory = bytearray(bytes(range(256)) * 4096)
    pair.source.add_source("vm", dwcp.BufferGuest(memory, running=True))
    pair.destination.add_destination("vm", dwcp.BufferGuest(bytearray(len(memory))))
    migration = pair.source.migrate(
        "vm", pair.to, codec="none", bandwidth_limit_bytes_per_s=1 << 18
    )
    while not any(peer.is_in_use for peer in pair.source.peers()):
        assert migration.report() is None
    assert pair.source.peer(pair.to).congestion in {"bbr", "cubic", "reno"}
    with pytest.raises(dwcp.BusyError, match=pair.to):
        pair.source.remove_peer(pair.to)
    migration.cancel()


def test_probes_are_timed(pair: Pair) -> None:
    series = pair.source.probe_peer(pair.to, 3)
    assert len(series.answers_us) == 3
    assert series.min_rtt_us is not None
    assert 0 < series.min_rtt_us <= min(series.answers_us)
    for count in (0, 65, -1, 2**40, 2**70):
        with pytest.raises(ValueError, match=f"count is {count}; it must be 1 to 64"):
            pair.source.probe_peer(pair.to, count)


def test_modes_are_forced_and_released(pair: Pair) -> None:
    node = pair.source
    node.set_mode("internet", NOBODY)
    assert (node.peer(NOBODY).mode, node.peer(NOBODY).forced) == ("internet", "internet")
    node.set_mode("datacenter")
    assert node.peer(NOBODY).mode == "internet"
    node.set_mode("auto", NOBODY)
    assert (node.peer(NOBODY).mode, node.peer(NOBODY).forced) == ("datacenter", None)
    assert node.transport().mode == "datacenter"
    node.set_mode("auto")
    assert node.peer(NOBODY).mode == "hybrid"
    causes = [event.details["cause"] for event in node.events(filter="mode_transition")]
    assert causes == ["forced", "forced", "released"]
    with pytest.raises(ValueError, match="lan"):
        node.set_mode("lan")


def test_transport_options_are_kept(pair: Pair) -> None:
    node = pair.source
    assert node.transport() == dwcp.TransportOptions()
    options = dwcp.TransportOptions(
        mode="internet", allow_datacenter=False, allow_internet=True, congestion="system",
        datacenter_streams=1, internet_streams=2, datacenter_rtt_us=3, internet_rtt_us=4,
        internet_jitter_us=5, datacenter_loss_ppm=6, fast_rate_bytes_per_s=7,
    )  # fmt: skip
    node.set_transport(options)
    assert node.transport() == options
    node.add_peer(NOBODY)
    assert node.peer(NOBODY).mode == "internet"
    node.set_transport(replace(options, mode="auto"))
    assert node.peer(NOBODY).mode == "hybrid"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "fast"}, "fast"),
        ({"congestion": "vegas"}, "vegas"),
        ({"datacenter_streams": 0}, "datacenter_streams is 0"),
        ({"internet_streams": 65}, "internet_streams is 65"),
        ({"internet_streams": 2**20}, "internet_streams is 1048576"),
        ({"datacenter_streams": 2**70}, "datacenter_streams is 1180591620717411303424"),
        ({"datacenter_rtt_us": -1}, "datacenter_rtt_us is -1; it must be 0 to 4294967295"),
        ({"internet_rtt_us": 2**32}, "internet_rtt_us is 4294967296"),
        ({"internet_jitter_us": -(2**70)}, "internet_jitter_us is -1180591620717411303424"),
        ({"datacenter_loss_ppm": 10**5000}, "datacenter_loss_ppm is a number too long to print"),
        ({"fast_rate_bytes_per_s": 2**64}, "fast_rate_bytes_per_s is 18446744073709551616"),
    ],
)
def test_bad_options_are_named(pair: Pair, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pair.source.set_transport(dwcp.TransportOptions(**options))
    assert pair.source.transport() == dwcp.TransportOptions()


def test_path_options_are_kept(pair: Pair) -> None:
    node = pair.source
    assert node.paths() == dwcp.PathOptions()
    options = dwcp.PathOptions(
        bandwidth_limit_bytes_per_s=65536,
        pacing=False,
        dscp=63,
        source_addresses=("127.0.0.1", "::1"),
    )
    node.set_paths(options)
    assert node.paths() == options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bandwidth_limit_bytes_per_s": 0}, "bandwidth_limit_bytes_per_s is 0"),
        ({"bandwidth_limit_bytes_per_s": -(2**70)}, "bandwidth_limit_bytes_per_s is -1180591"),
        ({"dscp": 64}, "dscp is 64; it must be 0 to 63"),
        ({"source_addresses": ("127.0.0.1", "eth0")}, "eth0"),
        ({"source_addresses": ("127.0.0.1",) * 9}, "9 source addresses"),
    ],
)
def test_bad_path_options_are_named(pair: Pair, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pair.source.set_paths(dwcp.PathOptions(**options))
    assert pair.source.paths() == dwcp.PathOptions()


def test_rdma_is_off_until_it_is_wanted(pair: Pair) -> None:
    node = pair.source
    assert node.rdma() == dwcp.RdmaOptions()
    assert not node.rdma().enabled
    options = dwcp.RdmaOptions(enabled=True, max_memory_bytes=1 << 30)
    node.set_rdma(options)
    assert node.rdma() == options
    with pytest.raises(ValueError, match="max_memory_bytes is 0"):
        node.set_rdma(dwcp.RdmaOptions(max_memory_bytes=0))
    assert node.rdma() == options


def test_a_test_tells_what_a_path_carries(pair: Pair) -> None:
    told = pair.source.test_transport(pair.to, mode="internet", streams=2, duration_s=0.2)
    assert (told.peer, told.mode, told.streams) == (pair.to, "internet", 2)
    assert told.duration_us >= 200_000
    assert told.bytes > 0
    assert told.rate_bytes_per_s > 0
    assert told.min_rtt_us > 0
    assert told.congestion
    within = pair.destination.test_transport(duration_s=0.1)
    assert within.bytes > 0
    assert pair.destination.peers() == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"duration_s": 31}, "31s"),
        ({"duration_s": 0.0}, "0ns"),
        ({"duration_s": -1.0}, "duration_s is -1"),
        ({"streams": 0}, "streams is 0"),
        ({"streams": 2**64}, "streams is 18446744073709551616"),
        ({"mode": "v1-compat"}, "v1-compat cannot be tested"),
        ({"mode": "auto"}, "auto"),
    ],
)
def test_bad_tests_are_named(pair: Pair, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pair.source.test_transport(**options)


def test_the_matrix_has_the_rows_of_those_who_tell(tmp_path: Path) -> None:
    with (
        dwcp.Node(name="here", listen="127.0.0.1:0", plain=True) as here,
        dwcp.Node(name="there", listen="127.0.0.1:0", plain=True) as there,
    ):
        at, to = here.listen_address, there.listen_address
        assert at is not None
        assert to is not None
        here.add_peer(to)
        there.detect_mode(at)
        own, silent = here.network_matrix()
        assert (own.node, own.address, [path.peer for path in own.paths]) == ("here", None, [to])
        assert (silent.node, silent.address, silent.paths) == (None, to, ())
        assert silent.failure is not None
        assert "does not name 127.0.0.1" in silent.failure
        there.share_paths_with(["10.0.0.0/8", "127.0.0.1"])
        _, told = asyncio.run(here.network_matrix_async([to]))
        assert (told.node, told.failure, told.left_out) == ("there", None, 0)
        [path] = told.paths
        assert (path.peer, path.mode, path.rtt_us is None) == (at, "hybrid", False)
        here.serve_control(tmp_path / "s.sock")
        remote = dwcp.connect(tmp_path / "s.sock")
        assert [row.node for row in remote.network_matrix()] == ["here", "there"]
        there.share_paths_with("")
        assert remote.network_matrix([to])[1].node is None
        with pytest.raises(KeyError, match="127.0.0.1:1"):
            here.network_matrix([NOBODY])
        with pytest.raises(ValueError, match="rack2"):
            there.share_paths_with("rack2")


@pytest.mark.parametrize("peer", ["", "nowhere", "host:0", "::1:7", "a" * 300 + ":1"])
def test_bad_addresses_are_named(pair: Pair, peer: str) -> None:
    with pytest.raises(dwcp.InvalidArgumentError, match="is not HOST:PORT"):
        pair.source.add_peer(peer)


def test_a_stopped_node_looks_at_nobody() -> None:
    node = dwcp.Node(plain=True)
    node.stop()
    for call in (node.add_peer, node.detect_mode, node.probe_peer, node.test_transport):
        with pytest.raises(dwcp.StateError, match="stopped"):
            call(NOBODY)


def test_waiting_lets_other_tasks_run(pair: Pair) -> None:
    async def main() -> int:
        waits = asyncio.gather(
            pair.source.detect_mode_async(pair.to),
            pair.source.probe_peer_async(pair.to, 5),
            pair.source.test_transport_async(duration_s=0.5),
        )
        ticks = 0
        while not waits.done():
            await asyncio.sleep(0.005)
            ticks += 1
        found, series, told = await waits
        assert found.peer == pair.to
        assert len(series.answers_us) == 5
        assert told.duration_us >= 500_000
        return ticks

    assert asyncio.run(main()) > 5


def test_the_same_over_a_control_socket(pair: Pair, tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    pair.source.serve_control(control)
    remote = dwcp.connect(control)
    assert remote.peers() == []
    assert remote.detect_mode(pair.to).peer == pair.to
    assert len(remote.probe_peer(pair.to, 2).answers_us) == 2
    remote.set_mode("internet", pair.to)
    assert [(peer.peer, peer.forced) for peer in remote.peers()] == [(pair.to, "internet")]
    remote.set_mode("auto")
    told = remote.test_transport(pair.to, mode="internet", streams=1, duration_s=1)
    assert (told.peer, told.streams) == (pair.to, 1)
    with pytest.raises(dwcp.InvalidArgumentError, match="nowhere"):
        remote.detect_mode("nowhere")
