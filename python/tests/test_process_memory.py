"""Guests whose writes the kernel tracks, where it can."""

from __future__ import annotations

import mmap
import random
import threading
from collections.abc import Sequence

import pytest
from conftest import MIB, WAIT_S, Pair

import dwcp

SIZE = 4 * MIB


class Machine(dwcp.ProcessMemoryGuest):
    """Memory that a thread writes directly, telling nobody."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, SIZE)
        self.memory[:] = random.Random(3).randbytes(SIZE)
        self.running = threading.Lock()
        self.gone = threading.Event()
        self.writes = 0

    @property
    def regions(self) -> Sequence[dwcp.Region]:
        return [dwcp.Region("ram", self.memory)]

    def run(self) -> None:
        source = random.Random(4)
        while not self.gone.wait(0.0005):
            with self.running:
                at = source.randrange(0, SIZE - 64)
                self.memory[at : at + 64] = source.randbytes(64)
                self.writes += 1

    def pause(self) -> None:
        self.running.acquire()

    def resume(self) -> None:
        self.running.release()

    def save_device_state(self) -> bytes:
        return self.writes.to_bytes(8, "little")

    def finish(self, keep: bool) -> None:
        if not keep:
            self.gone.set()
            self.running.release()


def tracked() -> bool:
    try:
        dwcp.kernel_tracking()
    except dwcp.UnsupportedError:
        return False
    return True


@pytest.mark.skipif(not tracked(), reason="the kernel cannot track; the other test holds then")
def test_writes_that_nobody_logs_arrive(pair: Pair) -> None:
    source, destination = Machine(), dwcp.BufferGuest(bytearray(SIZE))
    pair.source.add_process_memory_source("vm", source)
    pair.destination.add_destination("vm", destination)
    thread = threading.Thread(target=source.run)
    thread.start()
    try:
        rate = 16 * MIB
        migration = pair.source.migrate(
            "vm", pair.to, codec="none", bandwidth_limit_bytes_per_s=rate
        )
        report = migration.wait(WAIT_S)
        assert report.pass_details[1].pages > 0
        assert source.gone.wait(WAIT_S)
    finally:
        source.gone.set()
        thread.join()
    writes = int.from_bytes(destination.device_state, "little")
    assert writes == replay(destination.read(0, SIZE))


def replay(image: bytes) -> int:
    """How many of the machine's writes make exactly this memory."""
    memory = bytearray(random.Random(3).randbytes(SIZE))
    source, writes = random.Random(4), 0
    while memory != image:
        at = source.randrange(0, SIZE - 64)
        memory[at : at + 64] = source.randbytes(64)
        writes += 1
        assert writes < 100_000, "the image is at no moment the machine's memory"
    return writes


@pytest.mark.skipif(tracked(), reason="the kernel can track; the other test holds then")
def test_a_kernel_that_cannot_is_named(pair: Pair) -> None:
    with pytest.raises(dwcp.UnsupportedError, match=r"6\.7|userfaultfd|pagemap"):
        pair.source.add_process_memory_source("vm", Machine())
    assert pair.source.guests() == []
