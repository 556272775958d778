"""A node: listens, holds guests, starts migrations."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dwcp import _dwcp, flags
from dwcp._pump import Pump
from dwcp.events import EventStream
from dwcp.flags import Decider, Flag, FlagChange, FlagDecision, FlagTable, RolloutSchedule
from dwcp.guards import RollbackLimits, RolloutState
from dwcp.guests import DestinationGuest, ProcessMemoryGuest, Region, SourceGuest
from dwcp.migration import Migration
from dwcp.model import GuestInfo, filter_words
from dwcp.modes import MatrixRow, PeerMode, ProbeSeries, TransportOptions, TransportTest
from dwcp.paths import PathOptions, RdmaOptions

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Node"]


class Node:
    """One end of migrations, in this process.

    >>> with Node(name="rack1", listen="127.0.0.1:0", plain=True) as node:
    ...     node.guests()
    []

    Use it in a ``with`` block: at its end, and when the interpreter exits, the node stops. All
    methods may be called from any thread.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        listen: str | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        hold_departed_guests: bool = True,
        held_bytes: int | None = None,
        identity_dir: str | os.PathLike[str] | None = None,
        allowed_peers: Sequence[str] = (),
        plain: bool = False,
    ) -> None:
        """Starts the node.

        ``name`` is shown to peers and is the host's by default, or the one in its certificate. ``listen`` is ``HOST:PORT`` for
        incoming migrations (port 0: any, see `listen_address`); without it only guests of this process
        leave. In ``state_dir`` the node writes down who owns which guest.

        ``hold_departed_guests``: pages of QEMU's guests that left or came are kept, so that a guest
        which comes back brings only what differs; at most ``held_bytes`` of them (4 GiB), in
        ``state_dir``, encrypted, or, less of it, in memory without one. See `clear_held`.

        Connections are over TLS with the key and certificate in ``identity_dir``, which
        ``dwcp-v3-cli identity issue`` makes, to nodes of the same authority, or to those named in
        ``allowed_peers`` alone. With ``plain`` they are not secured, and never go to or come from a
        public address. A node with neither listens nowhere and sends nothing.
        """
        self._native = _dwcp.Node(
            name or "",
            listen,
            state_dir,
            hold_departed_guests,
            held_bytes,
            identity_dir,
            list(allowed_peers),
            plain,
        )
        self._pump = Pump(self._native)
        _nodes.add(self)

    @property
    def name(self) -> str:
        """The node's name."""
        return self._native.name

    @property
    def listen_address(self) -> str | None:
        """``HOST:PORT`` where it listens, with the port that was chosen."""
        return self._native.listen_address

    def add_source(self, name: str, guest: SourceGuest, *, page_bytes: int = 4096) -> None:
        """Registers a running guest so that it can be migrated away.

        The registration ends when the guest has moved.
        """
        self._native.add_source(name, guest, page_bytes, _regions(guest.regions))

    def add_process_memory_source(
        self, name: str, guest: ProcessMemoryGuest, *, page_bytes: int = 4096
    ) -> None:
        """Registers a running guest whose writes the kernel tracks, so that it needs no log.

        Its regions must begin and end at page borders, as those of `mmap.mmap` do. Raises
        `UnsupportedError` where the kernel cannot; see `kernel_tracking`.
        """
        self._native.add_process_memory_source(name, guest, page_bytes, _regions(guest.regions))

    def add_destination(
        self, name: str, guest: DestinationGuest, *, page_bytes: int = 4096
    ) -> None:
        """Registers an empty guest: one incoming migration of that name is accepted.

        The registration stays after a migration that failed and ends after one that succeeded.
        """
        self._native.add_destination(name, guest, page_bytes, _regions(guest.regions))

    def attach_qemu(
        self, name: str, qmp: str | os.PathLike[str], incoming: bool = False
    ) -> None:
        """Registers the guest of an unmodified QEMU by the path of its QMP socket.

        ``incoming``: that QEMU was started with ``-incoming defer`` and waits for the guest. The
        socket must be for this node alone (QEMU serves one client at a time), and migrations make
        sockets beside it. A guest that has arrived stays registered, as one that runs here; one
        that has left is not. A QEMU that is paused in post-copy, since the node that carried it
        ended, waits for the rest of its migration instead. `DwcpConnectionError` if nobody listens
        there, `InvalidArgumentError` if it is no QMP socket, `StateError` if QEMU waits where it
        should run, or runs where it should wait.
        """
        self._native.attach_qemu(name, qmp, incoming)

    def remove_guest(self, name: str) -> None:
        """Ends a registration; `BusyError` while the guest is moving."""
        self._native.remove_guest(name)

    def clear_held(self, guest: str | None = None, older_than_s: int | None = None) -> int:
        """Lets go of pages that are kept of QEMU's guests that left or came; returns their bytes.

        A guest that comes back, or one like it, then brings them again. ``guest``: only of this one,
        which need not be here; ``older_than_s``: only what was brought at least so long ago.
        """
        return self._native.clear_held(guest, older_than_s)

    def guests(self) -> list[GuestInfo]:
        """The guests registered here."""
        return [GuestInfo.from_dict(values) for values in self._native.guests()]

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
    ) -> Migration:
        """Starts to move a registered guest to the node at `to` (``HOST:PORT``).

        ``v1://HOST:PORT`` names a peer that speaks DWCP v1 alone. It acknowledges nothing, so such
        a migration ends with `InDoubtError`, the guest staying paused.

        Returns at once. None always means the library's default.

        * ``streams``: TCP connections, at most, 1 to 64 (8).
        * ``codec``: ``auto``, ``none``, ``lz4``, ``lz4:ACCELERATION``, ``zstd`` or
          ``zstd:LEVEL`` (auto).
        * ``max_downtime_ms``: the guest is paused once the rest is predicted to take no longer
          (300).
        * ``deadline_s``: give up when copying takes longer, the guest running on here (never).
        * ``bandwidth_limit_bytes_per_s``: cap on what goes on the wire, at least 65536 (none).
        * ``throttle``: whether the guest may be slowed down to converge (True).
        * ``multifd_channels``: over so many channels more, up to 16, QEMU hands the node the pages of
          a guest of `attach_qemu` (0).
        * ``post_copy``: whether the guest may go on there before all of its memory is there:
          ``never``, ``manual`` (`Migration.start_post_copy`), or ``auto``, also when it does not
          converge (never). A loss of either host loses the guest then.
        * ``reconnect_timeout_s``: how long to try for a lost connection (60); at most 30 for the first.
        * ``stall_timeout_s``: how long the peer may stand still (60).
        """
        native = self._native.migrate(
            guest,
            to,
            streams=streams,
            codec=codec,
            max_downtime_ms=max_downtime_ms,
            deadline_s=deadline_s,
            bandwidth_limit_bytes_per_s=bandwidth_limit_bytes_per_s,
            throttle=throttle,
            multifd_channels=multifd_channels,
            post_copy=post_copy,
            reconnect_timeout_s=reconnect_timeout_s,
            stall_timeout_s=stall_timeout_s,
        )
        return Migration(native, self._pump)

    def migrations(self) -> list[Migration]:
        """Migrations that run or ended lately, both directions, oldest first."""
        return [Migration(native, self._pump) for native in self._native.migrations()]

    def migration(self, id: str) -> Migration:
        """The migration with this id; `NotFoundError` if it is not known here."""
        return Migration(self._native.migration(id), self._pump)

    def add_peer(self, peer: str) -> None:
        """Has the path to the peer at ``HOST:PORT`` looked at from now on.

        A peer that guests are sent to is known without this.
        """
        self._native.add_peer(peer)

    def remove_peer(self, peer: str) -> None:
        """Forgets a peer and a mode forced for it; `BusyError` while streams to it are open."""
        self._native.remove_peer(peer)

    def peers(self) -> list[PeerMode]:
        """What is known of every peer, by address."""
        return [PeerMode.from_dict(values) for values in self._native.peers()]

    def peer(self, peer: str) -> PeerMode:
        """What is known of a peer; `NotFoundError` if it is not known."""
        return PeerMode.from_dict(self._native.peer(peer))

    def detect_mode(self, peer: str) -> PeerMode:
        """Has a peer looked at, and waits until a first verdict about it would hold.

        That takes some seconds. A peer that does not answer is no error: see `PeerMode.failure`.
        """
        return PeerMode.from_dict(self._native.detect_mode(peer))

    async def detect_mode_async(self, peer: str) -> PeerMode:
        """As `detect_mode`, for asyncio."""
        return await asyncio.to_thread(self.detect_mode, peer)

    def set_mode(self, mode: str, peer: str | None = None) -> None:
        """Forces a mode, or with ``auto`` leaves it to measurement.

        For one peer, or for all that have no mode of their own.
        """
        self._native.set_mode(mode, peer)

    def probe_peer(self, peer: str, count: int = 10) -> ProbeSeries:
        """Sends a peer 1 to 64 probes, one after another, and waits for the answers.

        `DwcpConnectionError` if one does not come.
        """
        return ProbeSeries.from_dict(self._native.probe_peer(peer, count))

    async def probe_peer_async(self, peer: str, count: int = 10) -> ProbeSeries:
        """As `probe_peer`, for asyncio."""
        return await asyncio.to_thread(self.probe_peer, peer, count)

    def test_transport(
        self,
        peer: str | None = None,
        *,
        mode: str = "hybrid",
        streams: int = 4,
        duration_s: float = 5.0,
    ) -> TransportTest:
        """Fills the path to a peer for some time and tells what it carried.

        Over as many streams as ``mode`` allows, set up for that mode; for 0.1 to 30 seconds.
        Without a peer it goes to this process, over the loopback.
        """
        native = self._native.test_transport(peer, mode, streams, duration_s)
        return TransportTest.from_dict(native)

    async def test_transport_async(
        self,
        peer: str | None = None,
        *,
        mode: str = "hybrid",
        streams: int = 4,
        duration_s: float = 5.0,
    ) -> TransportTest:
        """As `test_transport`, for asyncio."""
        return await asyncio.to_thread(
            self.test_transport, peer, mode=mode, streams=streams, duration_s=duration_s
        )

    def share_paths_with(self, networks: str | Iterable[str]) -> None:
        """Lets nodes at these addresses ask this one for the paths to its peers.

        Addresses and networks such as ``10.0.0.0/8``, with commas or as a list; empty: nobody, as in
        the beginning.
        """
        words = networks if isinstance(networks, str) else ",".join(networks)
        self._native.share_paths_with(words)

    def network_matrix(self, nodes: Iterable[str] | None = None) -> list[MatrixRow]:
        """The paths from this node, and those from peers that tell it of theirs.

        ``nodes`` are addresses of known peers, all by default; 64 are asked. The first row is this
        node's own. A peer tells whom its operator has named: see `share_paths_with`.
        """
        asked = None if nodes is None else list(nodes)
        return [MatrixRow.from_dict(row) for row in self._native.network_matrix(asked)]

    async def network_matrix_async(self, nodes: Iterable[str] | None = None) -> list[MatrixRow]:
        """As `network_matrix`, for asyncio."""
        return await asyncio.to_thread(self.network_matrix, nodes)

    def transport(self) -> TransportOptions:
        """How modes are chosen and what they change."""
        return TransportOptions.from_dict(self._native.transport())

    def set_transport(self, options: TransportOptions) -> None:
        """Sets how modes are chosen and what they change.

        Modes and limits of streams hold at once, for migrations under way too, but for those by v1,
        which keep their streams. The congestion control is that of connections made from then on, and
        of open ones once their peer's mode changes.

        >>> from dataclasses import replace
        >>> with Node() as node:
        ...     node.set_transport(replace(node.transport(), internet_streams=2))
        ...     node.transport().internet_streams
        2
        """
        self._native.set_transport(options)

    def paths(self) -> PathOptions:
        """What holds for the paths of all migrations that leave this node."""
        return PathOptions.from_dict(self._native.paths())

    def set_paths(self, options: PathOptions) -> None:
        """Sets what holds for the paths of all migrations that leave this node.

        Holds at once, for migrations under way too, but for ``source_addresses``, which hold for
        those that begin later. After an error all is as before.

        >>> from dataclasses import replace
        >>> with Node() as node:
        ...     node.set_paths(replace(node.paths(), bandwidth_limit_bytes_per_s=10_000_000))
        ...     node.paths().bandwidth_limit_bytes_per_s
        10000000
        """
        self._native.set_paths(options)

    def rdma(self) -> RdmaOptions:
        """How pages go by RDMA."""
        return RdmaOptions.from_dict(self._native.rdma())

    def set_rdma(self, options: RdmaOptions) -> None:
        """Sets whether pages may go by RDMA, which is not encrypted.

        Holds for connections that are made later; the other side must have said so too.
        """
        self._native.set_rdma(options)

    def flags(self) -> FlagTable:
        """The feature flags as they stand, in the order of the upgrade guide."""
        return FlagTable(Flag.from_dict(values) for values in self._native.flags())

    def flag(self, name: str) -> Flag:
        """One feature flag as it stands; `NotFoundError` if there is none of this name."""
        return Flag.from_dict(self._native.flag(name))

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
        """Changes a feature flag: written to the audit log and in force on return, or refused whole.

        Migrations under way follow at their next segment, chunk or connection. What is None stays as
        it is.

        * ``why``: 1 to 1024 bytes for the audit log; ``who``: a person or a program (this user).
        * ``enabled``: off for everybody if False, whatever the rest says.
        * ``percent``: how many units have it, 0 to 100 with four decimals; more than 0 enables the flag
          too, and takes it off its schedule, unless the same call says otherwise.
        * ``allow_list``, ``deny_list``: nodes and units, with commas or as a list; empty: nobody.
        * ``seed``: another one draws the units of a percentage anew.
        * ``prerequisites``: flags that must be on for the same unit.
        * ``schedule``: ``guide`` for the upgrade guide's six weeks, ``none``, a `RolloutSchedule`, or
          pairs of seconds since the start and percentages.
        * ``owner``: whom to ask about it.
        * ``expires``: from when on it is off, with a time zone, or ``none``.

        >>> with Node() as node:
        ...     node.set_flag("hybrid_mode", percent=12.5, why="a first try").state
        '12.5 %'
        """
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
        changed = self._native.change_flags(flags.to_json({name: edit}), flags.caller(who), why)
        return FlagTable(Flag.from_dict(values) for values in changed).named(name)

    def set_flags(
        self,
        rules: Mapping[str, bool | Mapping[str, Any]],
        *,
        why: str,
        who: str | None = None,
    ) -> FlagTable:
        """Changes several feature flags in one change, whole or refused.

        For each flag True (on everywhere), False (off), or fields as JSON has them: ``enabled``,
        ``rollout_percent``, ``allow_list``, ``deny_list``, ``seed``, ``prerequisites``, ``schedule``,
        ``owner``, ``expires``.
        """
        edits = {name: flags.rule_edit(rule) for name, rule in rules.items()}
        changed = self._native.change_flags(flags.to_json(edits), flags.caller(who), why)
        return FlagTable(Flag.from_dict(values) for values in changed)

    def start_schedule(
        self,
        name: str,
        schedule: str | RolloutSchedule | Sequence[tuple[int, float]] | None = None,
        *,
        why: str,
        who: str | None = None,
    ) -> Flag:
        """Enables a flag at the first percentage of a schedule, and lets it grow from there.

        Each stage waits until the guards find nothing. ``schedule`` is as for `set_flag`; None is the
        flag's own, or the upgrade guide's.
        """
        plan = None if schedule is None else json.dumps(flags.schedule_of(name, schedule))
        return Flag.from_dict(
            self._native.start_schedule(name, plan, flags.caller(who), why)
        )

    def stop_schedule(self, name: str, *, why: str, who: str | None = None) -> Flag:
        """Ends a flag's schedule; its percentage stays. `StateError` if it has none."""
        return Flag.from_dict(self._native.stop_schedule(name, flags.caller(who), why))

    def rollouts(self) -> list[RolloutState]:
        """How the rollout of each flag stands: what the guards have counted and found."""
        return [RolloutState.from_dict(values) for values in self._native.rollouts()]

    def rollback_limits(self) -> RollbackLimits:
        """What a rollout may not exceed, or else its flag is taken back."""
        return RollbackLimits.from_dict(self._native.rollback_limits())

    def set_rollback_limits(self, limits: RollbackLimits) -> None:
        """Sets what a rollout may not exceed; rollouts in flight are judged anew.

        >>> from dataclasses import replace
        >>> with Node() as node:
        ...     node.set_rollback_limits(replace(node.rollback_limits(), max_error_rate=2.0))
        ...     node.rollback_limits().max_error_rate
        2.0
        """
        self._native.set_rollback_limits(limits.to_json())

    def disable_all_flags(self, *, why: str, who: str | None = None) -> FlagTable:
        """Switches every feature flag off, at 0 % and without a schedule; lists stay as they are."""
        changed = self._native.disable_all_flags(flags.caller(who), why)
        return FlagTable(Flag.from_dict(values) for values in changed)

    def clear_latch(self, name: str, *, why: str, who: str | None = None) -> Flag:
        """Ends the rollback of a flag, which then is as its rule says.

        `StateError` if it was not rolled back.
        """
        return Flag.from_dict(self._native.clear_latch(name, flags.caller(who), why))

    def explain_flag(self, name: str, unit: str) -> FlagDecision:
        """Whether a unit has a feature here, and why.

        A unit is written as `Flag.unit_form` says; of a pair the other end is enough: a peer's name, or
        its address as it is dialed.
        """
        return FlagDecision.from_dict(name, unit, self._native.explain_flag(name, unit))

    def flag_history(self, limit: int = 20) -> list[FlagChange]:
        """The newest changes of the flags, newest first, as the audit log has them; 1024 are at hand."""
        return [FlagChange.from_dict(values) for values in self._native.flag_history(limit)]

    def decider(self, name: str, unit: str) -> Decider:
        """What answers again and again, in some nanoseconds, whether a unit has a feature.

        Units as for `explain_flag`.

        >>> with Node() as node:
        ...     decider = node.decider("ml_compression", "rack1|rack2")
        ...     is_on_before = decider.is_on()
        ...     table = node.disable_all_flags(why="a drill")
        ...     is_on_before, decider.is_on()
        (True, False)
        """
        return self._native.decider(name, unit)

    @property
    def kill_switch(self) -> str | None:
        """Why the kill switch is on; None while it is off."""
        return self.flags()[0].killed

    def set_kill_switch(self, why: str | None, *, who: str | None = None) -> None:
        """Throws the kill switch, which has every feature flag off for everybody; None takes it back.

        It holds at once, also where it cannot be written down. `StateError` to take back what is not
        on, or is held by the switch's file or its environment variable.
        """
        self._native.set_kill_switch(flags.caller(who), why)

    def set_rollout_members(self, members: Iterable[str]) -> None:
        """Names the nodes of which percentages are taken, so that 10 % of 20 of them is 2.

        None at all: each unit by its hash alone, as in the beginning. Of a pair the node that sends
        counts.
        """
        self._native.set_rollout_members(list(members))

    def events(
        self,
        *,
        filter: str | Iterable[str] | None = None,
        after: int = 0,
        follow: bool = False,
    ) -> EventStream:
        """Events with a sequence above `after`, oldest first; the last 4096 are kept.

        ``filter`` holds names of events, components, or ``guest:NAME``; several with commas or as
        a list.
        With ``follow`` the stream goes on until the node stops.
        """
        return EventStream(self._native, self._pump, filter_words(filter), after, follow)

    def metrics(self) -> list[dict[str, Any]]:
        """Metrics as objects with ``name``, ``component``, ``type``, ``unit`` and ``series``.

        The same as from the control socket and, in another format, for Prometheus.
        """
        return self._native.metrics()

    def serve_control(
        self, path: str | os.PathLike[str], *, metrics_listen: str | None = None
    ) -> str | None:
        """Lets `dwcp.connect` and ``dwcp-v3-cli`` drive this node through a unix socket.

        Only this user may open the socket; it goes when the node stops. With ``metrics_listen``
        (``HOST:PORT``) ``/metrics`` is served for Prometheus too, and the address is returned.
        """
        return self._native.serve_control(path, metrics_listen)

    def stop(self) -> None:
        """Stops the node; safe to call twice.

        Migrations before their commit point are cancelled, the others are waited for.
        """
        self._native.stop()

    async def stop_async(self) -> None:
        """As `stop`, for asyncio."""
        await asyncio.to_thread(self.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop_async()

    def __repr__(self) -> str:
        return f"<dwcp.Node {self.name!r} at {self.listen_address or 'no address'}>"


def _regions(regions: Sequence[Region]) -> list[tuple[str, Any, int]]:
    return [(region.name, region.buffer, region.guest_address) for region in regions]


_nodes: weakref.WeakSet[Node] = weakref.WeakSet()


def _stop_all() -> None:
    for node in list(_nodes):
        node.stop()


# Threads of the library must not call guests of an interpreter that is going away; and a forked
# child has none of these threads, so it must not wait for them.
atexit.register(_stop_all)
os.register_at_fork(after_in_child=_nodes.clear)
