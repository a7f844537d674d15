"""VHD, the format of Virtual PC, Hyper-V before 2012 and Azure: read, written in place and created.

    open_vhd(path)                    fixed, dynamic and differencing, read-only
    open_vhd(path, "rw")              fixed and dynamic, written in place
    create_fixed, create_dynamic      new files
    fixed_footer(size)                the 512 bytes that turn `size` bytes of a raw disk into a fixed VHD
"""

from __future__ import annotations

from secondsite.engine.images.vhd.create import AZURE_UNIT, create_dynamic, create_fixed, fixed_footer
from secondsite.engine.images.vhd.reader import VhdImage, open_vhd

__all__ = ["AZURE_UNIT", "VhdImage", "create_dynamic", "create_fixed", "fixed_footer", "open_vhd"]
