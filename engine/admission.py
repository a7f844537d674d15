"""What a source wants of its replica, and whether it may write into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from secondsite.engine import errors, units
from secondsite.engine.files import Files
from secondsite.engine.images.raw import real_path
from secondsite.engine.replica.container import check_format
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.layout import Layout
from secondsite.engine.source import Source


@dataclass(frozen=True, slots=True)
class Terms:
    """See `replicate`. Raises Usage for a block size, a format or an epoch that there is not."""

    block_size: int | None = None
    head: str | None = None
    epoch: int | None = None
    accept_source: bool = False
    encrypt: bool = False
    replica_id: str | None = None

    def __post_init__(self) -> None:
        if self.block_size is not None:
            units.check_block_size(self.block_size)
        if self.head is not None:
            check_format(self.head)
        if self.epoch is not None:
            units.check_number(self.epoch, "epoch")

    def meet(self, found: str | None, where: str, *, empty: bool = False) -> None:
        """Is it the replica that is meant, where the caller names one? `found` is the id of the one there, or None;
        `empty`: it was never committed to. Raises NoReplica, Refused.
        """
        if self.replica_id is None or found == self.replica_id:
            return
        if found is None or empty:
            told = f"replica {self.replica_id} is not there, and none is begun in its place; is its folder mounted?"
            raise errors.NoReplica(told, path=where)
        raise errors.Refused(f"is replica {found}, and not {self.replica_id}, which was meant", path=where)


def open_or_create(
    root: str, files: Files, make: Callable[[], Identity], *, probe: bool, terms: Terms | None = None
) -> Replica:
    """The replica in a folder, or a new one there without a point, which `make` says what it is. Raises Refused inside
    another one, and as `Terms.meet`; see Replica.create for `probe`.
    """
    layout = Layout(root)
    if files.size(layout.identity) >= 0 or files.listdir(layout.points):
        return Replica.open(root, files)
    if terms is not None:
        terms.meet(None, root)
    for folder in PurePosixPath(real_path(root)).parents:
        if files.size(Layout(str(folder)).identity) >= 0:
            raise errors.Refused("lies inside another replica; choose a folder of its own", path=root)
    return Replica.create(root, files, make(), probe=probe)


def is_empty(replica: Replica) -> bool:
    """Was nothing ever committed here, and does it wait for nothing?"""
    files, layout = replica.files, replica.layout
    return not replica.head_generation() and not files.exists(layout.head) and files.size(layout.waiting) < 0


def admit(replica: Replica, origin: Source, terms: Terms) -> None:
    """May this source write into this replica, whose writer the caller is? Raises Refused. Mends a damaged copy of the
    identity.
    """
    identity, block_size, head, epoch = replica.look_again(), terms.block_size, terms.head, terms.epoch
    empty = is_empty(replica)
    terms.meet(identity.replica_id.hex(), replica.layout.root, empty=empty)
    if empty:
        # A first cycle that failed binds nobody to what it was to be.
        made = identity.raised(max(identity.epoch, epoch or 0)).following(origin.name, origin.format)
        made = made.reshaped(block_size or identity.block_size, head or identity.head_format)
        if made != identity:
            replica.become(made)
        return
    raised = admitted(identity, origin, terms, replica.layout.root)
    if raised != identity or replica.warnings:
        replica.write_identity(raised)


def admitted(identity: Identity, origin: Source, terms: Terms, where: str) -> Identity:
    """What a replica with points is once this source writes into it. Raises Refused, naming the place `where` it is."""
    if terms.block_size is not None and terms.block_size != identity.block_size:
        raise errors.Refused(
            f"its block size is {identity.block_size}, not {terms.block_size}; it stays for a replica's life",
            path=where,
        )
    if terms.head is not None and terms.head != identity.head_format:
        raise errors.Refused(
            f"its head is of format {identity.head_format}, not {terms.head}; it stays for a replica's life",
            path=where,
        )
    if terms.epoch is not None and terms.epoch < identity.epoch:
        raise errors.Refused(
            f"is at epoch {identity.epoch}, this source at {terms.epoch}: a failover happened in between", path=where
        )
    accepted = terms.accept_source or identity.adopted
    if not origin.follows(identity.source) and not accepted:
        raise errors.Refused(
            f"follows another image, {identity.source.partition(':')[2]} (--accept-source lets this one replace it)",
            path=where,
        )
    if origin.format != identity.source_format and not accepted:
        raise errors.Refused(
            f"follows an image of format {identity.source_format}, not {origin.format} (--accept-source allows it)",
            path=where,
        )
    return identity.raised(max(identity.epoch, terms.epoch or 0)).following(origin.name, origin.format)
