"""Feature flags: listed, set, explained, rolled back; the kill switch; deciders; the same from afar."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import dwcp

PAIR = "rack1|rack2"
VECTORS = json.loads(
    (Path(__file__).resolve().parents[2] / "tests/vectors/rollout.json").read_text(encoding="utf-8")
)
DAY = timedelta(days=1)


@pytest.fixture
def node() -> Iterator[dwcp.Node]:
    with dwcp.Node(name="rack1", plain=True) as node:
        yield node


@pytest.fixture
def remote(node: dwcp.Node, tmp_path: Path) -> dwcp.RemoteNode:
    node.serve_control(tmp_path / "control.sock")
    return dwcp.connect(tmp_path / "control.sock")


@pytest.fixture(params=["here", "remote"])
def door(request: pytest.FixtureRequest, node: dwcp.Node) -> dwcp.Node | dwcp.RemoteNode:
    """The same node, asked in this process and through its socket."""
    if request.param == "here":
        return node
    remote: dwcp.RemoteNode = request.getfixturevalue("remote")
    return remote


Door = dwcp.Node | dwcp.RemoteNode


def test_what_is_built_is_on_at_first(door: Door) -> None:
    flags = door.flags()
    assert tuple(flag.name for flag in flags) == dwcp.FLAG_NAMES
    assert [flag.state for flag in flags] == ["on", "on", "off", "off", "on"]
    assert [flag.is_built for flag in flags] == [flag.is_in_force for flag in flags]
    hybrid = door.flag("hybrid_mode")
    assert hybrid == flags.named("hybrid_mode") == flags[0]
    assert (hybrid.unit, hybrid.unit_form, hybrid.rollout_percent) == ("node_pair", "NODE|NODE", 100)
    assert (hybrid.latch, hybrid.killed, hybrid.expires, hybrid.schedule) == (None,) * 4
    with pytest.raises(KeyError):
        flags.named("nonsense")


def test_every_field_is_set_and_kept(door: Door) -> None:
    expires = datetime(2127, 1, 31, tzinfo=timezone(timedelta(hours=1)))
    changed = door.set_flag(
        "hybrid_mode", percent=12.3456, allow_list="rack9, rack1|rack2", deny_list=["rack8"], seed=7,
        prerequisites="ml_compression", owner="net", expires=expires, why="a first try",
    )  # fmt: skip
    assert changed == door.flag("hybrid_mode")
    assert changed.state == "12.3456 %"
    assert changed.allow_list == ("rack9", "rack1|rack2")
    assert changed.deny_list == ("rack8",)
    assert (changed.seed, changed.prerequisites) == (7, ("ml_compression",))
    assert (changed.owner, changed.expires) == ("net", expires)
    # What is not given stays; an empty list, a schedule and a date are taken away by their words.
    changed = door.set_flag("hybrid_mode", allow_list=(), expires="none", why="less")
    assert (changed.allow_list, changed.expires, changed.deny_list) == ((), None, ("rack8",))
    assert door.set_flag("hybrid_mode", enabled=False, why="off").state == "off"
    past = datetime.now(timezone.utc) - DAY
    assert door.set_flag("hybrid_mode", enabled=True, expires=past, why="late").state == "expired"


def test_schedules_are_taken_and_taken_away(door: Door) -> None:
    guide = door.set_flag("hybrid_mode", schedule="guide", why="six weeks").schedule
    assert guide is not None
    assert guide.stages == dwcp.guide_schedule("hybrid_mode").stages
    assert guide.start is not None
    assert abs(guide.start - datetime.now(timezone.utc)) < DAY
    pairs = door.set_flag("hybrid_mode", schedule=[(0, 1), (60, 12.5)], why="by hand").schedule
    assert pairs is not None
    assert [stage.percent for stage in pairs.stages] == [1, 12.5]
    again = door.set_flag("hybrid_mode", schedule=pairs, why="the same").schedule
    assert again == pairs
    assert door.set_flag("hybrid_mode", schedule="none", why="none").schedule is None
    with pytest.raises(ValueError, match="weekly"):
        door.set_flag("hybrid_mode", schedule="weekly", why="what")
    with pytest.raises(ValueError, match="goes backwards"):
        door.set_flag("hybrid_mode", schedule=[(5, 1), (4, 2)], why="back")


def test_schedules_start_and_stop(door: Door) -> None:
    started = door.start_schedule("hybrid_mode", why="six weeks")
    assert (started.enabled, started.rollout_percent) == (True, 0)
    assert started.schedule is not None
    assert started.schedule.stages == dwcp.guide_schedule("hybrid_mode").stages
    started = door.start_schedule("hybrid_mode", [(0, 5), (3600, 10)], why="by hand")
    assert started.rollout_percent == 5
    stopped = door.stop_schedule("hybrid_mode", why="enough")
    assert (stopped.rollout_percent, stopped.schedule) == (5, None)
    with pytest.raises(dwcp.StateError, match="no schedule"):
        door.stop_schedule("hybrid_mode", why="again")
    with pytest.raises(dwcp.UnsupportedError, match="crdt_sync is not built yet"):
        door.start_schedule("crdt_sync", [(0, 5)], why="too early")


def test_limits_are_kept(node: dwcp.Node) -> None:
    assert node.rollback_limits() == dwcp.RollbackLimits()
    stages = (dwcp.StageLimits(5, 0.25, 5, 2.5), dwcp.StageLimits(25, 0.5, 20, 5))
    limits = dwcp.RollbackLimits(2, 25, 0.5, 3, stages)
    node.set_rollback_limits(limits)
    assert node.rollback_limits() == limits
    for bad in ({"max_error_rate": 0}, {"min_throughput_ratio": 1.5}, {"max_error_rate": math.nan}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            node.set_rollback_limits(dwcp.RollbackLimits(**bad))
    assert node.rollback_limits() == limits


def test_rollouts_are_shown(door: Door) -> None:
    door.set_flag("hybrid_mode", percent=10, why="week 2")
    states = {state.flag: state for state in door.rollouts()}
    assert states["hybrid_mode"].evidence is None
    assert states["hybrid_mode"].failures == 0
    assert door.rollback_limits() == dwcp.RollbackLimits()


def test_decisions_say_why(door: Door) -> None:
    door.set_flag(
        "hybrid_mode", percent=50, allow_list="rack9", deny_list="rack8", why="half of them"
    )
    on = door.explain_flag("hybrid_mode", "x|rack9")
    assert (on.is_on, on.reason, bool(on)) == (True, "allowed", True)
    assert str(on) == f"hybrid_mode is on for x|rack9: {on.text}"
    assert door.explain_flag("hybrid_mode", "rack8|rack9").reason == "denied"
    split = door.explain_flag("hybrid_mode", PAIR)
    assert split.bucket is not None
    assert (split.bucket < 500_000) == split.is_on
    assert split.percent == 50
    assert split.bucket == door.explain_flag("hybrid_mode", "rack2|rack1").bucket
    door.set_flag("ml_compression", prerequisites=["hybrid_mode"], why="needs it")
    unmet = door.explain_flag("ml_compression", "rack8|x")
    assert (unmet.reason, unmet.prerequisite) == ("prerequisite_unmet", "hybrid_mode")
    assert door.explain_flag("crdt_sync", "group").reason == "not_enabled"


def test_a_decider_follows_the_flags(door: Door) -> None:
    decider = door.decider("hybrid_mode", PAIR)
    assert (decider.flag, decider.unit) == ("hybrid_mode", PAIR)
    assert decider.is_on()
    assert decider
    door.set_flag("hybrid_mode", percent=0, why="nobody")
    assert not decider.is_on()
    assert not decider
    door.set_flag("hybrid_mode", percent=100, why="everybody")
    assert decider
    assert "hybrid_mode" in repr(decider)
    door.disable_all_flags(why="the end")
    assert not decider


def test_a_decider_keeps_its_nodes_last_word() -> None:
    with dwcp.Node(plain=True) as node:
        decider = node.decider("ml_compression", "a|b")
        assert decider.is_on()
    del node
    assert decider.is_on()


def test_the_kill_switch_goes_before_everything(door: Door) -> None:
    assert not door.kill_switch
    with pytest.raises(dwcp.StateError, match="not on"):
        door.set_kill_switch(None)
    with pytest.raises(ValueError, match="reason"):
        door.set_kill_switch("")
    door.set_kill_switch("a drill")
    assert "a drill" in str(door.kill_switch)
    assert {flag.state for flag in door.flags()} == {"killed"}
    assert door.explain_flag("hybrid_mode", PAIR).reason == "kill_switch"
    door.set_kill_switch(None)
    assert door.flag("hybrid_mode").state == "on"


def test_changes_are_in_the_history_and_events(door: Door, node: dwcp.Node) -> None:
    door.set_flag("hybrid_mode", percent=10, why="week 2", who="tester")
    door.disable_all_flags(why="something is wrong")
    newest, before, *rest = door.flag_history()
    assert (newest.change, newest.why) == ("all flags disabled", "something is wrong")
    assert newest.who
    assert (before.who, before.why, before.evidence) == ("tester", "week 2", None)
    assert before.seq == newest.seq - 1
    assert before.before is not None
    assert before.before["flags"]["hybrid_mode"]["rule"]["rollout_percent"] == 100
    assert before.after["flags"]["hybrid_mode"]["rule"]["rollout_percent"] == 10
    assert abs(before.time - datetime.now(timezone.utc)) < DAY
    assert "week 2" in str(before)
    assert door.flag_history(1) == [newest]
    events = list(node.events(filter="flags_changed"))
    assert [event.details["why"] for event in events] == ["week 2", "something is wrong"]
    assert {event.component for event in events} == {"rollout"}


def test_a_change_of_several_flags_is_whole_or_refused(node: dwcp.Node) -> None:
    table = node.set_flags(
        {"hybrid_mode": {"rollout_percent": 10}, "ml_compression": False}, why="both at once"
    )
    assert [flag.state for flag in table[:2]] == ["10 %", "off"]
    with pytest.raises(dwcp.UnsupportedError, match="crdt_sync is not built yet"):
        node.set_flags({"hybrid_mode": False, "crdt_sync": True}, why="too early")
    assert node.flags() == table
    assert len(node.flag_history()) == 2


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"percent": 100.5}, "100.5"),
        ({"percent": -1}, "-1"),
        ({"percent": math.nan}, "nan"),
        ({"percent": math.inf}, "inf"),
        ({"percent": 12.34567}, "12.34567"),
        ({"seed": -1}, "seed: invalid value: integer `-1`"),
        ({"allow_list": "a", "deny_list": "a"}, '"a" is on allow_list and on deny_list'),
        ({"allow_list": ["a|"]}, "lacks a name"),
        ({"prerequisites": "hybrid_mode"}, "hybrid_mode needs hybrid_mode"),
        ({"prerequisites": "hybrid"}, "did you mean hybrid_mode"),
        ({"expires": "tomorrow"}, "tomorrow"),
        ({"expires": datetime(2127, 1, 1)}, "no time zone"),
        ({"owner": "\x07"}, "owner"),
        ({}, "sets nothing"),
    ],
)
def test_what_cannot_be_is_named_and_changes_nothing(
    door: Door, fields: dict[str, Any], text: str
) -> None:
    before = door.flags()
    with pytest.raises(ValueError, match=text):
        door.set_flag("hybrid_mode", why="a bad idea", **fields)
    assert door.flags() == before
    assert door.flag_history() == []


def test_names_units_and_reasons_are_checked(door: Door) -> None:
    with pytest.raises(KeyError, match="did you mean hybrid_mode"):
        door.flag("hybrid_mod")
    with pytest.raises(dwcp.NotFoundError, match="nonsense"):
        door.set_flag("nonsense", enabled=True, why="x")
    with pytest.raises(ValueError, match="GROUP"):
        door.explain_flag("crdt_sync", "a|b")
    with pytest.raises(dwcp.StateError, match="not rolled back"):
        door.clear_latch("hybrid_mode", why="there is none")
    with pytest.raises(dwcp.UnsupportedError, match="pbft_consensus is not built yet"):
        door.set_flag("pbft_consensus", enabled=True, why="soon")
    with pytest.raises(ValueError, match="reason"):
        door.disable_all_flags(why="")
    with pytest.raises(ValueError, match="name"):
        door.set_flag("hybrid_mode", enabled=False, why="x", who="")


def test_percentages_of_members_are_exact() -> None:
    with dwcp.Node(name="node-3", plain=True) as node:
        node.set_rollout_members(f"node-{number}" for number in range(20))
        node.set_flag("hybrid_mode", percent=10, why="2 of 20")
        decision = node.explain_flag("hybrid_mode", PAIR)
        assert (decision.chosen, decision.members) == (2, 20)
        node.set_rollout_members([])
        assert node.explain_flag("hybrid_mode", PAIR).members is None


def test_changes_outlive_the_node(tmp_path: Path) -> None:
    with dwcp.Node(plain=True, state_dir=tmp_path) as node:
        node.set_flag("ml_compression", percent=25, why="a quarter")
        with pytest.raises(dwcp.BusyError):
            dwcp.Node(plain=True, state_dir=tmp_path)
        decider = node.decider("ml_compression", "a|b")
    with dwcp.Node(plain=True, state_dir=tmp_path) as node:
        assert node.flag("ml_compression").rollout_percent == 25
        assert node.flag_history(1)[0].why == "a quarter"
    assert decider.flag == "ml_compression"
    log = tmp_path / "rollout.log"
    log.write_bytes(log.read_bytes().replace(b"a quarter", b"a quorum!"))
    with pytest.raises(dwcp.IntegrityError, match="line 2"):
        dwcp.Node(plain=True, state_dir=tmp_path)


def test_a_file_is_a_kill_switch_too(tmp_path: Path) -> None:
    (tmp_path / "kill-switch").touch()
    with dwcp.Node(plain=True, state_dir=tmp_path) as node:
        assert not node.decider("hybrid_mode", PAIR)
        with pytest.raises(dwcp.StateError, match="held by file"):
            node.set_kill_switch(None)


def test_the_table_shows_itself(node: dwcp.Node) -> None:
    node.set_flag("hybrid_mode", percent=12.5, owner="<script>", deny_list="rack8", why="a look")
    html = node.flags()._repr_html_()
    assert html.count("<tr>") == 6
    assert "12.5 %" in html
    assert "&lt;script&gt;" in html
    assert "rack8" in html
    assert "<script>" not in html


def test_a_rolled_back_flag_is_read() -> None:
    latch = {"since_us": 1_000_000, "reason": "errors", "evidence": {"rate": 0.05}}
    with dwcp.Node(plain=True) as node:
        values = {**json.loads(json.dumps(node._native.flag("hybrid_mode"))), "latch": latch}
    flag = dwcp.Flag.from_dict(values)
    assert flag.state == "rolled back"
    assert flag.latch is not None
    assert flag.latch.evidence == {"rate": 0.05}
    assert flag.latch.since == datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("case", VECTORS["decisions"], ids=lambda case: str(case["why"]))
def test_decisions_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    flags = case["set"]["flags"]
    decision = dwcp.decide_flag(
        case["flag"],
        case["unit"],
        {name: state["rule"] for name, state in flags.items()},
        rolled_back=[name for name, state in flags.items() if state["latch"]],
        killed=case["set"]["killed"],
        peer_can=case["peer_can"],
        now=datetime.fromtimestamp(case["now_s"], tz=timezone.utc),
    )
    assert (decision.is_on, decision.reason) == (case["is_on"], case["reason"])


def test_buckets_are_those_of_the_vectors() -> None:
    built = {"hybrid_mode", "ml_compression", "internet_optimization"}
    asked = [
        case for case in VECTORS["buckets"] if case["flag"] in built and all(case["unit"].split("|"))
    ]
    assert len(asked) > 30
    for case in asked:
        rules = {case["flag"]: {"enabled": True, "seed": case["seed"]}}
        assert dwcp.decide_flag(case["flag"], case["unit"], rules).bucket == case["bucket"]


@pytest.mark.parametrize("case", VECTORS["exact"], ids=lambda case: str(case["percent"]))
def test_exact_shares_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    chosen = dwcp.exact_units(case["flag"], case["percent"], case["members"], seed=case["seed"])
    assert chosen == case["chosen"]


def test_a_plan_that_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        dwcp.decide_flag("hybrid_mode", PAIR, {"nonsense": True})
    with pytest.raises(ValueError, match="lacks a name"):
        dwcp.decide_flag("hybrid_mode", "a|", {})
    with pytest.raises(KeyError, match="nonsense"):
        dwcp.decide_flag("nonsense", PAIR, {})
    with pytest.raises(ValueError, match="101"):
        dwcp.exact_units("hybrid_mode", 101, ["a"])
