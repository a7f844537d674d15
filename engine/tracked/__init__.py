"""Images that a server of ours writes: their change maps on disk, cuts of them, and the channel that cycles ask on."""
