"""The status codes of the library, as in C."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Status"]

_UNKNOWN_NAME = -(2**31)


class Status(IntEnum):
    """Outcome of an operation: 0 is success, negatives are errors.

    The numbers are those of the C type ``dwcp_status``. A number that this version does not know
    makes a member of its own instead of an exception:

    >>> Status.TIMEOUT.c_name
    'DWCP_ERR_TIMEOUT'
    >>> Status(-9876).c_name
    'DWCP_ERR_UNKNOWN_9876'
    """

    OK = 0
    INVALID_ARGUMENT = -1
    NULL_POINTER = -2
    BAD_HANDLE = -3
    BAD_STRUCT_SIZE = -4
    PANIC = -5
    BUFFER_TOO_SMALL = -6
    WOULD_BLOCK = -7
    TIMEOUT = -8
    CANCELLED = -9
    NOT_FOUND = -10
    ALREADY_EXISTS = -11
    BUSY = -12
    UNSUPPORTED = -13
    LIMIT_REACHED = -14
    IO = -15
    STOPPED = -16
    BAD_STATE = -17

    BAD_MAGIC = -100
    BAD_VERSION = -101
    BAD_FRAME = -102
    UNKNOWN_FEATURE = -103
    UNEXPECTED_MESSAGE = -104

    CONNECT = -200
    CONNECTION_LOST = -201
    PEER_STALLED = -202
    REFUSED = -203

    CORRUPT = -300
    DIGEST_MISMATCH = -301

    LAYOUT_MISMATCH = -400
    DID_NOT_CONVERGE = -401
    PEER_ABORTED = -402
    IN_DOUBT = -403
    STATE_FILE = -404
    POST_COPY_LOST = -405

    CALLBACK = -500

    CONFIG = -600

    @property
    def c_name(self) -> str:
        """The name as in C and JSON, such as ``DWCP_ERR_TIMEOUT``."""
        return self.name if self.name.startswith("DWCP_") else _c_name(self.name)

    @classmethod
    def from_name(cls, c_name: str) -> Status:
        """The status with this C name; an unknown name makes a member of its own.

        >>> Status.from_name("DWCP_ERR_BUSY")
        <Status.BUSY: -12>
        """
        for status in cls:
            if status.c_name == c_name:
                return status
        return _pseudo_member(cls, _UNKNOWN_NAME, c_name)

    @classmethod
    def _missing_(cls, value: object) -> Status | None:
        if not isinstance(value, int):
            return None
        return _pseudo_member(cls, value, f"DWCP_ERR_UNKNOWN_{abs(value)}")


def _c_name(name: str) -> str:
    return "DWCP_OK" if name == "OK" else f"DWCP_ERR_{name}"


def _pseudo_member(cls: type[Status], value: int, name: str) -> Status:
    status = int.__new__(cls, value)
    status._name_ = name
    status._value_ = value
    return status
