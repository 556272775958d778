"""The asyncio twins."""

from __future__ import annotations

import asyncio
import threading

import pytest
from conftest import MIB, WAIT_S, Pair, random_memory

import dwcp


def slow(pair: Pair, name: str = "vm", rate: int | None = 2 * MIB) -> dwcp.Migration:
    pair.source.add_source(name, dwcp.BufferGuest(random_memory(MIB), running=True))
    pair.destination.add_destination(name, dwcp.BufferGuest(bytearray(MIB)))
    return pair.source.migrate(name, pair.to, codec="none", bandwidth_limit_bytes_per_s=rate)


def test_waiting_lets_other_tasks_run(pair: Pair) -> None:
    async def main() -> int:
        migration, ticks = slow(pair), 0
        waiting = asyncio.create_task(migration.wait_async(WAIT_S))
        while not waiting.done():
            await asyncio.sleep(0.005)
            ticks += 1
        assert (await waiting).ok
        return ticks

    assert asyncio.run(main()) > 5


def test_progress_in_async_for(pair: Pair) -> None:
    async def main() -> list[str]:
        return [progress.phase async for progress in slow(pair)]

    phases = asyncio.run(main())
    assert phases[-1] == "ended"
    assert len(phases) >= 2


def test_many_waiters_need_one_thread(pair: Pair) -> None:
    async def main() -> tuple[list[dwcp.Report], int]:
        migrations = [slow(pair, f"vm{number}") for number in range(4)]
        waits = [asyncio.create_task(m.wait_async(WAIT_S)) for m in migrations for _ in range(25)]
        await asyncio.sleep(0.01)
        threads = sum(thread.name == "dwcp-events" for thread in threading.enumerate())
        return await asyncio.gather(*waits), threads

    reports, threads = asyncio.run(main())
    assert len(reports) == 100
    assert all(report.ok for report in reports)
    assert threads == 1


def test_a_timeout_raises(pair: Pair) -> None:
    async def main() -> None:
        migration = slow(pair, rate=MIB // 4)
        with pytest.raises(dwcp.DwcpTimeoutError):
            await migration.wait_async(0.05)
        migration.cancel()
        with pytest.raises(dwcp.CancelledError):
            await migration.wait_async(WAIT_S)

    asyncio.run(main())


def test_cancelling_the_task_leaves_the_migration(pair: Pair) -> None:
    async def main() -> dwcp.Migration:
        migration = slow(pair)
        waiting = asyncio.create_task(migration.wait_async())
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return migration

    assert asyncio.run(main()).wait(WAIT_S).ok


def test_events_in_async_for() -> None:
    async def main() -> list[str]:
        async with dwcp.Node(plain=True) as node:
            seen: list[str] = []

            async def follow() -> None:
                async for event in node.events(follow=True, filter=["guest_changed", "node"]):
                    seen.append(event.event)

            following = asyncio.create_task(follow())
            await asyncio.sleep(0.05)
            node.add_destination("vm", dwcp.BufferGuest(bytearray(4096)))
            await node.stop_async()
            await asyncio.wait_for(following, WAIT_S)
            return seen

    names = asyncio.run(main())
    assert names[0] == "node_started"
    assert names[-1] == "node_stopped"
    assert "guest_changed" in names
