"""Real migrations in this process, over the loopback."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import MIB, WAIT_S, Pair, Writer, random_memory

import dwcp


def move(
    pair: Pair, source: dwcp.SourceGuest, destination: dwcp.DestinationGuest, **options: Any
) -> dwcp.Migration:
    pair.source.add_source("vm", source)
    pair.destination.add_destination("vm", destination)
    return pair.source.migrate("vm", pair.to, **options)


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd", "zstd:3"])
@pytest.mark.parametrize("streams", [1, 3])
def test_a_guest_moves_while_it_is_written(pair: Pair, codec: str, streams: int) -> None:
    size = 8 * MIB
    source = dwcp.BufferGuest(random_memory(size), running=True, device_state=b"cpu state")
    destination = dwcp.BufferGuest(bytearray(size))
    with Writer(source, size) as writer:
        report = move(pair, source, destination, codec=codec, streams=streams).wait(WAIT_S)
    assert writer.failure is None
    assert destination.read(0, size) == writer.expected()
    assert (source.state, destination.state) == ("gone", "running")
    assert destination.device_state == b"cpu state"
    check_report(report, size)


def check_report(report: dwcp.Report, size: int) -> None:
    assert report.ok
    assert (report.owner, report.side, report.ram_bytes) == ("destination", "source", size)
    assert report.zero_pages >= size // 4096 // 8
    assert report.full_pages >= size // 4096 // 2
    assert report.passes == len(report.pass_details) >= 2
    assert 0 < report.downtime_ms <= report.total_ms
    assert len(report.digest) == 32
    assert {"connect", "precopy", "final_pass"} <= set(report.phases)


def test_both_sides_report_the_same(pair: Pair) -> None:
    source = dwcp.BufferGuest(random_memory(MIB), running=True)
    migration = move(pair, source, dwcp.BufferGuest(bytearray(MIB)))
    report = migration.wait(WAIT_S)
    incoming = pair.destination.migration(migration.id)
    other = incoming.wait(WAIT_S)
    assert (other.id, other.digest, other.side) == (report.id, report.digest, "destination")
    assert pair.source.guests() == pair.destination.guests() == []
    assert [each.id for each in pair.source.migrations()] == [migration.id]


def test_there_and_back(pair: Pair) -> None:
    with dwcp.Node(listen="127.0.0.1:0", plain=True) as home:
        assert home.listen_address is not None
        first = dwcp.BufferGuest(random_memory(MIB), running=True)
        second = dwcp.BufferGuest(bytearray(MIB))
        third = dwcp.BufferGuest(bytearray(MIB))
        out = move(pair, first, second)
        out.wait(WAIT_S)
        # The destination's registration ends with its own side of the migration.
        pair.destination.migration(out.id).wait(WAIT_S)
        second.write(5000, b"written away from home")
        home.add_destination("vm", third)
        pair.destination.add_source("vm", second)
        pair.destination.migrate("vm", home.listen_address).wait(WAIT_S)
        assert third.read(5000, 22) == b"written away from home"
        assert third.wait_running(WAIT_S)


def test_progress_goes_on_to_the_end(pair: Pair) -> None:
    source = dwcp.BufferGuest(random_memory(2 * MIB), running=True)
    migration = move(
        pair, source, dwcp.BufferGuest(bytearray(2 * MIB)), codec="none",
        bandwidth_limit_bytes_per_s=4 * MIB,
    )
    seen = list(migration.watch(interval_s=0.02))
    assert len(seen) > 3
    assert seen[-1].phase == "ended"
    assert [each.elapsed_us for each in seen] == sorted(each.elapsed_us for each in seen)
    assert seen[-1].wire_bytes >= seen[0].wire_bytes
    assert all(0 <= each.pass_fraction <= 1 for each in seen)


def test_a_wait_that_is_too_short_raises_and_harms_nothing(pair: Pair) -> None:
    source = dwcp.BufferGuest(random_memory(MIB), running=True)
    migration = move(
        pair, source, dwcp.BufferGuest(bytearray(MIB)), codec="none",
        bandwidth_limit_bytes_per_s=MIB,
    )
    with pytest.raises(TimeoutError, match="'vm' is in phase") as caught:
        migration.wait(0.01)
    assert isinstance(caught.value, dwcp.DwcpError)
    assert migration.report() is None
    migration.set_bandwidth_limit(None)
    assert migration.wait(WAIT_S).ok


def test_cancel_leaves_the_guest_at_the_source(pair: Pair) -> None:
    source = dwcp.BufferGuest(random_memory(4 * MIB), running=True)
    destination = dwcp.BufferGuest(bytearray(4 * MIB))
    migration = move(pair, source, destination, codec="none", bandwidth_limit_bytes_per_s=MIB)
    migration.cancel()
    with pytest.raises(dwcp.CancelledError) as caught:
        migration.wait(WAIT_S)
    assert caught.value.report is not None
    assert caught.value.report.owner == migration.owner == "source"
    assert not migration.wait(check=False).ok
    source.write(0, b"still running")
    assert (source.state, destination.state) == ("running", "empty")


def test_nobody_listening_is_a_connection_error(pair: Pair) -> None:
    pair.source.add_source("vm", dwcp.BufferGuest(random_memory(MIB), running=True))
    with dwcp.Node(listen="127.0.0.1:0", plain=True) as gone:
        to = gone.listen_address
    assert to is not None
    migration = pair.source.migrate("vm", to, reconnect_timeout_s=0.3)
    with pytest.raises(ConnectionError):
        migration.wait(WAIT_S)


def test_a_guest_that_is_not_expected_is_refused(pair: Pair) -> None:
    pair.source.add_source("vm", dwcp.BufferGuest(random_memory(MIB), running=True))
    with pytest.raises(dwcp.DwcpError, match="vm"):
        pair.source.migrate("vm", pair.to).wait(WAIT_S)


def test_layouts_must_be_equal(pair: Pair) -> None:
    source = dwcp.BufferGuest(random_memory(MIB), running=True)
    migration = move(pair, source, dwcp.BufferGuest(bytearray(2 * MIB)))
    with pytest.raises(dwcp.LayoutMismatchError):
        migration.wait(WAIT_S)
    assert source.state == "running"


def test_several_regions_move(pair: Pair) -> None:
    first, second = random_memory(MIB, seed=2), random_memory(MIB, seed=3)
    source = dwcp.BufferGuest({"low": first, "high": second}, running=True)
    destination = dwcp.BufferGuest({"low": bytearray(MIB), "high": bytearray(MIB)})
    move(pair, source, destination).wait(WAIT_S)
    assert [destination.read(0, MIB, region=r) for r in (0, 1)] == [first, second]


def test_a_second_migration_of_the_guest_is_busy(pair: Pair) -> None:
    source = dwcp.BufferGuest(random_memory(MIB), running=True)
    migration = move(
        pair, source, dwcp.BufferGuest(bytearray(MIB)), bandwidth_limit_bytes_per_s=MIB
    )
    with pytest.raises(dwcp.BusyError, match="vm"):
        pair.source.migrate("vm", pair.to)
    migration.cancel()
    migration.wait(WAIT_S, check=False)
