"""Guests of unmodified QEMUs: what is refused, and one that is taken on and moved."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import WAIT_S, Pair

import dwcp

QEMU = "qemu-system-x86_64"


@contextmanager
def machine(folder: Path, *more: str) -> Iterator[Path]:
    """A QEMU without a disk; its QMP socket."""
    qmp = folder / "qmp.sock"
    options = ["-M", "pc", "-m", "64", "-S", "-nodefaults", "-display", "none"]
    address = f"unix:{qmp},server=on,wait=off"
    with subprocess.Popen([QEMU, *options, "-qmp", address, *more]) as process:
        try:
            end_s = time.monotonic() + WAIT_S
            while not qmp.exists():
                assert time.monotonic() < end_s
                time.sleep(0.02)
            yield qmp
        finally:
            process.kill()


def test_a_missing_socket_is_named(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(dwcp.DwcpConnectionError, match="none\\.sock"):
        pair.source.attach_qemu("vm", tmp_path / "none.sock")
    assert pair.source.guests() == []


def test_a_socket_of_something_else_is_refused(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "mail.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def talk() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(b"220 mail.example\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(dwcp.InvalidArgumentError, match="no QMP socket.*220 mail"):
            pair.source.attach_qemu("vm", str(path))
        thread.join()


@pytest.mark.skipif(shutil.which(QEMU) is None, reason="QEMU is not installed")
def test_a_guest_moves_between_two_qemus(pair: Pair, tmp_path: Path) -> None:
    folders = [tmp_path / "from", tmp_path / "to"]
    for folder in folders:
        folder.mkdir()
    incoming = ("-incoming", "defer")
    with machine(folders[0]) as source, machine(folders[1], *incoming) as destination:
        with pytest.raises(dwcp.StateError, match="prelaunch"):
            pair.source.attach_qemu("vm", source, incoming=True)
        pair.source.attach_qemu("vm", source)
        pair.destination.attach_qemu("vm", destination, True)
        assert pair.destination.guests() == [dwcp.GuestInfo("vm", "destination", 64 << 20, None)]
        report = pair.source.migrate("vm", pair.to, multifd_channels=2).wait(WAIT_S)
        assert report.ok
        # Most of a guest that never ran is zero, and QEMU says so.
        assert report.zero_pages > 60 * 256
        assert pair.source.guests() == []


@pytest.mark.skipif(shutil.which(QEMU) is None, reason="QEMU is not installed")
def test_a_node_keeps_pages_of_a_guest_that_left_unless_told_not_to(tmp_path: Path) -> None:
    folders = [tmp_path / "from", tmp_path / "to"]
    for folder in folders:
        folder.mkdir()
    with (
        dwcp.Node(name="keeps", held_bytes=2**20, plain=True) as source,
        dwcp.Node(name="forgets", listen="127.0.0.1:0", hold_departed_guests=False, plain=True) as target,
        machine(folders[0]) as qmp,
        machine(folders[1], "-incoming", "defer") as destination,
    ):
        source.attach_qemu("vm", qmp)
        target.attach_qemu("vm", destination, True)
        assert target.listen_address is not None
        assert source.migrate("vm", target.listen_address).wait(WAIT_S).ok
        end_s = time.monotonic() + WAIT_S
        # They are written down some time after the guest has left.
        while (kept_bytes := source.clear_held("vm")) == 0:
            assert time.monotonic() < end_s
            time.sleep(0.02)
        assert kept_bytes <= 2**20
        assert target.clear_held() == 0


@pytest.mark.skipif(shutil.which(QEMU) is None, reason="QEMU is not installed")
def test_a_guest_is_attached_over_a_control_socket(pair: Pair, tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    pair.source.serve_control(control)
    remote = dwcp.connect(control)
    with machine(tmp_path) as qmp:
        vm = remote.attach_qemu("vm", qmp)
        assert vm["role"] == "source"
        assert remote.vms() == [vm]
        status = remote.vm_status("vm")
        assert (status["state"], status["running"]) == ("prelaunch", False)
        with pytest.raises(dwcp.AlreadyExistsError, match="vm"):
            remote.attach_qemu("twin", qmp)
        remote.detach_qemu("vm")
    assert remote.vms() == []
