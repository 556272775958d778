"""The guest that is plain memory."""

from __future__ import annotations

import threading

import pytest

import dwcp


def test_writers_wait_while_the_guest_is_paused() -> None:
    guest = dwcp.BufferGuest(bytearray(8192), running=True)
    guest.pause()
    written = threading.Event()

    def write() -> None:
        guest.write(0, b"x")
        written.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not written.wait(0.05)
    assert guest.read(0, 1) == b"\0"
    guest.resume()
    thread.join()
    assert guest.read(0, 1) == b"x"
    assert guest.fetch_dirty(0) == b"\x01"


def test_a_guest_that_left_refuses_writes() -> None:
    guest = dwcp.BufferGuest(bytearray(4096), running=True)
    guest.finish(keep=False)
    with pytest.raises(dwcp.StateError, match="gone"):
        guest.write(0, b"x")


def test_an_empty_guest_refuses_writes_and_can_be_waited_for() -> None:
    guest = dwcp.BufferGuest(bytearray(4096))
    assert not guest.wait_running(0.01)
    with pytest.raises(dwcp.StateError, match="empty"):
        guest.write(0, b"x")
    guest.resume()
    assert guest.wait_running(0)


def test_regions_have_their_own_logs() -> None:
    guest = dwcp.BufferGuest({"a": bytearray(4096), "b": bytearray(8192)}, running=True)
    guest.write(4096, b"x", region=1)
    assert [guest.fetch_dirty(region) for region in (0, 1)] == [b"\0", b"\2"]
    assert [region.name for region in guest.regions] == ["a", "b"]


def test_a_failed_write_marks_nothing() -> None:
    guest = dwcp.BufferGuest(bytearray(4096), running=True)
    with pytest.raises(ValueError):
        guest.write(4095, b"xy")
    assert guest.fetch_dirty(0) == b"\0"
