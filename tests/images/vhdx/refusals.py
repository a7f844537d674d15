"""How what must be refused is refused."""

from __future__ import annotations

from uuid import UUID

import pytest

from secondsite.engine import errors
from secondsite.engine.images.vhdx import VhdxImage

UNKNOWN = UUID("11111111-2222-3333-4444-555555555555")


def refused(path, match, error=errors.Damaged, *, read=False, offset=None, **options):
    """Opening it, or with `read` only reading it, is refused with the file's name and this message."""
    with pytest.raises(error, match=match) as caught:
        image = VhdxImage(path, **options)
        with image:
            if not read:
                pytest.fail("it was opened")
            found = [finding for finding in image.check() if finding.damaged]
            assert found
            if offset is not None:
                assert found[0].offset == offset
            list(image.extents(0, image.size))
    assert str(path) in str(caught.value)
    if isinstance(caught.value, errors.Damaged):
        assert caught.value.offset is not None
        if offset is not None:
            assert caught.value.offset == offset
