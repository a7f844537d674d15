"""The parsers of messages: what is written is read, and of anything else there is an error of ours."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondsite.engine import errors
from secondsite.engine.remote.link import protocol as p


def _hello(oldest: int = 1, newest: int = 1) -> p.Hello:
    return p.Hello(oldest, newest, "test", 1 << 24)


@given(st.sampled_from(sorted(p.KINDS)), st.integers(0, 2**32 - 1), st.binary(max_size=300), st.binary(max_size=300))
def test_round_trip(kind: int, call: int, control: bytes, body: bytes) -> None:
    header = p.parse_header(p.pack_header(kind, call, control, body, p.MORE), "peer")
    assert p.check_payload(header, control, body, "peer") == (kind, p.MORE, call, control, body)


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    for given_bytes in (data, data[: p.HEADER_BYTES].ljust(p.HEADER_BYTES, b"\0"), p.MAGIC + data):
        with pytest.raises(p.Garbled, match="peer"):
            p.parse_header(given_bytes, "peer")


def test_every_flipped_bit_of_a_message_is_noticed() -> None:
    control, body = b"control", b"body of it"
    whole = p.pack_header(p.DATA, 7, control, body) + control + body
    for bit in range(8 * len(whole)):
        bad = bytearray(whole)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(p.Garbled):
            header = p.parse_header(bad[: p.HEADER_BYTES], "peer")
            rest = bytes(bad[p.HEADER_BYTES :])
            p.check_payload(header, rest[: header.control], rest[header.control :], "peer")


def test_lengths_are_bounded_before_anything_is_read() -> None:
    with pytest.raises(ValueError):
        p.pack_header(p.DATA, 1, bytes(p.MAX_CONTROL + 1))
    fields = p._FIELDS.pack(p.MAGIC, 1, p.DATA, 0, 1, 0, p.MAX_BODY + 1, 0)
    with pytest.raises(p.Garbled, match="too long"):
        p.parse_header(fields + p._SUM.pack(p._sum(fields)), "peer")


@pytest.mark.parametrize("field, value", [(1, 2), (1, 0), (2, 0), (2, 99), (3, 4)])
def test_unknown_versions_kinds_and_flags(field: int, value: int) -> None:
    values = [p.MAGIC, 1, p.DATA, 0, 1, 0, 0, 0]
    values[field] = value
    fields = p._FIELDS.pack(*values)
    with pytest.raises(p.Garbled, match="is not known"):
        p.parse_header(fields + p._SUM.pack(p._sum(fields)), "peer")


@settings(max_examples=300)
@given(st.binary(max_size=100))
def test_any_control_part_is_that_type_or_an_error(data: bytes) -> None:
    for kind in (p.Hello, p.Request, p.Failure):
        try:
            assert isinstance(p.decode(data, kind, "peer"), kind)
        except p.Garbled as error:
            assert "peer" in str(error)


def test_mutated_control_parts() -> None:
    """Seeded: bytes of good ones are changed, cut and repeated."""
    chance = random.Random(5)
    good = [p.encode(_hello()), p.encode(p.Request("op", msgspec.Raw(p.encode(_hello())))),
            p.encode(p.Failure("Busy", "text", "path"))]  # fmt: skip
    for _ in range(2000):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        data = data[: chance.randint(1, len(data))] * chance.choice((1, 1, 1, 2))
        for kind in (p.Hello, p.Request, p.Failure):
            try:
                p.decode(bytes(data), kind, "peer")
            except p.Garbled:
                pass


def test_fields_that_are_not_known_or_of_another_type() -> None:
    for bad in ({"oldest": 1, "newest": 1, "software": "x", "window": 1, "more": 1},
                {"oldest": "1", "newest": 1, "software": "x", "window": 1}, {"oldest": 1}, []):  # fmt: skip
        with pytest.raises(p.Garbled):
            p.decode(msgspec.msgpack.encode(bad), p.Hello, "peer")


def test_deep_nesting_is_an_error() -> None:
    with pytest.raises(p.Garbled):
        p.decode(b"\x91" * 100_000 + b"\xc0", p.Hello, "peer")


def test_the_highest_common_version_is_spoken() -> None:
    assert p.agree(_hello(1, 3), _hello(2, 5), "peer") == 3
    with pytest.raises(errors.Refused, match="this program must be updated"):
        p.agree(_hello(1, 1), _hello(2, 3), "peer")
    with pytest.raises(errors.Refused, match="it must be updated"):
        p.agree(_hello(2, 3), _hello(1, 1), "peer")


@pytest.mark.parametrize("kind", [errors.Busy, errors.Refused, errors.Full, errors.Damaged, errors.NewerFormat])
def test_errors_cross_as_what_they_are(kind: type[errors.Error]) -> None:
    there = p.decode(p.encode(p.failure(kind("it is so", path="name"))), p.Failure, "peer")
    here = p.raised(there, "host:1")
    assert type(here) is kind and str(here) == "host:1: name: it is so" and here.retryable == kind.retryable


def test_foreign_errors_tell_nothing_and_terminals_are_safe() -> None:
    assert "secret" not in p.failure(KeyError("secret")).message
    assert str(p.raised(p.Failure("os", "a\x1b[2Jb\n"), "peer")) == "peer: a?[2Jb?"
