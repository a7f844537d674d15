"""Failover: what may be done in which situation, and what is then done to machines, replicas and the vault."""
