"""A running QEMU: its monitor (QMP), the agent in its guest, and a frozen view of one of its disks."""
