"""Trackers: what cuts an instant of a source for a cycle, and names the bytes that may have changed since the last."""
