"""Every test here runs over both kernels: the extension modules, where they were built, and the portable."""

from __future__ import annotations

import importlib
import os
from types import SimpleNamespace

import pytest

PARTS = ("scan", "entries", "codec", "crc", "files", "tables", "bitmap", "vhdx")


def load(name: str) -> SimpleNamespace:
    """A kernel by its name, as `secondsite.engine.kernel` would offer it."""
    prefix = "secondsite.engine._" if name == "native" else "secondsite.engine.portable."
    try:
        parts = {part: importlib.import_module(prefix + part) for part in PARTS}
    except ImportError as error:
        allowed = os.environ.get("SECONDSITE_ALLOW_SKIP", "").replace(" ", "").split(",")
        if os.environ.get("CI") == "true" and name not in allowed:
            pytest.fail(f"the {name} kernels are not here: {error}", pytrace=False)
        pytest.skip(f"the {name} kernels are not here: {error}")
    return SimpleNamespace(name=name, Bitmap=parts["bitmap"].Bitmap, **parts)


@pytest.fixture(scope="session", params=["native", "portable"])
def kernel(request: pytest.FixtureRequest) -> SimpleNamespace:
    return load(request.param)


@pytest.fixture(scope="session")
def native() -> SimpleNamespace:
    return load("native")


@pytest.fixture(scope="session")
def portable() -> SimpleNamespace:
    return load("portable")
