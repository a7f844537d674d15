"""By which names a differencing VHD knows its parent (formats section 2)."""

from __future__ import annotations

from secondsite.engine import errors
from secondsite.engine.images.base import Image
from secondsite.engine.images.vhd.structures import DynamicHeader

# A path of Windows has at most 32767 characters.
_MAX_NAME = 64 << 10
# Relative before absolute: a chain that was moved as a whole keeps its relative names.
_ORDER = (b"W2ru", b"W2ku")


def parent_names(file: Image, header: DynamicHeader) -> list[str]:
    """The parent's names as the file has them: relative, absolute, and the name in the header itself.

    Raises Damaged where a locator leads out of the file. Locators of other platforms are not looked at.
    """
    found = []
    for code in _ORDER:
        for locator in header.locators:
            if locator.code != code:
                continue
            if locator.length > _MAX_NAME or locator.offset > file.size - min(locator.length, file.size):
                raise errors.Damaged(
                    f"the parent's name is said to be {locator.length} bytes at byte {locator.offset}, "
                    f"in a file of {file.size}",
                    path=file.path, offset=header.offset + 576,
                )  # fmt: skip
            raw = bytes(file.read(locator.offset, locator.length))
            found.append(raw.decode("utf-16-le", "replace"))
    found.append(header.parent_name)
    names = [name.split("\0")[0] for name in found]
    return list(dict.fromkeys(name for name in names if name))
