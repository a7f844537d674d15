import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The helpers of these tests are modules beside them.
sys.path.insert(0, str(Path(__file__).parent))

from hosting import Site, site
from manykit import SIZE


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Site]:
    """An agent, and hosts that are paired with it."""
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk that does not compress."""
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path
