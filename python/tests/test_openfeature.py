"""The node's flags through OpenFeature's own client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import WAIT_S
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.flag_evaluation import Reason
from openfeature.provider import ProviderStatus

import dwcp
from dwcp.openfeature import DwcpProvider

PAIR = EvaluationContext(targeting_key="rack1|rack2")
POLL_S = 0.02


@pytest.fixture
def node() -> Iterator[dwcp.Node]:
    with dwcp.Node(name="rack1", plain=True) as node:
        yield node
        api.clear_providers()


@pytest.fixture(params=["here", "remote"])
def client(
    request: pytest.FixtureRequest, node: dwcp.Node, tmp_path: Path
) -> OpenFeatureClient:
    source: dwcp.Node | dwcp.RemoteNode = node
    if request.param == "remote":
        node.serve_control(tmp_path / "control.sock")
        source = dwcp.connect(tmp_path / "control.sock")
    api.set_provider_and_wait(DwcpProvider(source, poll_s=POLL_S), "test")
    return api.get_client("test")


def test_reasons_and_variants_are_openfeatures(client: OpenFeatureClient, node: dwcp.Node) -> None:
    on = client.get_boolean_details("hybrid_mode", False, PAIR)
    assert (on.value, on.variant, on.reason, on.error_code) == (True, "on", Reason.SPLIT, None)
    assert on.flag_metadata["reason"] == "percentage"
    assert isinstance(on.flag_metadata["bucket"], int)
    node.set_flag("hybrid_mode", percent=0, allow_list="rack9", deny_list="rack8", why="a test")
    expected = {
        "rack1|rack2": (False, "off", Reason.SPLIT),
        "rack1|rack9": (True, "on", Reason.TARGETING_MATCH),
        "rack8|rack9": (False, "off", Reason.TARGETING_MATCH),
    }
    for unit, wanted in expected.items():
        details = client.get_boolean_details("hybrid_mode", True, EvaluationContext(unit))
        assert (details.value, details.variant, details.reason) == wanted, unit
    # Off is off, whatever the caller would rather have.
    node.set_kill_switch("a drill")
    killed = client.get_boolean_details("hybrid_mode", True, EvaluationContext("rack1|rack9"))
    assert (killed.value, killed.reason) == (False, Reason.DISABLED)
    assert "kill switch" in str(killed.flag_metadata["explanation"])


@pytest.mark.parametrize(
    ("name", "context", "code"),
    [
        ("hybrid_mod", PAIR, ErrorCode.FLAG_NOT_FOUND),
        ("hybrid_mode", None, ErrorCode.TARGETING_KEY_MISSING),
        ("hybrid_mode", EvaluationContext(targeting_key=""), ErrorCode.TARGETING_KEY_MISSING),
        ("crdt_sync", PAIR, ErrorCode.INVALID_CONTEXT),
    ],
)
def test_what_cannot_be_asked_gives_the_default(
    client: OpenFeatureClient, name: str, context: EvaluationContext | None, code: ErrorCode
) -> None:
    details = client.get_boolean_details(name, True, context)
    assert (details.value, details.reason, details.error_code) == (True, Reason.ERROR, code)
    assert details.error_message


def test_no_flag_is_anything_but_a_boolean(client: OpenFeatureClient) -> None:
    asked: list[Any] = [
        client.get_string_details("hybrid_mode", "x", PAIR),
        client.get_integer_details("hybrid_mode", 5, PAIR),
        client.get_float_details("hybrid_mode", 0.5, PAIR),
        client.get_object_details("hybrid_mode", {"a": 1}, PAIR),
    ]
    assert {details.error_code for details in asked} == {ErrorCode.TYPE_MISMATCH}
    assert [details.value for details in asked] == ["x", 5, 0.5, {"a": 1}]
    unknown = client.get_string_details("nonsense", "x", PAIR)
    assert unknown.error_code == ErrorCode.FLAG_NOT_FOUND


def test_asyncio_has_the_same_answer(client: OpenFeatureClient) -> None:
    details = asyncio.run(client.get_boolean_details_async("hybrid_mode", False, PAIR))
    assert (details.value, details.reason) == (True, Reason.SPLIT)


def test_changes_are_events(client: OpenFeatureClient, node: dwcp.Node) -> None:
    seen: list[EventDetails] = []
    came = threading.Event()

    def changed(details: EventDetails) -> None:
        seen.append(details)
        came.set()

    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, changed)
    node.set_flag("ml_compression", percent=10, why="week 3")
    assert came.wait(WAIT_S)
    assert seen[0].flags_changed == ["ml_compression"]
    assert seen[0].provider_name == "dwcp"
    assert "week 3" in str(seen[0].message)
    came.clear()
    node.disable_all_flags(why="the end")
    assert came.wait(WAIT_S)
    assert seen[1].flags_changed == list(dwcp.FLAG_NAMES)


def test_a_daemon_that_is_gone_is_stale_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    states: list[str] = []
    came = threading.Event()

    def note(name: str) -> Any:
        def handler(details: EventDetails) -> None:
            states.append(name)
            came.set()

        return handler

    with dwcp.Node(plain=True) as first:
        first.serve_control(path)
        provider = DwcpProvider(dwcp.connect(path), poll_s=POLL_S)
        api.set_provider_and_wait(provider, "gone")
        client = api.get_client("gone")
        client.add_handler(ProviderEvent.PROVIDER_STALE, note("stale"))
        client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, note("changed"))
    assert came.wait(WAIT_S)
    assert client.get_provider_status() == ProviderStatus.STALE
    gone = client.get_boolean_details("hybrid_mode", True, PAIR)
    assert (gone.value, gone.error_code) == (True, ErrorCode.GENERAL)
    came.clear()
    with dwcp.Node(plain=True) as second:
        second.serve_control(path)
        assert came.wait(WAIT_S)
        assert client.get_boolean_value("hybrid_mode", False, PAIR)
        api.clear_providers()
    assert states == ["stale", "changed"]


def test_nobody_there_is_not_ready(tmp_path: Path) -> None:
    provider = DwcpProvider(dwcp.RemoteNode(tmp_path / "nobody.sock"))
    with pytest.raises(ProviderNotReadyError, match="nobody"):
        api.set_provider_and_wait(provider, "nobody")
    api.clear_providers()


def test_a_shut_down_provider_leaves_no_thread(node: dwcp.Node) -> None:
    provider = DwcpProvider(node, poll_s=POLL_S)
    api.set_provider_and_wait(provider, "threads")
    names = [thread.name for thread in threading.enumerate()]
    assert "dwcp-openfeature" in names
    api.clear_providers()
    assert "dwcp-openfeature" not in [thread.name for thread in threading.enumerate()]
    assert node.flag("hybrid_mode").state == "on"
