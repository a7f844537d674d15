"""VMDK, the format of VMware: flat, sparse and compressed disks and chains of snapshots, read-only.

from secondsite.engine.images.vmdk import open_vmdk
"""

from __future__ import annotations

from secondsite.engine.images.vmdk.reader import VmdkImage, open_vmdk

__all__ = ["VmdkImage", "open_vmdk"]
