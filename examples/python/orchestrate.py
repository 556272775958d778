#!/usr/bin/env python3
"""Starts two nodes, moves a running guest from one to the other, and home again.

Without arguments the guests live in this process: a thread writes memory all the while, and at the
end every byte is compared. With `--hypervisor PATH` two processes of the example hypervisor
(examples/c) do the same with a virtual machine, and this script reads their reports.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dwcp

MIB = 2**20


class Writer(threading.Thread):
    """Keeps writing one guest until it moves away, and remembers every byte."""

    def __init__(self, guest: dwcp.BufferGuest, expected: bytearray) -> None:
        super().__init__(name="writer")
        self.guest = guest
        self.expected = expected
        self.writes = 0
        self._enough = threading.Event()

    def run(self) -> None:
        """Writes 4 KiB at a random place, a thousand times a second."""
        source = random.Random(1)
        while not self._enough.wait(0.001):
            offset = source.randrange(0, len(self.expected) - 4096)
            data = source.randbytes(4096)
            try:
                self.guest.write(offset, data)
            except dwcp.StateError:
                return  # Moved: this write never happened.
            self.expected[offset : offset + 4096] = data
            self.writes += 1

    def stop(self) -> None:
        """Ends the thread."""
        self._enough.set()
        self.join()


def show(progress: dwcp.Progress) -> None:
    """One line for a snapshot."""
    print(
        f"  {progress.phase:12} pass {progress.pass_number}  "
        f"left {progress.remaining_pages:6} pages  sent {progress.wire_bytes / MIB:7.1f} MiB",
        file=sys.stderr,
    )


def move(
    source: dwcp.Node,
    destination: dwcp.Node,
    guest: dwcp.BufferGuest,
    expected: bytearray,
    options: dict[str, Any],
) -> tuple[dwcp.Report, dwcp.BufferGuest]:
    """Moves the guest while it is written; its report, and the guest that runs now."""
    arrived = dwcp.BufferGuest(bytearray(len(expected)))
    source.add_source("guest", guest)
    destination.add_destination("guest", arrived)
    writer = Writer(guest, expected)
    writer.start()
    try:
        assert destination.listen_address is not None
        migration = source.migrate("guest", destination.listen_address, **options)
        for progress in migration:
            show(progress)
        report = migration.wait()
    finally:
        writer.stop()
    # The other side ends a moment later; then the guest can be registered there for the way back.
    destination.migration(migration.id).wait()
    if arrived.read(0, len(expected)) != expected:
        raise SystemExit("the guest's memory changed on the way")
    print(f"  moved after {writer.writes} writes; every byte is right", file=sys.stderr)
    return report, arrived


def in_process(memory_mib: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """There and back between two nodes of this process."""
    expected = bytearray(random.Random(0).randbytes(memory_mib * MIB))
    guest = dwcp.BufferGuest(bytearray(expected), running=True)
    with (
        dwcp.Node(name="home", listen="127.0.0.1:0", plain=True) as home,
        dwcp.Node(name="away", listen="127.0.0.1:0", plain=True) as away,
    ):
        print("there:", file=sys.stderr)
        there, guest = move(home, away, guest, expected, options)
        print("and back:", file=sys.stderr)
        back, guest = move(away, home, guest, expected, options)
    return [there.to_dict(), back.to_dict()]


def free_address() -> str:
    """An address of the loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def with_hypervisor(given: argparse.Namespace) -> list[dict[str, Any]]:
    """There and back between two processes of the example hypervisor."""
    program, timeout_s = given.hypervisor, given.timeout_s
    home, away = free_address(), free_address()
    common = ["--memory-mib", str(given.memory_mib), "--json"]
    common += ["--streams", str(given.streams), "--codec", given.codec]
    commands = [
        [str(program), "destination", "--listen", away, "--return", home, *common],
        [str(program), "source", "--listen", home, "--to", away, "--await-return", *common],
    ]
    processes = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in commands]
    try:
        outputs = [process.communicate(timeout=timeout_s)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for command, process in zip(commands, processes, strict=True):
        if process.returncode:
            raise SystemExit(f"{command[1]} ended with {process.returncode}")
    return [json.loads(output) for output in outputs]


def main() -> None:
    """Runs the example and prints the reports as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--hypervisor", type=Path, help="the built examples/c hypervisor")
    parser.add_argument("--memory-mib", type=int, default=32, help="guest memory (32)")
    parser.add_argument("--streams", type=int, default=4, help="data streams (4)")
    parser.add_argument("--codec", default="lz4", help="none, lz4, zstd or zstd:LEVEL (lz4)")
    parser.add_argument("--timeout-s", type=float, default=120, help="of the hypervisors (120)")
    given = parser.parse_args()
    if given.hypervisor:
        if not given.hypervisor.is_file():
            parser.error(f"--hypervisor: there is no {given.hypervisor}")
        reports = with_hypervisor(given)
    else:
        options = {"streams": given.streams, "codec": given.codec}
        reports = in_process(given.memory_mib, options)
    print(json.dumps(reports, indent=2))


if __name__ == "__main__":
    main()
