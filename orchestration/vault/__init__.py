"""The vault: what is protected, how, and what was done. Metadata only; never a block of a disk (R1.9)."""
