"""The vault's tables. A change goes into a new file of migrations/ as well; a test compares the two.

Times are UTC seconds since 1970 as floating point; what retention counts with is microseconds of an item's own
timeline (../retention/timeline.py). What is kept as JSON is never asked for by its parts.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

vault = Table(
    "vault", metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("region", String(200), nullable=False),
    Column("subscription", String(200), nullable=False),
    Column("profile", String(20), nullable=False),
    Column("created", Float, nullable=False),
)  # fmt: skip

# The estate as it was applied, each time that it changed something; the newest one counts. `packed` is the same as
# JSON, which is read in a tenth of the time.
revision = Table(
    "revision", metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("estate", Text, nullable=False),
    Column("packed", Text),
)  # fmt: skip

# A protected machine. `doing` is the step that runs, or ran when its process died; `lease_*` say whose it is. One that
# left the estate has an `ending`, which says what the estate before said of it (ending.py).
item = Table(
    "item", metadata,
    Column("id", String(32), primary_key=True),
    Column("machine", String(200), nullable=False),
    Column("protection", String(200), nullable=False),
    Column("state", Integer, nullable=False),
    Column("doing", String(40)),
    Column("reason", Text),
    Column("epoch", Integer, nullable=False, default=1),
    Column("enabled", Float, nullable=False),
    Column("due", Float, nullable=False),
    Column("last", Float),
    Column("application_last", Float),
    Column("statistics", JSON, nullable=False),
    Column("timeline", JSON),
    Column("failures", Integer, nullable=False, default=0),
    Column("sending", Boolean, nullable=False, default=True),
    Column("ending", JSON(none_as_null=True)),
    Column("lease_holder", String(64)),
    Column("lease_until", Float, nullable=False, default=0.0),
    UniqueConstraint("machine"),
    Index("item_due", "due"),
)  # fmt: skip

# A disk of it, and the replica that follows it. `replica_id` is known after the first copy.
disk = Table(
    "disk", metadata,
    Column("item", ForeignKey("item.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String(1000), primary_key=True),
    Column("replica", String(1000), nullable=False),
    Column("replica_id", String(32)),
    Column("generation", BigInteger, nullable=False, default=0),
    Column("virtual_bytes", BigInteger),
)  # fmt: skip

# A recovery point of the machine: the generation of each disk, all of one instant. There once all are committed (P16).
# One that is dropped cannot be chosen any more; its row goes when the replicas have dropped it too.
point = Table(
    "point", metadata,
    Column("item", ForeignKey("item.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("time", String(40), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("application", Boolean, nullable=False, default=False),
    Column("pinned", Text),
    Column("generations", JSON, nullable=False),
    Column("changed_bytes", BigInteger, nullable=False, default=0),
    Column("dropped", Boolean, nullable=False, default=False),
)  # fmt: skip

# A registration key is known by its digest alone; it opens the door once, within five days (R1.7).
key = Table(
    "key", metadata,
    Column("digest", String(64), primary_key=True),
    Column("created", Float, nullable=False),
    Column("used", Float),
    Column("used_by", String(200)),
)  # fmt: skip

# What registered: the Provider of a management server or host, or an agent (R1.8).
registered = Table(
    "registered", metadata,
    Column("kind", String(20), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("version", String(100), nullable=False),
    Column("at", Float, nullable=False),
    Column("seen", Float, nullable=False),
)  # fmt: skip

# Every action: who, what, on what, when, and how it ended. An action that is open has no result yet.
audit = Table(
    "audit", metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("what", String(80), nullable=False),
    Column("subject", String(400), nullable=False),
    Column("result", String(20)),
    Column("ended", Float),
    Column("detail", Text),
)  # fmt: skip
