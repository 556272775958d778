"""One tree of errors, over one table of codes."""

from __future__ import annotations

import pickle

import pytest

import dwcp
from dwcp import _dwcp
from dwcp.errors import error_from_code


def test_status_is_the_library_table() -> None:
    assert [(int(status), status.c_name) for status in dwcp.Status] == _dwcp.status_table()


@pytest.mark.parametrize("status", [s for s in dwcp.Status if s != 0], ids=lambda s: str(s.name))
def test_every_code_has_an_error_that_survives_pickling(status: dwcp.Status) -> None:
    error = error_from_code(status, "the value 7")
    assert type(error) is not dwcp.DwcpError or status == dwcp.Status.WOULD_BLOCK
    copy = pickle.loads(pickle.dumps(error))
    for each in (error, copy):
        assert (each.code, each.name, each.message) == (status, status.c_name, "the value 7")
        assert str(each) == "the value 7"
        assert isinstance(each, dwcp.DwcpError)
    assert type(copy) is type(error)


@pytest.mark.parametrize(
    ("code", "builtin"),
    [
        (dwcp.Status.TIMEOUT, TimeoutError),
        (dwcp.Status.INVALID_ARGUMENT, ValueError),
        (dwcp.Status.NOT_FOUND, KeyError),
        (dwcp.Status.IO, OSError),
        (dwcp.Status.LIMIT_REACHED, MemoryError),
        (dwcp.Status.CONNECT, ConnectionError),
        (dwcp.Status.CONNECTION_LOST, ConnectionError),
        (dwcp.Status.PEER_STALLED, TimeoutError),
        (dwcp.Status.REFUSED, ConnectionRefusedError),
        (dwcp.Status.BAD_MAGIC, ConnectionError),
        (dwcp.Status.STATE_FILE, OSError),
        (dwcp.Status.CONFIG, ValueError),
    ],
)
def test_errors_are_also_builtin_ones(code: dwcp.Status, builtin: type[BaseException]) -> None:
    with pytest.raises(builtin):
        raise error_from_code(code, "x")


@pytest.mark.parametrize("code", [-99, -199, -299, -399, -499, -599, -699, -(2**31), 12345])
def test_unknown_codes_make_errors_of_their_area(code: int) -> None:
    error = error_from_code(code, "from the future")
    assert error.code == code
    assert error.name == f"DWCP_ERR_UNKNOWN_{abs(code)}"
    if code == -299:
        assert isinstance(error, ConnectionError)


def test_unknown_names_survive() -> None:
    status = dwcp.Status.from_name("DWCP_ERR_LATER")
    assert status.c_name == "DWCP_ERR_LATER"
    assert status != dwcp.Status.OK


def test_a_panic_is_an_exception() -> None:
    with pytest.raises(dwcp.PanicError, match="broken on purpose") as caught:
        _dwcp.raise_panic("broken on purpose")
    assert caught.value.name == "DWCP_ERR_PANIC"
