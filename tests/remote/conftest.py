import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The helpers of these tests are modules beside them.
sys.path.insert(0, str(Path(__file__).parent))

from hosting import Site, site


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Site]:
    """An agent, and hosts that are paired with it."""
    with site(tmp_path) as made:
        yield made
