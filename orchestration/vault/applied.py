"""The estate that was applied last: what is protected, for who does not change it.

By itself, since what it takes to change an estate, its rules and mappings, is a third of what `status` would load.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from secondsite.orchestration.estate.model import Estate
from secondsite.orchestration.vault import schema


def last_estate(connection: Connection) -> Estate | None:
    """None before the first one. Raises what `parse` does, of a vault that was written by another program."""
    table = schema.revision
    packed = connection.execute(select(table.c.packed).order_by(table.c.id.desc()).limit(1)).scalar()
    if packed is not None:
        try:
            return msgspec.json.decode(packed, type=Estate)
        except msgspec.DecodeError:
            pass  # of another version of this program, or rotten; the text is what counts
    found = connection.execute(select(table.c.estate).order_by(table.c.id.desc()).limit(1)).scalar()
    if found is None:
        return None
    from secondsite.orchestration.estate.loading import parse

    return parse(found.encode(), "the vault's estate").estate
