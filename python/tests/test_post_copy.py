"""Post-copy: a guest that goes on at the destination before all of its memory is there."""

from __future__ import annotations

import mmap

import pytest
from conftest import MIB, WAIT_S, Pair, random_memory

import dwcp
from dwcp.errors import error_from_code

SIZE = 4 * MIB


def begin(pair: Pair, memory: object, post_copy: str | None) -> tuple[dwcp.Migration, bytes]:
    source = dwcp.BufferGuest(random_memory(SIZE), running=True)
    destination = dwcp.BufferGuest(memory)  # type: ignore[arg-type]
    pair.source.add_source("vm", source)
    pair.destination.add_destination("vm", destination)
    migration = pair.source.migrate(
        "vm", pair.to, codec="none", bandwidth_limit_bytes_per_s=MIB, post_copy=post_copy
    )
    return migration, source.read(0, SIZE)


def test_a_guest_reads_pages_that_are_missing_and_all_of_it_comes(pair: Pair) -> None:
    memory = mmap.mmap(-1, SIZE)
    migration, expected = begin(pair, memory, "manual")
    migration.start_post_copy()
    phases = {progress.phase for progress in migration.watch(0.01) if progress.phase != "connect"}
    report = migration.wait(WAIT_S)
    if report.status == dwcp.Status.UNSUPPORTED:
        pytest.skip(report.reason)
    assert report.ok, report.reason
    assert "post_copy" in phases
    assert report.post_copy is not None
    assert report.post_copy.missing_pages > 0
    assert report.post_copy.lost_pages == 0
    assert report.to_dict()["post_copy"]["missing_pages"] == report.post_copy.missing_pages
    arrived = pair.destination.migration(migration.id).wait(WAIT_S)
    assert arrived.digest == report.digest
    assert memory[:] == expected


def test_without_leave_there_is_no_switch(pair: Pair) -> None:
    migration, _ = begin(pair, bytearray(SIZE), None)
    with pytest.raises(dwcp.StateError, match="post_copy never"):
        migration.start_post_copy()
    with pytest.raises(dwcp.StateError, match="without all of its pages"):
        migration.abandon_post_copy()
    migration.cancel()
    report = migration.wait(WAIT_S, check=False)
    assert (report.status, report.post_copy) == (dwcp.Status.CANCELLED, None)


def test_a_loss_has_its_own_class() -> None:
    error = error_from_code(dwcp.Status.POST_COPY_LOST, "gone")
    assert isinstance(error, dwcp.PostCopyLostError)
    assert isinstance(error, dwcp.MigrationError)
