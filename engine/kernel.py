"""The batch kernels: native where the extension modules were built, portable where they were not.

Both give the same bits. `SECONDSITE_KERNEL=native` or `portable` asks for one of them; a kernel that this
installation does not have is then an error, never a silent change. Import this module, never `_scan` itself:

    from secondsite.engine import kernel
    kernel.scan.scan_segments(...); kernel.codec.Encoder(...); kernel.files.write_blocks(...); kernel.Bitmap(...)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from secondsite.engine import errors

if TYPE_CHECKING:
    from secondsite.engine import _bitmap, _codec, _crc, _entries, _extents, _files, _scan, _tables, _vhdx

    scan = _scan
    codec = _codec
    crc = _crc
    entries = _entries
    extents = _extents
    files = _files
    tables = _tables
    vhdx = _vhdx
    Bitmap = _bitmap.Bitmap
    NAME: str
else:
    _wanted = os.environ.get("SECONDSITE_KERNEL", "")
    if _wanted not in ("", "native", "portable"):
        raise errors.Usage(f"SECONDSITE_KERNEL is {_wanted!r}; it takes native or portable")
    NAME = ""
    if _wanted != "portable":
        try:
            from secondsite.engine import _codec as codec
            from secondsite.engine import _crc as crc
            from secondsite.engine import _entries as entries
            from secondsite.engine import _extents as extents
            from secondsite.engine import _files as files
            from secondsite.engine import _scan as scan
            from secondsite.engine import _tables as tables
            from secondsite.engine import _vhdx as vhdx
            from secondsite.engine._bitmap import Bitmap

            NAME = "native"
        except ImportError as error:
            if _wanted == "native":
                raise errors.Unreachable(f"the native kernels were asked for and are not built: {error}") from None
    if not NAME:
        try:
            from secondsite.engine.portable import codec, crc, entries, extents, files, scan, tables, vhdx  # noqa: F401
            from secondsite.engine.portable.bitmap import Bitmap  # noqa: F401
        except ImportError as error:
            raise errors.Unreachable(
                f"neither native kernels nor the packages of the portable ones are here ({error}); "
                "install libxxhash-dev, libzstd-dev and liblz4-dev and build again, "
                "or run: pip install 'secondsite[portable]'"
            ) from None

        NAME = "portable"
