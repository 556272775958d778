"""The node's flags for programs that ask by OpenFeature.

Needs the extra ``openfeature``; ``import dwcp`` does not load it. A node of this process, or one
behind a control socket, answers:

>>> import dwcp
>>> from openfeature import api
>>> from openfeature.evaluation_context import EvaluationContext
>>> with dwcp.Node(name="rack1", plain=True) as node:
...     api.set_provider_and_wait(DwcpProvider(node), "doctest")
...     client = api.get_client("doctest")
...     context = EvaluationContext(targeting_key="rack1|rack2")
...     details = client.get_boolean_details("hybrid_mode", False, context)
...     details.value, details.variant, str(details.reason)
...     api.clear_providers()
(True, 'on', 'SPLIT')
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import (
    FlagNotFoundError,
    GeneralError,
    InvalidContextError,
    ProviderNotReadyError,
    TargetingKeyMissingError,
    TypeMismatchError,
)
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata

from dwcp.errors import DwcpError, InvalidArgumentError
from dwcp.flags import FLAG_NAMES, FlagDecision
from dwcp.model import Event
from dwcp.node import Node
from dwcp.remote import RemoteNode

if TYPE_CHECKING:
    from openfeature.flag_evaluation import FlagValueType

__all__ = ["DwcpProvider"]

_NAME = "dwcp"
_JOIN_S = 5.0

# What is off by somebody's decision about the flag is DISABLED, what is decided by the unit's name is a
# TARGETING_MATCH, and what is drawn by lot is a SPLIT.
_REASONS = {
    "kill_switch": Reason.DISABLED,
    "not_enabled": Reason.DISABLED,
    "expired": Reason.DISABLED,
    "not_built": Reason.DISABLED,
    "latched_off": Reason.DISABLED,
    "prerequisite_unmet": Reason.DISABLED,
    "peer_cannot": Reason.TARGETING_MATCH,
    "denied": Reason.TARGETING_MATCH,
    "allowed": Reason.TARGETING_MATCH,
    "percentage": Reason.SPLIT,
    "below_percentage": Reason.SPLIT,
    "ranked": Reason.SPLIT,
    "not_ranked": Reason.SPLIT,
}


class DwcpProvider(AbstractProvider):
    """Answers boolean flags from a node, with the targeting key as the unit.

    The key is a pair of nodes such as ``rack1|rack2`` for ``hybrid_mode``, and so on: see
    `dwcp.Flag.unit_kind`. Variants are ``on`` and ``off``. A flag that is switched off, killed or
    rolled back resolves to False, whatever default the caller gives: the default is for flags that
    cannot be asked for. What decided is in the metadata, as ``reason`` and ``explanation``.
    """

    def __init__(self, node: Node | RemoteNode, *, poll_s: float | None = 1.0) -> None:
        """``poll_s``: how often the node's events are looked at for changes of flags, which then
        are events of the provider; None: never."""
        super().__init__()
        self._node = node
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def get_metadata(self) -> Metadata:
        """The provider's name, ``dwcp``."""
        return Metadata(name=_NAME)

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Asks the node for its flags once, and begins to look for changes."""
        try:
            self._node.flags()
            after = self._last_sequence()
        except DwcpError as failure:
            raise ProviderNotReadyError(str(failure)) from failure
        if self._poll_s is not None and self._watcher is None:
            self._stopping.clear()
            self._watcher = threading.Thread(
                target=self._watch, args=(after,), name="dwcp-openfeature", daemon=True
            )
            self._watcher.start()

    def shutdown(self) -> None:
        """Looks for no more changes; the node goes on."""
        self._stopping.set()
        watcher, self._watcher = self._watcher, None
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join(_JOIN_S)

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """Whether the flag is on for the unit that the targeting key names."""
        self._check_name(flag_key)
        unit = None if evaluation_context is None else evaluation_context.targeting_key
        if not unit:
            raise TargetingKeyMissingError(
                f"{flag_key} is decided for one unit: its name is the targeting key"
            )
        try:
            return _resolution(self._node.explain_flag(flag_key, unit))
        except InvalidArgumentError as failure:
            raise InvalidContextError(str(failure)) from failure
        except DwcpError as failure:
            raise GeneralError(str(failure)) from failure

    async def resolve_boolean_details_async(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """As `resolve_boolean_details`, for asyncio."""
        resolve = self.resolve_boolean_details
        if isinstance(self._node, Node):
            return resolve(flag_key, default_value, evaluation_context)
        return await asyncio.to_thread(resolve, flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[str]:
        """No flag is a string: raises ``TypeMismatchError``."""
        self._refuse_type(flag_key, "string")

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[int]:
        """No flag is an integer: raises ``TypeMismatchError``."""
        self._refuse_type(flag_key, "integer")

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        """No flag is a float: raises ``TypeMismatchError``."""
        self._refuse_type(flag_key, "float")

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """No flag is an object: raises ``TypeMismatchError``."""
        self._refuse_type(flag_key, "object")

    def _check_name(self, flag_key: str) -> None:
        if flag_key not in FLAG_NAMES:
            known = ", ".join(FLAG_NAMES)
            raise FlagNotFoundError(f"no flag {flag_key!r}; there are {known}")

    def _refuse_type(self, flag_key: str, wanted: str) -> NoReturn:
        self._check_name(flag_key)
        raise TypeMismatchError(f"{flag_key} is a boolean, not a {wanted}")

    def _last_sequence(self) -> int:
        events = self._node.events()
        for _ in events:
            pass
        return events.position

    def _watch(self, after: int) -> None:
        is_stale = False
        while not self._stopping.wait(self._poll_s):
            try:
                if is_stale:
                    # Whoever answers again may be a node that was started anew, and counts anew.
                    after = self._last_sequence()
                    self.emit_provider_ready(ProviderEventDetails())
                    self._changed("the node answers again", list(FLAG_NAMES))
                    is_stale = False
                events = self._node.events(after=after)
                for event in events:
                    self._tell(event)
                after = events.position
            except DwcpError as failure:
                if not is_stale:
                    self.emit_provider_stale(ProviderEventDetails(message=str(failure)))
                is_stale = True

    def _tell(self, event: Event) -> None:
        if event.event == "flag_rolled_back":
            self._changed(f"rolled back: {event.details['why']}", [event.details["flag"]])
        elif event.event == "flags_changed":
            change = event.details["change"]
            named = [name for name in FLAG_NAMES if f"{name}:" in change]
            self._changed(f"{change} ({event.details['why']})", named or list(FLAG_NAMES))

    def _changed(self, message: str, names: list[str]) -> None:
        details = ProviderEventDetails(flags_changed=names, message=message)
        self.emit_provider_configuration_changed(details)


def _resolution(decision: FlagDecision) -> FlagResolutionDetails[bool]:
    metadata: dict[str, bool | int | float | str] = {
        "reason": decision.reason,
        "explanation": decision.text,
    }
    if decision.bucket is not None:
        metadata["bucket"] = decision.bucket
    return FlagResolutionDetails(
        value=decision.is_on,
        variant="on" if decision.is_on else "off",
        reason=_REASONS.get(decision.reason, Reason.UNKNOWN),
        flag_metadata=metadata,
    )
