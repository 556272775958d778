"""Nodes on the loopback, and guests that are written while they move."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import dwcp

MIB = 2**20
WAIT_S = 60.0


@dataclass
class Pair:
    """Two nodes of this process; `to` is where the second one listens."""

    source: dwcp.Node
    destination: dwcp.Node

    @property
    def to(self) -> str:
        assert self.destination.listen_address is not None
        return self.destination.listen_address


@pytest.fixture
def pair() -> Iterator[Pair]:
    with (
        dwcp.Node(name="source", plain=True) as source,
        dwcp.Node(name="destination", listen="127.0.0.1:0", plain=True) as destination,
    ):
        yield Pair(source, destination)


class Writer:
    """A thread that keeps writing a guest and remembers what memory must look like."""

    def __init__(self, guest: dwcp.BufferGuest, length_bytes: int, seed: int = 7) -> None:
        self.guest = guest
        self.writes = 0
        self.failure: BaseException | None = None
        self._expected = bytearray(guest.read(0, length_bytes))
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer")

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def expected(self) -> bytes:
        """The memory after every write that succeeded; the thread must have ended."""
        self.__exit__()
        return bytes(self._expected)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._write_once()
                self._stop.wait(0.0005)
        except dwcp.StateError:
            return  # The guest has moved: the write did not happen.
        except BaseException as error:
            self.failure = error

    def _write_once(self) -> None:
        offset = self._random.randrange(0, len(self._expected) - 64)
        data = self._random.randbytes(64)
        self.guest.write(offset, data)
        self._expected[offset : offset + 64] = data
        self.writes += 1


def random_memory(length_bytes: int, seed: int = 1) -> bytearray:
    """Memory of which every fourth page is zero and the others do not compress."""
    generator = random.Random(seed)
    memory = bytearray(generator.randbytes(length_bytes))
    for offset in range(0, length_bytes, 4 * 4096):
        memory[offset : offset + 4096] = bytes(4096)
    return memory
