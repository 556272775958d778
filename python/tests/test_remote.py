"""The client of a control socket, against answers that a daemon gives and that it must not."""

from __future__ import annotations

import asyncio
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from test_report import VALUES

import dwcp

ID = "ab" * 16
PROGRESS = {
    "phase": "precopy", "pass": 2, "ram_bytes": 8192, "pages": 2, "remaining_pages": 1,
    "wire_bytes": 9, "bandwidth_bytes_per_s": 1, "dirty_rate_bytes_per_s": 1,
    "predicted_downtime_us": 1, "elapsed_us": 5, "streams": 1, "reconnects": 0,
    "throttle_percent": 0,
}  # fmt: skip
MIGRATION: dict[str, Any] = {
    "id": ID, "guest": "vm1", "side": "source", "owner": "source", "progress": PROGRESS,
    "report": None,
}  # fmt: skip
EVENT = {"sequence": 1, "time_us": 5, "event": "notice", "text": "hello"}


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers from a table, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, list[tuple[int, bytes]]] = {}
        super().__init__(str(path), Handler)

    def answer(self, route: str, *values: Any, code: int = 200) -> None:
        self.answers[route] = [(code, json.dumps(each).encode()) for each in values]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Daemon

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body))
        waiting = self.server.answers[f"{self.command} {self.path.split('?')[0]}"]
        code, text = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = reply


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "control.sock") as server:
        server.answer("GET /v3/status", {"version": "0.1.0"})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def node_of(daemon: Daemon) -> dwcp.RemoteNode:
    return dwcp.connect(str(daemon.server_address))


def test_options_travel_with_units(daemon: Daemon) -> None:
    daemon.answer("POST /v3/migrations", MIGRATION)
    node_of(daemon).migrate(
        "vm1", "h:1", streams=2, codec="zstd:3", max_downtime_ms=0.5, deadline_s=90,
        bandwidth_limit_bytes_per_s=70_000, throttle=False, multifd_channels=2, post_copy="auto",
    )  # fmt: skip
    assert daemon.asked[-1][2] == {
        "guest": "vm1", "to": "h:1", "streams": 2, "codec": "zstd:3", "max_downtime": "500us",
        "deadline": "90000000us", "bandwidth_limit": "70000B/s", "throttle": False,
        "multifd_channels": 2, "post_copy": "auto",
    }  # fmt: skip


def test_a_migration_is_followed_to_its_end(daemon: Daemon) -> None:
    ended = {**MIGRATION, "report": VALUES, "progress": {**PROGRESS, "phase": "ended"}}
    daemon.answer("POST /v3/migrations", MIGRATION)
    daemon.answer(f"GET /v3/migrations/{ID}", MIGRATION, MIGRATION, MIGRATION, ended)
    migration = node_of(daemon).migrate("vm1", "h:1")
    phases = [progress.phase for progress in migration.watch(0.01)]
    assert phases[0] == "precopy"
    assert phases[-1] == "ended"
    assert migration.wait().to_dict() == VALUES
    assert asyncio.run(migration.wait_async()).ok


def test_a_wait_ends_in_time(daemon: Daemon) -> None:
    daemon.answer(f"GET /v3/migrations/{ID}", MIGRATION)
    migration = node_of(daemon).migration(ID)
    with pytest.raises(TimeoutError, match="phase precopy"):
        migration.wait(0.05)


def test_cancel_and_limits_reach_their_routes(daemon: Daemon) -> None:
    daemon.answer("GET /v3/migrations", {"migrations": [MIGRATION]})
    daemon.answer(f"POST /v3/migrations/{ID}/cancel", MIGRATION)
    daemon.answer(f"POST /v3/migrations/{ID}/bandwidth", {})
    [migration] = node_of(daemon).migrations()
    migration.cancel()
    migration.set_bandwidth_limit(None)
    migration.set_bandwidth_limit(99_999)
    assert [body for _, _, body in daemon.asked[-2:]] == [{"limit": "none"}, {"limit": "99999B/s"}]


