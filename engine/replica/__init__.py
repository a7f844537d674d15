"""The replica in a directory: a head that is always a plain image, a block map, and recovery points (DESIGN D4)."""
