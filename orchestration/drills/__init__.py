"""Drills (M7): a test failover that proves that a machine comes up from its copy, and how soon."""
