"""The software dirty log."""

from __future__ import annotations

import sys
import threading

import pytest

import dwcp


def bits(bitmap: bytes) -> set[int]:
    return {8 * at + bit for at, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1}


def test_marks_are_taken_once() -> None:
    log = dwcp.DirtyLog(100 * 4096)
    log.mark(4095, 2)
    log.mark(64 * 4096, 1)
    log.mark(99 * 4096, 4096)
    log.mark(0, 0)
    assert (len(log), log.pages, log.page_bytes) == (4, 100, 4096)
    taken = log.take()
    assert len(taken) == 13
    assert bits(taken) == {0, 1, 64, 99}
    assert bits(log.take()) == set()


@pytest.mark.parametrize(("offset", "length"), [(8192, 1), (0, 8193), (2**64 - 1, 2)])
def test_marks_past_the_end_are_refused(offset: int, length: int) -> None:
    with pytest.raises(dwcp.InvalidArgumentError, match="past the end"):
        dwcp.DirtyLog(8192).mark(offset, length)


@pytest.mark.parametrize(("length", "page"), [(0, 4096), (4097, 4096), (4096, 0)])
def test_odd_sizes_are_refused(length: int, page: int) -> None:
    with pytest.raises(dwcp.InvalidArgumentError, match=str(length)):
        dwcp.DirtyLog(length, page)


def test_a_log_of_absurd_size_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(dwcp.LimitError, match="pages"):
        dwcp.DirtyLog(2**60, 64)


def test_no_mark_is_lost_between_threads() -> None:
    log = dwcp.DirtyLog(4096 * 1000)
    seen: set[int] = set()
    done = threading.Event()

    def reader() -> None:
        while not done.is_set():
            seen.update(bits(log.take()))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread = threading.Thread(target=reader)
        thread.start()
        for page in range(1000):
            log.mark(page * 4096, 1)
        done.set()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert seen | bits(log.take()) == set(range(1000))
