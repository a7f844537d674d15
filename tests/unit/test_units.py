"""Sizes as people write them."""

from __future__ import annotations

import pytest

from secondsite.engine import errors, units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("64K", 65536), ("64k", 65536), ("64KiB", 65536), ("64kb", 65536),
        (" 1.5G ", 3 << 29), ("2TiB", 2 << 40), ("0.5M", 1 << 19), ("1B", 1), ("9007199254740993", (1 << 53) + 1),
        ("8388607T", 8388607 << 40),
    ],
)  # fmt: skip
def test_parse_size(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "K", "-1", "1e3", "1,5G", "64X", "1 2", "0x10", "٣", "nan", "inf", "8388608T", "9" * 400]
)
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(errors.Usage, match=r"is not a size|more than a file"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 40, "1.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert units.format_size(size) == text


@pytest.mark.parametrize("size", [4096, 65536, 4 << 20])
def test_block_sizes(size: int) -> None:
    assert units.check_block_size(size) == size


@pytest.mark.parametrize("size", [0, -4096, 2048, 5000, 4097, 8 << 20])
def test_what_is_not_a_block_size(size: int) -> None:
    with pytest.raises(errors.Usage, match="power of two"):
        units.check_block_size(size)