def test_events_are_paged_to_the_end(daemon: Daemon) -> None:
    daemon.answer(
        "GET /v3/events",
        {"events": [EVENT], "last": 1},
        {"events": [{**EVENT, "sequence": 3}], "last": 3},
        {"events": [], "last": 4},
    )
    stream = node_of(daemon).events(filter="guest:a b")
    assert [event.sequence for event in stream] == [1, 3]
    assert stream.position == 4
    assert "filter=guest%3Aa+b" in daemon.asked[-1][1]


def test_followed_events_end_with_the_node(daemon: Daemon) -> None:
    stopped = {**EVENT, "sequence": 2, "event": "node_stopped"}
    daemon.answer("GET /v3/events", {"events": [EVENT, stopped], "last": 2})

    async def main() -> list[str]:
        return [event.event async for event in node_of(daemon).events(follow=True)]

    assert asyncio.run(main()) == ["notice", "node_stopped"]
    assert "wait_ms=1000" in daemon.asked[-1][1]


def test_the_nodes_errors_are_ours(daemon: Daemon) -> None:
    failure = {"status": "DWCP_ERR_NOT_FOUND", "message": "no guest \"vm9\""}
    daemon.answer("POST /v3/migrations", {"error": failure}, code=404)
    with pytest.raises(dwcp.NotFoundError, match="vm9"):
        node_of(daemon).migrate("vm9", "h:1")
    failure["status"] = "DWCP_ERR_FROM_THE_FUTURE"
    daemon.answer("POST /v3/migrations", {"error": failure}, code=500)
    with pytest.raises(dwcp.DwcpError) as caught:
        node_of(daemon).migrate("vm9", "h:1")
    assert caught.value.name == "DWCP_ERR_FROM_THE_FUTURE"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff"])
def test_answers_that_are_no_object_are_protocol_errors(daemon: Daemon, body: bytes) -> None:
    daemon.answers["GET /v3/guests"] = [(200, body)]
    with pytest.raises(dwcp.ProtocolError):
        node_of(daemon).guests()


def test_settings_and_logs(daemon: Daemon) -> None:
    daemon.answer("GET /v3/config/migration.streams", {"value": 4})
    daemon.answer("PUT /v3/config/migration.streams", {"changed": ["migration.streams"]})
    daemon.answer("GET /v3/logs", {"records": [{"message": "x"}], "last": 1})
    daemon.answer("GET /v3/metrics", {"metrics": []})
    node = node_of(daemon)
    assert node.config("migration.streams")["value"] == 4
    assert node.set_config("migration.streams", 8)["changed"] == ["migration.streams"]
    assert daemon.asked[-1][2] == {"value": 8}
    assert node.logs(level="warn") == [{"message": "x"}]
    assert node.metrics(component="amst") == []


def test_nobody_there_is_a_connection_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="nobody"):
        dwcp.connect(tmp_path / "nobody.sock")


def test_attached_guests_have_their_routes(daemon: Daemon) -> None:
    vm = {"name": "vm1", "role": "destination", "qmp": "/q.sock", "migration": None}
    daemon.answer("POST /v3/vms/attach", vm)
    daemon.answer("POST /v3/vms/detach", {"name": "vm1", "detached": True})
    daemon.answer("GET /v3/vms", {"vms": [vm]})
    daemon.answer("GET /v3/vms/status", {**vm, "state": "inmigrate"})
    node = node_of(daemon)
    assert node.attach_qemu("vm1", Path("q.sock"), incoming=True) == vm
    body = {"name": "vm1", "qmp": str(Path.cwd() / "q.sock"), "incoming": True}
    assert daemon.asked[-1][2] == body
    assert node.vms() == [vm]
    assert node.vm_status("a b")["state"] == "inmigrate"
    assert daemon.asked[-1][1] == "/v3/vms/status?name=a+b"
    node.detach_qemu("vm1")
    assert daemon.asked[-1][2] == {"name": "vm1"}


def test_held_pages_are_let_go_of(daemon: Daemon) -> None:
    gone = {"sections": 1, "pages": 2, "bytes": 3}
    daemon.answer("POST /v3/held/clear", gone)
    node = node_of(daemon)
    assert node.clear_held() == gone
    assert daemon.asked[-1][2] == {}
    assert node.clear_held("vm1", older_than="30d") == gone
    assert daemon.asked[-1][2] == {"guest": "vm1", "older_than": "30d"}
