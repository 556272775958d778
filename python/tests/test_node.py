"""Nodes without a migration: names, addresses, guests, events."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from conftest import Pair

import dwcp


def test_a_node_says_where_it_listens() -> None:
    with dwcp.Node(name="n", listen="127.0.0.1:0", plain=True) as node:
        assert node.name == "n"
        assert node.listen_address is not None
        host, port = node.listen_address.rsplit(":", 1)
        assert host == "127.0.0.1"
        assert int(port) > 0
        assert node.listen_address in repr(node)


def test_a_node_may_have_no_listener() -> None:
    with dwcp.Node(plain=True) as node:
        assert node.listen_address is None
        assert node.name


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1", "127.0.0.1:99999", ""])
def test_bad_addresses_are_named(listen: str) -> None:
    with pytest.raises(dwcp.InvalidArgumentError, match="listen address"):
        dwcp.Node(listen=listen, plain=True)


def test_a_port_in_use_is_an_os_error() -> None:
    with dwcp.Node(listen="127.0.0.1:0", plain=True) as node, pytest.raises(OSError, match="cannot listen"):
        dwcp.Node(listen=node.listen_address, plain=True)


def test_a_limit_of_held_pages_that_is_too_low_is_named() -> None:
    with pytest.raises(dwcp.InvalidArgumentError, match="held_bytes is 1048575"):
        dwcp.Node(held_bytes=2**20 - 1, plain=True)
    dwcp.Node(held_bytes=0, hold_departed_guests=False, plain=True).stop()


def test_a_state_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(dwcp.StateFileError, match=str(path)):
        dwcp.Node(state_dir=path, plain=True)


def test_guests_are_listed_and_removed(pair: Pair) -> None:
    pair.source.add_source("vm", dwcp.BufferGuest(bytearray(8192), running=True))
    assert pair.source.guests() == [dwcp.GuestInfo("vm", "source", 8192, None)]
    with pytest.raises(dwcp.AlreadyExistsError, match="vm"):
        pair.source.add_source("vm", dwcp.BufferGuest(bytearray(8192), running=True))
    pair.source.remove_guest("vm")
    assert pair.source.guests() == []
    with pytest.raises(KeyError, match="vm"):
        pair.source.remove_guest("vm")


@pytest.mark.parametrize("name", ["", "x" * 200, "a\nb"])
def test_bad_guest_names_are_refused(pair: Pair, name: str) -> None:
    with pytest.raises(dwcp.InvalidArgumentError):
        pair.source.add_source(name, dwcp.BufferGuest(bytearray(4096), running=True))


def test_a_guest_that_lacks_a_method_is_refused(pair: Pair) -> None:
    class Lame:
        regions = [dwcp.Region("ram", bytearray(4096))]

        def pause(self) -> None: ...

    guest: Any = Lame()
    with pytest.raises(TypeError, match=r"Lame.* lacks method load_device_state\(\)"):
        pair.destination.add_destination("vm", guest)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"streams": 0}, "streams is 0"),
        ({"streams": 65}, "streams is 65"),
        ({"streams": -1}, "streams is -1"),
        ({"streams": 70_000}, "streams is 70000"),
        ({"codec": "zip"}, "zip"),
        ({"codec": "zstd:99"}, "99"),
        ({"max_downtime_ms": -1.0}, "max_downtime_ms"),
        ({"deadline_s": float("nan")}, "deadline_s is NaN"),
        ({"deadline_s": float("inf")}, "deadline_s is inf"),
        ({"streams": 2**70}, "streams is 1180591620717411303424"),
        ({"bandwidth_limit_bytes_per_s": 9}, "9 bytes/s"),
        ({"bandwidth_limit_bytes_per_s": -9}, "bandwidth_limit_bytes_per_s is -9"),
        ({"multifd_channels": -1}, "multifd_channels is -1"),
        ({"multifd_channels": 17}, "multifd_channels is 17"),
        ({"multifd_channels": 300}, "multifd_channels is 300"),
        ({"multifd_channels": 1}, "registered by a hypervisor"),
        ({"post_copy": "always"}, "always"),
    ],
)
def test_bad_options_are_named(pair: Pair, options: dict[str, Any], text: str) -> None:
    pair.source.add_source("vm", dwcp.BufferGuest(bytearray(4096), running=True))
    with pytest.raises(ValueError, match=text):
        pair.source.migrate("vm", pair.to, **options)


def test_unknown_things_are_lookup_errors(pair: Pair) -> None:
    with pytest.raises(dwcp.NotFoundError, match="vm9"):
        pair.source.migrate("vm9", pair.to)
    with pytest.raises(dwcp.NotFoundError, match="00" * 16):
        pair.source.migration("00" * 16)
    with pytest.raises(ValueError, match="not 32 hexadecimal digits"):
        pair.source.migration("xyz")


def test_a_destination_cannot_be_migrated(pair: Pair) -> None:
    pair.source.add_destination("vm", dwcp.BufferGuest(bytearray(4096)))
    with pytest.raises(dwcp.StateError, match="destination"):
        pair.source.migrate("vm", pair.to)


def test_a_stopped_node_refuses_and_stops_again() -> None:
    node = dwcp.Node(listen="127.0.0.1:0", plain=True)
    node.stop()
    node.stop()
    with pytest.raises(dwcp.StateError, match="stopped"):
        node.add_source("vm", dwcp.BufferGuest(bytearray(4096), running=True))


def test_events_tell_what_happened(pair: Pair) -> None:
    pair.source.add_source("vm", dwcp.BufferGuest(bytearray(4096), running=True))
    events = list(pair.source.events())
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert "node_started" in {event.event for event in events}
    added = list(pair.source.events(filter="guest_changed"))
    assert [(event.guest, event.details["role"]) for event in added] == [("vm", "source")]
    assert list(pair.source.events(after=events[-1].sequence)) == []


def test_followed_events_end_with_the_node() -> None:
    node = dwcp.Node(plain=True)
    stream = node.events(follow=True)
    node.stop()
    assert [event.event for event in stream][-1] == "node_stopped"


def test_a_forgotten_node_is_stopped_and_freed() -> None:
    node = dwcp.Node(listen="127.0.0.1:0", plain=True)
    guest = dwcp.BufferGuest(bytearray(4096))
    node.add_destination("vm", guest)
    address, seen = node.listen_address, weakref.ref(guest)
    del node, guest
    gc.collect()
    assert seen() is None
    with dwcp.Node(listen=address, plain=True) as again:
        assert again.listen_address == address
