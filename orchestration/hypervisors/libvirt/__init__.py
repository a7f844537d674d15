"""Machines that libvirt runs, through its own client, virsh."""
