"""What a guest's callbacks may do wrong, and what comes of it."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import MIB, WAIT_S, Pair, random_memory

import dwcp


class Faulty(dwcp.BufferGuest):
    """Does something else in one method."""

    def __init__(self, method: str, action: Any, running: bool) -> None:
        memory = random_memory(MIB) if running else bytearray(MIB)
        super().__init__(memory, running=running)
        self._action = action
        setattr(self, method, self._act)

    def _act(self, *arguments: object) -> Any:
        return self._action()


def fail() -> None:
    raise ZeroDivisionError("the hypervisor is on fire")


def attempt(pair: Pair, source: dwcp.BufferGuest, destination: dwcp.BufferGuest) -> dwcp.DwcpError:
    pair.source.add_source("vm", source)
    pair.destination.add_destination("vm", destination)
    with pytest.raises(dwcp.DwcpError) as caught:
        pair.source.migrate("vm", pair.to).wait(WAIT_S)
    return caught.value


@pytest.mark.parametrize("method", ["start_dirty_log", "fetch_dirty", "pause", "save_device_state"])
def test_an_exception_at_the_source_is_told_and_chained(pair: Pair, method: str) -> None:
    source = Faulty(method, fail, running=True)
    error = attempt(pair, source, dwcp.BufferGuest(bytearray(MIB)))
    assert isinstance(error, dwcp.CallbackError)
    assert method in str(error)
    assert "ZeroDivisionError: the hypervisor is on fire" in str(error)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert source.state == "running"


def test_an_exception_at_the_destination_keeps_the_guest_at_the_source(pair: Pair) -> None:
    source = dwcp.BufferGuest(random_memory(MIB), running=True)
    destination = Faulty("load_device_state", fail, running=False)
    error = attempt(pair, source, destination)
    assert "on fire" in str(error)
    assert (source.state, destination.state) == ("running", "empty")
    incoming = pair.destination.migrations()[-1]
    with pytest.raises(dwcp.CallbackError) as caught:
        incoming.wait(WAIT_S)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("method", "value", "text"),
    [
        ("fetch_dirty", b"", "0 bytes; it must have 32"),
        ("fetch_dirty", bytes(33), "33 bytes"),
        ("fetch_dirty", [1, 2], "list.*not bytes-like"),
        ("fetch_dirty", None, "NoneType.*not bytes-like"),
        ("save_device_state", "text", "str.*not bytes-like"),
    ],
)
def test_wrong_results_are_named(pair: Pair, method: str, value: Any, text: str) -> None:
    source = Faulty(method, lambda: value, running=True)
    error = attempt(pair, source, dwcp.BufferGuest(bytearray(MIB)))
    assert isinstance(error, dwcp.CallbackError)
    with pytest.raises(dwcp.CallbackError, match=text):
        raise error
    assert source.state == "running"


def test_a_second_try_has_its_own_cause(pair: Pair) -> None:
    source = Faulty("pause", fail, running=True)
    first = attempt(pair, source, dwcp.BufferGuest(bytearray(MIB)))
    source._action = lambda: dict[str, int]()["missing"]
    with pytest.raises(dwcp.CallbackError) as caught:
        pair.source.migrate("vm", pair.to).wait(WAIT_S)
    assert isinstance(first.__cause__, ZeroDivisionError)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_callback_may_ask_the_node(pair: Pair) -> None:
    seen: list[str] = []

    def look() -> None:
        seen.append(pair.source.guests()[0].name)
        seen.extend(migration.progress().phase for migration in pair.source.migrations())

    class Curious(dwcp.BufferGuest):
        def pause(self) -> None:
            look()
            super().pause()

    pair.source.add_source("vm", Curious(random_memory(MIB), running=True))
    pair.destination.add_destination("vm", dwcp.BufferGuest(bytearray(MIB)))
    assert pair.source.migrate("vm", pair.to).wait(WAIT_S).ok
    assert seen[0] == "vm"
