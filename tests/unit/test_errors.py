"""One line for people; the file, the exit status and whether to try again for programs."""

from __future__ import annotations

import errno

import pytest

from secondsite.engine import errors


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [
        (errors.Usage, 2, False), (errors.Refused, 3, False), (errors.Busy, 3, True), (errors.SourceChanged, 3, True),
        (errors.NewerFormat, 3, False), (errors.Damaged, 4, False), (errors.Unreachable, 5, True),
        (errors.Full, 5, True), (errors.Cancelled, 130, False),
    ],
)  # fmt: skip
def test_exit_statuses(kind: type[errors.Error], code: int, retryable: bool) -> None:
    assert issubclass(kind, errors.Error)
    assert (kind.exit_code, kind.retryable) == (code, retryable)


def test_the_line() -> None:
    assert str(errors.Refused("exists", path="/x")) == "/x: exists"
    damaged = errors.Damaged("torn", path="/x", offset=512)
    assert (str(damaged), damaged.path, damaged.offset) == ("/x: at byte 512: torn", "/x", 512)
    assert str(errors.Usage("no")) == "no"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_full(number: int) -> None:
    made = errors.from_os(OSError(number, "x"), "/x", "write it")
    assert isinstance(made, errors.Full)
    assert str(made).startswith("/x: cannot write it: ")


def test_other_errors_of_the_system() -> None:
    made = errors.from_os(OSError(errno.EIO, "x"), "/x", "read it")
    assert type(made) is errors.Unreachable
    assert "Input/output error" in str(made)
    assert "odd" in str(errors.from_os(OSError("odd"), "/x", "read it"))
