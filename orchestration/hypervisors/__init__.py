"""What runs machines on a host: QEMU, libvirt, or commands of the user's own."""
