"""A node in another process, driven through its control socket.

`connect` speaks HTTP and JSON over the unix socket of ``dwcpd``, or of any process whose node
called `dwcp.Node.serve_control`. The file's permissions decide who may.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from dwcp import flags
from dwcp.errors import error_from_code
from dwcp.flags import Flag, FlagChange, FlagDecision, FlagTable, RolloutSchedule
from dwcp.guards import RollbackLimits, RolloutState
from dwcp.migration import WatchedMigration
from dwcp.model import Event, GuestInfo, Progress
from dwcp.modes import MatrixRow, PeerMode, ProbeSeries, TransportTest
from dwcp.report import Report
from dwcp.status import Status

__all__ = [
    "DEFAULT_SOCKET",
    "RemoteDecider",
    "RemoteEvents",
    "RemoteMigration",
    "RemoteNode",
    "connect",
]

DEFAULT_SOCKET = "/run/dwcp/dwcp.sock"
"""Where ``dwcpd`` listens unless it is told otherwise."""

_POLL_S = 0.1
_LONG_POLL_MS = 1000
_ANSWER_TIMEOUT_S = 30.0
_PROBE_TIMEOUT_S = 5.0


def connect(socket_path: str | os.PathLike[str] = DEFAULT_SOCKET) -> RemoteNode:
    """The node behind a control socket; fails with `DwcpConnectionError` if nobody answers."""
    node = RemoteNode(socket_path)
    node.status()
    return node


class RemoteNode:
    """A node in another process. It keeps no connection, so it survives the node's restart."""

    def __init__(self, socket_path: str | os.PathLike[str]) -> None:
        """Names the socket; nothing is sent yet."""
        self.socket_path = os.fspath(socket_path)
        """The unix socket."""

    def status(self) -> dict[str, Any]:
        """Version, node, counts of guests and migrations, components, flags."""
        return self.request("GET", "status")

    def guests(self) -> list[GuestInfo]:
        """The guests registered there."""
        return [GuestInfo.from_dict(entry) for entry in self.request("GET", "guests")["guests"]]

    def attach_qemu(
        self, name: str, qmp: str | os.PathLike[str], incoming: bool = False
    ) -> dict[str, Any]:
        """Attaches the guest of an unmodified QEMU to that node; see `dwcp.Node.attach_qemu`.

        A relative path is taken from this process' directory. Returns the guest, as `vms` does.
        """
        body = {"name": name, "qmp": os.path.abspath(os.fspath(qmp)), "incoming": incoming}
        return self.request("POST", "vms/attach", body=body)

    def detach_qemu(self, name: str) -> None:
        """Lets go of an attached guest; its QEMU goes on. `BusyError` while it is moving."""
        self.request("POST", "vms/detach", body={"name": name})

    def clear_held(self, guest: str | None = None, older_than: str | None = None) -> dict[str, int]:
        """Lets go of pages that the node keeps of guests that left or came; see
        `dwcp.Node.clear_held`. ``older_than`` is such as ``"30d"``. Returns how much that was:
        ``sections`` (migrations that brought it), ``pages`` and ``bytes``."""
        given = {"guest": guest, "older_than": older_than}
        body = {name: value for name, value in given.items() if value is not None}
        cleared: dict[str, int] = self.request("POST", "held/clear", body=body)
        return cleared

    def vms(self) -> list[dict[str, Any]]:
        """The attached guests: ``name``, ``role``, ``qemu_version``, ``machine``, ``ram_bytes``,
        ``cpus``, ``qmp``, and ``migration``, the id of the one under way."""
        vms: list[dict[str, Any]] = self.request("GET", "vms")["vms"]
        return vms

    def vm_status(self, name: str) -> dict[str, Any]:
        """An attached guest, as in `vms`, with what its QEMU says now: ``state`` and ``running``.

        Where QEMU is not asked or does not answer, they are None and ``silence`` says why.
        ``progress`` is the migration's, if one is under way.
        """
        return self.request("GET", "vms/status", query={"name": name})

    def migrate(
        self,
        guest: str,
        to: str,
        *,
        streams: int | None = None,
        codec: str | None = None,
        max_downtime_ms: float | None = None,
        deadline_s: float | None = None,
        bandwidth_limit_bytes_per_s: int | None = None,
        throttle: bool | None = None,
        multifd_channels: int | None = None,
        post_copy: str | None = None,
        reconnect_timeout_s: float | None = None,
        stall_timeout_s: float | None = None,
    ) -> RemoteMigration:
        """Starts to move a guest of that node; see `dwcp.Node.migrate`.

        None means the value in the node's configuration.
        """
        options = {
            "streams": streams,
            "codec": codec,
            "max_downtime": _duration(max_downtime_ms, 1e3),
            "deadline": _duration(deadline_s, 1e6),
            "bandwidth_limit": _rate(bandwidth_limit_bytes_per_s),
            "throttle": throttle,
            "multifd_channels": multifd_channels,
            "post_copy": post_copy,
            "reconnect_timeout": _duration(reconnect_timeout_s, 1e6),
            "stall_timeout": _duration(stall_timeout_s, 1e6),
        }
        given = {name: value for name, value in options.items() if value is not None}
        values = self.request("POST", "migrations", body={"guest": guest, "to": to, **given})
        return RemoteMigration(self, values)

    def migrations(self) -> list[RemoteMigration]:
        """Migrations that run or ended lately, both directions, oldest first."""
        found = self.request("GET", "migrations")["migrations"]
        return [RemoteMigration(self, values) for values in found]

    def migration(self, id: str) -> RemoteMigration:
        """The migration with this id; `NotFoundError` if it is not known there."""
        return RemoteMigration(self, self.request("GET", f"migrations/{quote(id, safe='')}"))

    def peers(self) -> list[PeerMode]:
        """What that node knows of every peer, by address."""
        return [PeerMode.from_dict(entry) for entry in self.request("GET", "modes")["peers"]]

    def detect_mode(self, peer: str) -> PeerMode:
        """Has that node look at a peer; see `dwcp.Node.detect_mode`."""
        return PeerMode.from_dict(self.request("POST", "modes/detect", body={"peer": peer}))

    def set_mode(self, mode: str, peer: str | None = None) -> None:
        """Forces a mode, or with ``auto`` leaves it to measurement; see `dwcp.Node.set_mode`.

        That of all peers is written to the node's configuration, if it has one.
        """
        body = {"mode": mode, **({} if peer is None else {"peer": peer})}
        self.request("POST", "modes/set", body=body)

    def network_matrix(self, nodes: Iterable[str] | None = None) -> list[MatrixRow]:
        """The paths from that node and from its peers; see `dwcp.Node.network_matrix`."""
        body = {"nodes": "all" if nodes is None else ",".join(nodes)}
        rows = self.request("POST", "modes/matrix", body=body)["rows"]
        return [MatrixRow.from_dict(row) for row in rows]

    def probe_peer(self, peer: str, count: int = 10) -> ProbeSeries:
        """Has that node send a peer probes; see `dwcp.Node.probe_peer`."""
        body = {"peer": peer, "count": count}
        timeout_s = _ANSWER_TIMEOUT_S + count * _PROBE_TIMEOUT_S
        return ProbeSeries.from_dict(
            self.request("POST", "modes/probe", body=body, timeout_s=timeout_s)
        )

    def test_transport(
        self,
        peer: str | None = None,
        *,
        mode: str = "hybrid",
        streams: int | None = None,
        duration_s: int = 5,
    ) -> TransportTest:
        """Has that node fill the path to a peer; see `dwcp.Node.test_transport`.

        ``streams`` is None for the number in its configuration.
        """
        given = {"peer": peer, "mode": mode, "streams": streams, "seconds": duration_s}
        body = {name: value for name, value in given.items() if value is not None}
        timeout_s = _ANSWER_TIMEOUT_S + duration_s
        return TransportTest.from_dict(
            self.request("POST", "modes/test", body=body, timeout_s=timeout_s)
        )

    def flags(self) -> FlagTable:
        """That node's feature flags as they stand; see `dwcp.Node.flags`."""
        return FlagTable(Flag.from_dict(entry) for entry in self.request("GET", "flags")["flags"])

    def flag(self, name: str) -> Flag:
        """One feature flag as it stands there; `NotFoundError` if there is none of this name."""
        return Flag.from_dict(self.request("GET", _flag_path(name)))

    def set_flag(
        self,
        name: str,
        *,
        why: str,
        who: str | None = None,
        enabled: bool | None = None,
        percent: float | None = None,
        allow_list: str | Iterable[str] | None = None,
        deny_list: str | Iterable[str] | None = None,
        seed: int | None = None,
        prerequisites: str | Iterable[str] | None = None,
        schedule: str | RolloutSchedule | Sequence[tuple[int, float]] | None = None,
        owner: str | None = None,
        expires: str | datetime | None = None,
    ) -> Flag:
        """Changes a feature flag of that node, whole or refused; see `dwcp.Node.set_flag`."""
        edit = flags.edit(
            name,
            enabled=enabled,
            percent=percent,
            allow_list=allow_list,
            deny_list=deny_list,
            seed=seed,
            prerequisites=prerequisites,
            schedule=schedule,
            owner=owner,
            expires=expires,
        )
        body = {"who": flags.caller(who), "why": why, **edit}
        return Flag.from_dict(self.request("POST", _flag_path(name, "set"), body=body))

    def start_schedule(
        self,
        name: str,
        schedule: str | RolloutSchedule | Sequence[tuple[int, float]] | None = None,
        *,
        why: str,
        who: str | None = None,
    ) -> Flag:
        """Lets a flag of that node grow by a schedule; see `dwcp.Node.start_schedule`."""
        plan = {} if schedule is None else {"schedule": flags.schedule_of(name, schedule)}
        body = {"who": flags.caller(who), "why": why, **plan}
        return Flag.from_dict(self.request("POST", _flag_path(name, "start-schedule"), body=body))

    def stop_schedule(self, name: str, *, why: str, who: str | None = None) -> Flag:
        """Ends a flag's schedule there; see `dwcp.Node.stop_schedule`."""
        body = {"who": flags.caller(who), "why": why}
        return Flag.from_dict(self.request("POST", _flag_path(name, "stop-schedule"), body=body))

    def rollouts(self) -> list[RolloutState]:
        """How the rollout of each flag stands there; see `dwcp.Node.rollouts`."""
        found = self.request("GET", "rollout")["rollouts"]
        return [RolloutState.from_dict(entry) for entry in found]

    def rollback_limits(self) -> RollbackLimits:
        """What a rollout there may not exceed. They are set by `set_config`: ``rollback_triggers``."""
        return RollbackLimits.from_dict(self.request("GET", "rollout")["limits"])

    def disable_all_flags(self, *, why: str, who: str | None = None) -> FlagTable:
        """Switches every feature flag of that node off; see `dwcp.Node.disable_all_flags`."""
        return self._change_all("disable-all", who, why)

    def clear_latch(self, name: str, *, why: str, who: str | None = None) -> Flag:
        """Ends the rollback of a flag there; see `dwcp.Node.clear_latch`."""
        body = {"who": flags.caller(who), "why": why}
        return Flag.from_dict(self.request("POST", _flag_path(name, "clear-latch"), body=body))

    def explain_flag(self, name: str, unit: str) -> FlagDecision:
        """Whether a unit has a feature there, and why; see `dwcp.Node.explain_flag`."""
        found = self.request("GET", _flag_path(name, "explain"), query={"unit": unit})
        return FlagDecision.from_dict(name, unit, found)

    def flag_history(self, limit: int = 20) -> list[FlagChange]:
        """The newest changes of the flags there, newest first; see `dwcp.Node.flag_history`."""
        found = self.request("GET", "flags/history", query={"limit": limit})
        return [FlagChange.from_dict(entry) for entry in found["entries"]]

    def decider(self, name: str, unit: str) -> RemoteDecider:
        """What asks that node, each time anew, whether a unit has a feature."""
        return RemoteDecider(self, name, unit)

    @property
    def kill_switch(self) -> str | None:
        """Why the kill switch is on there; None while it is off."""
        killed: str | None = self.request("GET", "flags")["killed"]
        return killed

    def set_kill_switch(self, why: str | None, *, who: str | None = None) -> None:
        """Throws that node's kill switch; None takes it back. See `dwcp.Node.set_kill_switch`."""
        action = "lift-kill" if why is None else "kill"
        self._change_all(action, who, "called off" if why is None else why)

    def _change_all(self, action: str, who: str | None, why: str) -> FlagTable:
        body = {"who": flags.caller(who), "why": why}
        changed = self.request("POST", f"flags/{action}", body=body)
        return FlagTable(Flag.from_dict(entry) for entry in changed["flags"])

    def events(
        self, *, filter: str | None = None, after: int = 0, follow: bool = False
    ) -> RemoteEvents:
        """Events with a sequence above `after`, oldest first, for ``for`` and ``async for``.

        ``filter`` is an event's name, a component, a guest or ``guest:NAME``; an unknown one is
        refused. With ``follow`` the stream goes on until the loop is left or the node stops.
        """
        return RemoteEvents(self, filter, after, follow)

    def metrics(
        self, *, component: str | None = None, name: str | None = None
    ) -> list[dict[str, Any]]:
        """Metrics as objects with ``name``, ``component``, ``type``, ``unit`` and ``series``."""
        found = self.request("GET", "metrics", query={"component": component, "name": name})
        metrics: list[dict[str, Any]] = found["metrics"]
        return metrics

    def config(self, key: str | None = None) -> dict[str, Any]:
        """One setting, or with no key the whole configuration under ``keys``."""
        return self.request("GET", "config" if key is None else f"config/{quote(key, safe='')}")

    def set_config(self, key: str, value: str | float | bool | None) -> dict[str, Any]:
        """Changes a setting in the node's file and, where it can be, at once."""
        return self.request("PUT", f"config/{quote(key, safe='')}", body={"value": value})

    def logs(
        self, *, component: str | None = None, level: str | None = None, after: int = 0
    ) -> list[dict[str, Any]]:
        """Log lines with a sequence above `after`, of at least `level`."""
        query = {"after": after, "component": component, "level": level}
        records: list[dict[str, Any]] = self.request("GET", "logs", query=query)["records"]
        return records

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        timeout_s: float = _ANSWER_TIMEOUT_S,
    ) -> dict[str, Any]:
        """One request below ``/v3/``; raises the `DwcpError` that the node answers with."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"/v3/{path}" + (f"?{urlencode(given)}" if given else "")
        connection = _UnixConnection(self.socket_path, timeout_s)
        try:
            text = None if body is None else json.dumps(body)
            headers = {} if text is None else {"Content-Type": "application/json"}
            connection.request(method, target, text, headers)
            answer = connection.getresponse()
            code, content = answer.status, answer.read()
        except TimeoutError as cause:
            raise error_from_code(
                Status.TIMEOUT, f"{self.socket_path} did not answer in {timeout_s} s"
            ) from cause
        except (OSError, http.client.HTTPException) as cause:
            raise error_from_code(Status.CONNECT, f"{self.socket_path}: {cause}") from cause
        finally:
            connection.close()
        return _read(code, content)

    def __repr__(self) -> str:
        return f"<dwcp.RemoteNode at {self.socket_path}>"


class RemoteMigration(WatchedMigration):
    """A migration of a node in another process."""

    def __init__(self, node: RemoteNode, values: Mapping[str, Any]) -> None:
        self._node = node
        self._values = values

    @property
    def id(self) -> str:
        """32 hexadecimal digits, the same on both sides."""
        return str(self._values["id"])

    @property
    def guest(self) -> str:
        """The guest's name."""
        return str(self._values["guest"])

    @property
    def side(self) -> str:
        """``source`` or ``destination``."""
        return str(self._values["side"])

    @property
    def owner(self) -> str:
        """Who owns the guest now: ``source``, ``destination`` or ``in_doubt``."""
        return str(self._refresh()["owner"])

    def progress(self) -> Progress:
        """Where it stands now."""
        return Progress.from_dict(self._refresh()["progress"])

    def report(self) -> Report | None:
        """The report, None while it runs."""
        values = self._refresh()["report"]
        return None if values is None else Report.from_dict(values)

    def cancel(self) -> None:
        """Asks for the end, the guest staying at the source; no effect after the commit point."""
        self._node.request("POST", f"migrations/{self.id}/cancel")

    def start_post_copy(self) -> None:
        """Lets the guest go on at the destination before all of its memory is there."""
        self._node.request("POST", f"migrations/{self.id}/post-copy", body={"abandon": False})

    def abandon_post_copy(self) -> None:
        """Gives up a guest that lacks pages, because the other side will not come back."""
        self._node.request("POST", f"migrations/{self.id}/post-copy", body={"abandon": True})

    def set_bandwidth_limit(self, bytes_per_s: int | None) -> None:
        """Changes the cap on what goes on the wire; None lifts it."""
        limit = "none" if bytes_per_s is None else _rate(bytes_per_s)
        self._node.request("POST", f"migrations/{self.id}/bandwidth", body={"limit": limit})

    def _refresh(self) -> Mapping[str, Any]:
        if self._values["report"] is None:
            self._values = self._node.request("GET", f"migrations/{self.id}")
        return self._values

    def _ended(self, timeout: float | None) -> Report | None:
        end_s = None if timeout is None else time.monotonic() + timeout
        while (report := self.report()) is None:
            if end_s is not None and time.monotonic() >= end_s:
                return None
            time.sleep(_pause(end_s))
        return report

    async def _ended_async(self, timeout: float | None) -> Report | None:
        end_s = None if timeout is None else time.monotonic() + timeout
        while (report := await asyncio.to_thread(self.report)) is None:
            if end_s is not None and time.monotonic() >= end_s:
                return None
            await asyncio.sleep(_pause(end_s))
        return report


