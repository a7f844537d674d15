"""Replicas on other hosts: messages, connections, and what goes over them (engine/DESIGN.md)."""
