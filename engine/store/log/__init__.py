"""A replica in an object store: a log of segments, a tree that says where each block lies, a head (../FORMAT.md)."""
