"""The public names, and what importing them costs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from secondsite import engine

HEAVY = (
    "numpy",
    "zstandard",
    "lz4",
    "xxhash",
    "secondsite.engine._scan",
    "secondsite.engine.replication",
    "hashlib",
)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "SECONDSITE_KERNEL"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean | environment, timeout=60
    )


def test_importing_the_engine_imports_nothing_heavy() -> None:
    """A command line that prints its help must not wait for kernels."""
    code = f"import sys; from secondsite import engine; print([m for m in {HEAVY} if m in sys.modules])"
    done = python(code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", engine.__all__)
def test_each_name_imports_by_itself(name: str) -> None:
    """Lazily and in any order: a circle of imports shows only when that name comes first."""
    done = python(f"from secondsite.engine import {name}; print({name}.__name__)")
    assert done.returncode == 0, done.stderr


def test_every_name_is_listed_once() -> None:
    assert len(set(engine.__all__)) == len(engine.__all__)
    assert set(engine.__all__) == set(engine._HOME)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = engine.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("wanted", ["native", "portable"])
def test_a_kernel_is_chosen_by_name(wanted: str) -> None:
    code = "from secondsite.engine import kernel; print(kernel.NAME, kernel.scan.__name__)"
    done = python(code, SECONDSITE_KERNEL=wanted)
    if wanted == "native" and "are not built" in done.stderr:
        pytest.skip("the native kernels are not built here")
    name, module = done.stdout.split()
    assert name == wanted
    assert ("portable" in module) == (wanted == "portable")


def test_a_kernel_that_does_not_exist() -> None:
    done = python("from secondsite.engine import kernel", SECONDSITE_KERNEL="fast")
    assert "takes native or portable" in done.stderr


def test_a_kernel_that_is_missing_is_never_replaced_silently() -> None:
    """Asked for by name, it must be there."""
    block = "import sys; sys.modules['secondsite.engine._scan'] = None; sys.modules['numpy'] = None;"
    done = python(f"{block} from secondsite.engine import kernel", SECONDSITE_KERNEL="native")
    assert "are not built" in done.stderr
    done = python(f"{block} from secondsite.engine import kernel", SECONDSITE_KERNEL="")
    assert "pip install 'secondsite[portable]'" in done.stderr
