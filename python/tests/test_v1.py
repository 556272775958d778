"""Guests that go to a v1 peer: nobody acknowledges them, so they stay here, paused."""

from __future__ import annotations

import socket
import threading

import pytest
from conftest import MIB, WAIT_S, Pair, random_memory

import dwcp


class Receiver:
    """A v1 peer: reads so many connections to their ends, and never says anything."""

    def __init__(self, streams: int) -> None:
        self.received: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._streams = streams
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def join(self) -> None:
        self._thread.join(WAIT_S)
        self._listener.close()

    def _accept(self) -> None:
        connections = [self._listener.accept()[0] for _ in range(self._streams)]
        readers = [threading.Thread(target=self._read, args=[each]) for each in connections]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()

    def _read(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            self.received.append(stream.read())


def test_a_guest_that_went_by_v1_is_in_doubt_and_stays_paused(pair: Pair) -> None:
    memory = random_memory(MIB)
    source = dwcp.BufferGuest(bytearray(memory), running=True)
    pair.source.add_source("vm", source)
    peer = Receiver(streams=2)
    migration = pair.source.migrate("vm", f"v1://{peer.address}", streams=2)
    with pytest.raises(dwcp.InDoubtError, match="acknowledges nothing"):
        migration.wait(WAIT_S)
    peer.join()
    assert migration.owner == "in_doubt"
    assert source.state == "paused"
    assert source.read(0, MIB) == bytes(memory)
    # Either connection may have carried all of it. Every chunk has the length of the whole packet.
    carried = [each for each in peer.received if each]
    assert {each[12:16] for each in carried} == {carried[0][12:16]}
    assert sum(len(each) for each in carried) > int.from_bytes(carried[0][12:16]) > MIB // 2


def test_a_public_address_is_refused(pair: Pair) -> None:
    pair.source.add_source("vm", dwcp.BufferGuest(bytearray(MIB), running=True))
    with pytest.raises(dwcp.DwcpError, match=r"8\.8\.8\.8 is a public address"):
        pair.source.migrate("vm", "v1://8.8.8.8:9876")
