"""Ctrl-C, exits at a bad moment, and the GIL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from conftest import MIB, WAIT_S, Pair, random_memory

import dwcp

# A shell starts background jobs with SIGINT ignored, and children inherit that.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import dwcp, sys, threading, os
memory = bytearray(os.urandom(4 << 20))
source = dwcp.BufferGuest(memory, running=True)
here, there = dwcp.Node(name="a", plain=True), dwcp.Node(name="b", listen="127.0.0.1:0", plain=True)
here.add_source("vm", source)
there.add_destination("vm", dwcp.BufferGuest(bytearray(4 << 20)))
migration = here.migrate("vm", there.listen_address, codec="none", bandwidth_limit_bytes_per_s=1 << 18)
"""


def script(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "ready\n":
        process.kill()
        pytest.fail(f"not ready but {line!r}: {process.communicate()}")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=WAIT_S)
    finally:
        process.kill()


@pytest.mark.parametrize(
    "wait",
    [
        "migration.wait()",
        "list(migration)",
        "list(here.events(follow=True))",
        "import asyncio; asyncio.run(migration.wait_async())",
        "here.test_transport(duration_s=10)",
    ],
)
def test_ctrl_c_ends_the_wait_and_not_the_migration(wait: str) -> None:
    out, err = interrupt(
        script(f"""
        print("ready", flush=True)
        try:
            {wait}
        except KeyboardInterrupt:
            print(source.state, migration.report() is None, flush=True)
        here.stop(); there.stop()
        print(source.state)
        """)
    )
    assert out.split() == ["running", "True", "running"], err


def test_an_interpreter_that_exits_amid_a_migration_exits() -> None:
    process = script("print('ready', flush=True)")
    try:
        _, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")


def test_a_forked_child_exits_without_the_threads() -> None:
    process = script("""
        child = os.fork()
        if child == 0:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), migration.report() is None)
        """)
    try:
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert out.split() == ["7", "True"], err


def test_other_threads_run_while_one_waits(pair: Pair) -> None:
    pair.source.add_source("vm", dwcp.BufferGuest(random_memory(MIB), running=True))
    pair.destination.add_destination("vm", dwcp.BufferGuest(bytearray(MIB)))
    migration = pair.source.migrate(
        "vm", pair.to, codec="none", bandwidth_limit_bytes_per_s=2 * MIB
    )
    counted = 0
    done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = counted
        assert migration.wait(WAIT_S).ok
        assert counted > before + 10
    finally:
        done.set()
        thread.join()


def test_a_busy_interpreter_does_not_stop_a_migration(pair: Pair) -> None:
    pair.source.add_source("vm", dwcp.BufferGuest(random_memory(MIB), running=True))
    pair.destination.add_destination("vm", dwcp.BufferGuest(bytearray(MIB)))
    migration = pair.source.migrate("vm", pair.to)
    end = time.monotonic() + WAIT_S
    while migration.report() is None and time.monotonic() < end:
        sum(range(1000))
    assert migration.wait(0).ok


def test_signals_of_the_program_stay_its_own() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGPIPE)
    with dwcp.Node(listen="127.0.0.1:0", plain=True):
        pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGPIPE)) == before
    assert os.getpid()
