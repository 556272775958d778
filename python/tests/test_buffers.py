"""Memory through the buffer protocol: what is taken, what is refused, and that it is held."""

from __future__ import annotations

import array
import mmap
from typing import Any

import numpy
import pytest
from conftest import MIB, WAIT_S, Pair, random_memory

import dwcp


def as_bytearray(data: bytes) -> Any:
    return bytearray(data)


def as_memoryview(data: bytes) -> Any:
    return memoryview(bytearray(data))


def as_mmap(data: bytes) -> Any:
    mapped = mmap.mmap(-1, len(data))
    mapped[:] = data
    return mapped


def as_numpy(data: bytes) -> Any:
    return numpy.frombuffer(bytearray(data), dtype=numpy.uint64).reshape(16, -1)


def as_array(data: bytes) -> Any:
    return array.array("I", data)


KINDS = [as_bytearray, as_memoryview, as_mmap, as_numpy, as_array]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_every_kind_of_buffer_moves(pair: Pair, make: Any) -> None:
    content = bytes(random_memory(MIB))
    source = dwcp.BufferGuest(make(content), running=True)
    destination = dwcp.BufferGuest(make(bytes(MIB)))
    pair.source.add_source("vm", source)
    pair.destination.add_destination("vm", destination)
    pair.source.migrate("vm", pair.to).wait(WAIT_S)
    assert destination.read(0, MIB) == content


def test_a_read_only_destination_is_refused(pair: Pair) -> None:
    class Frozen(dwcp.DestinationGuest):
        regions = [dwcp.Region("ram", bytes(4096))]

        def load_device_state(self, state: bytes) -> None: ...

        def resume(self) -> None: ...

    with pytest.raises(dwcp.InvalidArgumentError, match="region \"ram\": the buffer is read-only"):
        pair.destination.add_destination("vm", Frozen())


@pytest.mark.parametrize(
    ("buffer", "text"),
    [
        (numpy.zeros((64, 128), dtype=numpy.uint8)[:, ::2], "not contiguous"),
        (bytearray(4097), "4097"),
        (bytearray(0), "0 is not a positive multiple"),
        ("text", "str.*no usable buffer"),
        (7, "int.*no usable buffer"),
    ],
    ids=["strided", "odd", "empty", "str", "int"],
)
def test_buffers_that_do_not_fit_are_named(pair: Pair, buffer: Any, text: str) -> None:
    guest = dwcp.BufferGuest(bytearray(4096))
    guest._regions = (dwcp.Region("ram", buffer),)
    with pytest.raises(dwcp.InvalidArgumentError, match=text):
        pair.destination.add_destination("vm", guest)


def test_regions_that_share_memory_are_refused(pair: Pair) -> None:
    memory = memoryview(bytearray(16384))
    guest = dwcp.BufferGuest({"a": memory[8192:], "b": memory[:12288]})
    with pytest.raises(dwcp.InvalidArgumentError, match='"b" and "a" share memory'):
        pair.destination.add_destination("vm", guest)


@pytest.mark.parametrize("page_bytes", [0, 1000, 1 << 20])
def test_page_sizes_that_do_not_fit_are_named(pair: Pair, page_bytes: int) -> None:
    guest = dwcp.BufferGuest(bytearray(4096))
    with pytest.raises(dwcp.InvalidArgumentError, match=f"page size {page_bytes}"):
        pair.destination.add_destination("vm", guest, page_bytes=page_bytes)


def test_memory_is_held_while_registered(pair: Pair) -> None:
    memory = bytearray(8192)

    class Plain(dwcp.DestinationGuest):
        regions = [dwcp.Region("ram", memory)]

        def load_device_state(self, state: bytes) -> None: ...

        def resume(self) -> None: ...

    pair.destination.add_destination("vm", Plain())
    with pytest.raises(BufferError):
        memory.clear()
    pair.destination.remove_guest("vm")
    memory.clear()