class RemoteDecider:
    """Asks a node in another process whether a unit has a feature: a `dwcp.Decider` from afar.

    Each answer is a request, so it takes some hundred microseconds, and fails where nobody answers.
    """

    def __init__(self, node: RemoteNode, flag: str, unit: str) -> None:
        self._node = node
        self.flag = flag
        """The flag's name."""
        self.unit = unit
        """The unit, as it was given."""

    def is_on(self) -> bool:
        """Whether the feature is on."""
        return self._node.explain_flag(self.flag, self.unit).is_on

    def __bool__(self) -> bool:
        return self.is_on()

    def __repr__(self) -> str:
        return f"<dwcp.RemoteDecider {self.flag} for {self.unit!r}>"


class RemoteEvents:
    """Events of a node in another process, for ``for`` and ``async for``."""

    def __init__(self, node: RemoteNode, filter: str | None, after: int, follow: bool) -> None:
        self._node = node
        self._filter = filter
        self._follow = follow
        self.position = after
        """Sequence of the last event that was looked at; pass it as ``after`` to go on."""

    def __iter__(self) -> Iterator[Event]:
        while True:
            batch = self._fetch()
            yield from batch
            if not self._goes_on(batch):
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            batch = await asyncio.to_thread(self._fetch)
            for event in batch:
                yield event
            if not self._goes_on(batch):
                return

    def _fetch(self) -> list[Event]:
        wait_ms = _LONG_POLL_MS if self._follow else 0
        query = {"after": self.position, "wait_ms": wait_ms, "filter": self._filter}
        timeout_s = _ANSWER_TIMEOUT_S + wait_ms / 1e3
        found = self._node.request("GET", "events", query=query, timeout_s=timeout_s)
        self.position = found["last"]
        return [Event.from_dict(values) for values in found["events"]]

    def _goes_on(self, batch: list[Event]) -> bool:
        if self._follow:
            return not any(event.event == "node_stopped" for event in batch)
        return bool(batch)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _read(code: int, body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except ValueError as cause:
        text = f"the answer ({code}) is not JSON: {body[:80]!r}"
        raise error_from_code(Status.BAD_FRAME, text) from cause
    if not isinstance(values, dict):
        raise error_from_code(Status.BAD_FRAME, f"the answer ({code}) is not an object")
    if "error" in values:
        failure = values["error"]
        raise error_from_code(Status.from_name(failure["status"]), failure["message"])
    return values


def _flag_path(name: str, *action: str) -> str:
    return "/".join(("flags", quote(name, safe=""), *action))


def _duration(value: float | None, to_us: float) -> str | None:
    return None if value is None else f"{round(value * to_us)}us"


def _rate(bytes_per_s: int | None) -> str | None:
    return None if bytes_per_s is None else f"{bytes_per_s}B/s"


def _pause(end_s: float | None) -> float:
    left_s = _POLL_S if end_s is None else end_s - time.monotonic()
    return max(0.0, min(_POLL_S, left_s))
