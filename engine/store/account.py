"""What an Azure storage account says of itself, and what that means for replicas and disks. Nothing here asks it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """As Get Account Information has it: `sku` such as Standard_RAGRS, `kind` such as StorageV2. `hierarchical`: it has
    folders as Data Lake Storage has them; None where it does not say.
    """

    sku: str
    kind: str
    hierarchical: bool | None = None

    @property
    def redundancy(self) -> str:
        """LRS, ZRS, GRS, RAGRS, GZRS or RAGZRS."""
        return self.sku.rpartition("_")[2].upper()

    @property
    def premium(self) -> bool:
        return self.sku.lower().startswith("premium")

    @property
    def page_blobs(self) -> bool:
        """Can it hold disks?"""
        return self.kind in ("Storage", "StorageV2") and not self.hierarchical

    @property
    def block_blobs(self) -> bool:
        """Can it hold replicas? A premium account of the general kind has page blobs alone."""
        general = self.kind in ("Storage", "StorageV2")
        return not self.premium if general else self.kind in ("BlobStorage", "BlockBlobStorage")


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that is broken, by number, and how."""

    rule: str
    text: str


GEO_REDUNDANT = ("GRS", "RAGRS", "GZRS", "RAGZRS")


def problems(
    account: Account, *, allowed: tuple[str, ...] = GEO_REDUNDANT, said: str | None = None
) -> Iterator[Problem]:  # fmt: skip
    """What an account is not that a protected item's is to be (R12.11); `said` is what the estate says it is. Region
    and subscription are the estate's alone to know: the service tells neither.
    """
    if account.redundancy not in allowed:
        yield Problem("R12.11", f"the account is {account.sku}, which is none of {', '.join(allowed)}")
    if said is not None and said.upper() != account.redundancy:
        yield Problem("R12.11", f"the account is {account.sku}, and the estate says {said}")
