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
# left the estate has an `ending`, which says what the estate before said of it (ending.py). `active` is the side whose
# disks are the truth, `direction` leads from the source (forward) or to it (reverse). `failover` and `test` are what is
# under way (../failover/intent.py), written before anything is done; `away` is the machine as it runs at the target.
# `at_rest` says how a machine is let go on that stands still around an instant (../protection/rest.py). `anew`:
# its resync, which an operator asked for, may begin other replicas where those that the item knows are lost.
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
    Column("active", String(10), nullable=False, default="source"),
    Column("direction", String(10), nullable=False, default="forward"),
    Column("failover", JSON(none_as_null=True)),
    Column("test", JSON(none_as_null=True)),
    Column("away", JSON(none_as_null=True)),
    Column("application", JSON(none_as_null=True)),
    Column("at_rest", JSON(none_as_null=True)),
    Column("tripwire", JSON(none_as_null=True)),
    Column("anew", Boolean, nullable=False, default=False),
    Column("lease_holder", String(64)),
    Column("lease_until", Float, nullable=False, default=0.0),
    UniqueConstraint("machine"),
    Index("item_due", "due"),
)  # fmt: skip

# A disk of it, and the replica that follows it. `replica_id` is known after the first copy. `back` is the replica at
# the source that follows it while its machine runs at the target. One that left its machine, at `leaving`, stays as
# long as a point needs it.
disk = Table(
    "disk", metadata,
    Column("item", ForeignKey("item.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String(1000), primary_key=True),
    Column("replica", String(1000), nullable=False),
    Column("replica_id", String(32)),
    Column("generation", BigInteger, nullable=False, default=0),
    Column("virtual_bytes", BigInteger),
    Column("back", String(1000)),
    Column("back_id", String(32)),
    Column("leaving", Float),
)  # fmt: skip

# A recovery point of the machine: the generation of each disk, all of one instant. There once all are committed (P16).
# One that is dropped cannot be chosen any more; its row goes when the replicas have dropped it too. Its `direction`
# says which replicas hold it: forward, reverse, or gone, which is one that keeps its number from being given again.
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
    Column("direction", String(10), nullable=False, default="forward"),
)  # fmt: skip

# A test failover that has ended: what it showed (R9.3). `machine` stays when its item goes.
rehearsal = Table(
    "rehearsal", metadata,
    Column("id", Integer, primary_key=True),
    Column("machine", String(200), nullable=False),
    Column("began", Float, nullable=False),
    Column("ended", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("point", BigInteger),
    Column("forced", Boolean, nullable=False, default=False),
    Column("notes", Text),
    Column("drill", Boolean, nullable=False, default=False),
)  # fmt: skip

# A registration key is known by its digest alone; it opens the door once, within five days (R1.7).
key = Table(
    "key", metadata,
    Column("digest", String(64), primary_key=True),
    Column("created", Float, nullable=False),
    Column("used", Float),
    Column("used_by", String(200)),
)  # fmt: skip

# What registered: the Provider of a management server or host, or an agent (R1.8). They do not call again, so `seen` is
# as `at`, and nobody is shown it.
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

# A run of a recovery plan. `said` is the plan as it stood in the estate then, as JSON; `attempt` counts how often it
# was begun; the lease says which process is at it.
plan_run = Table(
    "plan_run", metadata,
    Column("id", String(32), primary_key=True),
    Column("plan", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("at", String(100), nullable=False),
    Column("who", String(200), nullable=False),
    Column("began", Float, nullable=False),
    Column("ended", Float),
    Column("state", String(20), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("said", Text, nullable=False),
    Column("lease_holder", String(200)),
    Column("lease_until", Float, nullable=False),
)  # fmt: skip

# A task of it, by its place in the order (../plans/order.py); there once it was begun.
plan_task = Table(
    "plan_task", metadata,
    Column("run", ForeignKey("plan_run.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(20), nullable=False),
    Column("began", Float, nullable=False),
    Column("ended", Float),
    Column("detail", Text),
)  # fmt: skip

# A drill that was done (../drills); its report is a file.
drill = Table(
    "drill", metadata,
    Column("id", String(32), primary_key=True),
    Column("machine", String(200), nullable=False),
    Column("began", Float, nullable=False),
    Column("ok", Boolean, nullable=False),
    Column("up_seconds", Float),
    Column("path", Text),
    Index("drill_machine", "machine", "began"),
)  # fmt: skip
