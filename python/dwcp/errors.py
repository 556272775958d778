"""The one tree of exceptions.

Everything that the library raises is a `DwcpError`. Its subclasses also inherit the builtin
exception that a Python program would look for, so ``except TimeoutError`` works:

>>> isinstance(error_from_code(-8, "no answer"), TimeoutError)
True
>>> str(error_from_code(-10, "no guest 'vm1'"))
"no guest 'vm1'"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwcp.status import Status

if TYPE_CHECKING:
    from dwcp.report import Report

__all__ = [
    "AlreadyExistsError",
    "BusyError",
    "CallbackError",
    "CancelledError",
    "ConfigError",
    "DidNotConvergeError",
    "DwcpConnectionError",
    "DwcpError",
    "DwcpOSError",
    "DwcpTimeoutError",
    "InDoubtError",
    "IntegrityError",
    "InvalidArgumentError",
    "LayoutMismatchError",
    "LimitError",
    "MigrationError",
    "NotFoundError",
    "PanicError",
    "PeerStalledError",
    "PostCopyLostError",
    "ProtocolError",
    "RefusedError",
    "StateError",
    "StateFileError",
    "UnsupportedError",
    "WouldBlockError",
    "error_from_code",
]


class DwcpError(Exception):
    """Base of all exceptions of the library."""

    code: Status
    """The status code, as in C."""
    message: str
    """What happened, with the offending value."""
    report: Report | None
    """The report of the migration that failed, if one did."""

    def __init__(self, code: int, message: str, report: Report | None = None) -> None:
        super().__init__(code, message)
        self.code = Status(code)
        self.message = message
        self.report = report

    @property
    def name(self) -> str:
        """The status name, such as ``DWCP_ERR_TIMEOUT``."""
        return self.code.c_name

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.message!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return (error_from_code, (int(self.code), self.message, self.report))


class InvalidArgumentError(DwcpError, ValueError):
    """An argument is out of range or malformed."""


class PanicError(DwcpError, RuntimeError):
    """The library caught a bug of its own; the object should not be used further."""


class WouldBlockError(DwcpError, BlockingIOError):
    """There is nothing to do now."""


class DwcpTimeoutError(DwcpError, TimeoutError):
    """The time allowed ran out."""


class CancelledError(DwcpError):
    """The migration was cancelled; the guest runs at the source."""


class NotFoundError(DwcpError, KeyError):
    """No object of this name or id."""


class AlreadyExistsError(DwcpError, ValueError):
    """An object of this name exists."""


class BusyError(DwcpError, RuntimeError):
    """The object is in use."""


class UnsupportedError(DwcpError, NotImplementedError):
    """This host or build lacks what is needed; the message says what."""


class LimitError(DwcpError, MemoryError):
    """A limit on what the library holds in memory was reached; the message names it."""


class DwcpOSError(DwcpError, OSError):
    """An operating system call failed."""


class StateError(DwcpError, RuntimeError):
    """The operation is not allowed in this state, such as on a stopped node."""


class DwcpConnectionError(DwcpError, ConnectionError):
    """No connection could be made, or all were lost."""


class ProtocolError(DwcpConnectionError):
    """The peer does not speak this protocol, or breaks it."""


class PeerStalledError(DwcpConnectionError, TimeoutError):
    """The peer took data but did not move on in time."""


class RefusedError(DwcpConnectionError, ConnectionRefusedError):
    """The peer refused; the message holds its reason."""


class IntegrityError(DwcpError):
    """Bytes do not match their checksum, or the images differ."""


class MigrationError(DwcpError):
    """A migration failed; the guest runs at the source unless its class says otherwise."""


class LayoutMismatchError(MigrationError, ValueError):
    """The two sides' memory regions differ."""


class DidNotConvergeError(MigrationError):
    """The guest dirties memory faster than it can be sent."""


class InDoubtError(MigrationError):
    """The link broke at the commit point: only the destination knows who owns the guest."""


class PostCopyLostError(MigrationError):
    """The guest ran at the destination and pages that it lacked are lost, or it is lost itself."""


class StateFileError(MigrationError, OSError):
    """The record of who owns a guest could not be written."""


class CallbackError(DwcpError, RuntimeError):
    """A callback of the guest failed; ``__cause__`` is the exception that it raised."""


class ConfigError(DwcpError, ValueError):
    """A configuration value or file is wrong."""


_BY_CODE: dict[Status, type[DwcpError]] = {
    Status.INVALID_ARGUMENT: InvalidArgumentError,
    Status.NULL_POINTER: InvalidArgumentError,
    Status.BAD_HANDLE: StateError,
    Status.BAD_STRUCT_SIZE: InvalidArgumentError,
    Status.PANIC: PanicError,
    Status.BUFFER_TOO_SMALL: InvalidArgumentError,
    Status.WOULD_BLOCK: WouldBlockError,
    Status.TIMEOUT: DwcpTimeoutError,
    Status.CANCELLED: CancelledError,
    Status.NOT_FOUND: NotFoundError,
    Status.ALREADY_EXISTS: AlreadyExistsError,
    Status.BUSY: BusyError,
    Status.UNSUPPORTED: UnsupportedError,
    Status.LIMIT_REACHED: LimitError,
    Status.IO: DwcpOSError,
    Status.STOPPED: StateError,
    Status.BAD_STATE: StateError,
    Status.PEER_STALLED: PeerStalledError,
    Status.REFUSED: RefusedError,
    Status.LAYOUT_MISMATCH: LayoutMismatchError,
    Status.DID_NOT_CONVERGE: DidNotConvergeError,
    Status.IN_DOUBT: InDoubtError,
    Status.STATE_FILE: StateFileError,
    Status.POST_COPY_LOST: PostCopyLostError,
}

# A code that a later library added gets the class of its area.
_BY_AREA: dict[int, type[DwcpError]] = {
    1: ProtocolError,
    2: DwcpConnectionError,
    3: IntegrityError,
    4: MigrationError,
    5: CallbackError,
    6: ConfigError,
}


def error_from_code(code: int, message: str, report: Report | None = None) -> DwcpError:
    """The exception for a status code, known or not.

    >>> error_from_code(-9999, "from the future")
    DwcpError(DWCP_ERR_UNKNOWN_9999, 'from the future')
    """
    kind = _BY_CODE.get(Status(code)) or _BY_AREA.get(-code // 100, DwcpError)
    return kind(code, message, report)
