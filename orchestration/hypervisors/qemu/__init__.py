"""Machines that QEMU runs, each in a process of its own, driven over QMP."""
