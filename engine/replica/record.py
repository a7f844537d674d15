"""Small records: JSON with a checksum, written twice into one file, so that one bad byte loses nothing.

FORMAT.md, section 1, is the specification.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from secondsite.engine import errors, units
from secondsite.engine.files import Files

FORMAT = 1
MAX_BYTES = 1 << 20


def pack(fields: dict[str, Any]) -> bytes:
    """Two identical lines. `format` is put first."""
    fields = {"format": FORMAT, **fields}
    line = json.dumps({**fields, "checksum": _checksum(fields)}) + "\n"
    return (line + line).encode()


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]


def unpack(data: bytes, path: str) -> tuple[dict[str, Any], str | None]:
    """(fields, complaint): the first good line, and what was wrong with the other. Raises Damaged, NewerFormat."""
    half = len(data) // 2
    complaint: str | None = None
    # The halves, by their place: a bad byte that makes or takes a line feed spoils one of them only. The first line,
    # by its line feed, is for a file that was cut.
    for start, end in ((0, half), (half, len(data)), (0, data.find(b"\n") + 1)):
        fields, wrong = _line(data[start:end], path)
        if wrong:
            complaint = complaint or f"{path}: at byte {start}: {wrong}"
        elif fields is not None:
            if complaint is None and data[:half] != data[half:]:
                complaint = f"{path}: at byte {half}: two equal lines were expected"
            return fields, complaint
    raise errors.Damaged("no record with a checksum that holds was found", path=path, offset=0)


def _line(line: bytes, path: str) -> tuple[dict[str, Any] | None, str | None]:
    fields: dict[str, Any]
    try:
        fields = json.loads(line)
        version, checksum = fields["format"], fields.pop("checksum")
        holds = isinstance(version, int) and _checksum(fields) == checksum
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None, "a record line does not parse"
    if not holds:
        return None, "a record's checksum does not hold"
    if version > FORMAT:
        raise errors.NewerFormat(f"format {version}; this program knows {FORMAT}", path=path)
    return fields, None


def read(files: Files, path: str) -> tuple[dict[str, Any], str | None]:
    """Read a record file: (fields, complaint)."""
    return unpack(files.read_bytes(path, MAX_BYTES), path)


def write(files: Files, path: str, fields: dict[str, Any]) -> None:
    """Replace a record file in one step; its name is durable after the folder's flush."""
    files.write_bytes(path, pack(fields))


def plain(value: Mapping[str, Any]) -> str:
    """An object as JSON, as a record has it. Raises TypeError or ValueError for what is none."""
    return json.dumps(dict(value), allow_nan=False)


def parsed(text: str) -> dict[str, Any]:
    """An object that came as JSON. Raises Damaged."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise errors.Damaged("it is no JSON object")
    return found


def field(fields: dict[str, Any], name: str, kind: type, path: str) -> Any:
    """One field of the expected type, or Damaged: a checksum proves who wrote it, not that it makes sense."""
    value = fields.get(name)
    if not isinstance(fields.get(name), kind) or isinstance(value, bool):
        raise errors.Damaged(f"{name!r} should be {kind.__name__}", path=path, offset=0)
    if isinstance(value, int) and not 0 <= value <= units.MAX_NUMBER:
        raise errors.Damaged(f"{name!r} is not from 0 to 2^63", path=path, offset=0)
    return value
