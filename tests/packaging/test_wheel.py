"""The built artefacts, installed where nothing of the checkout can help them.

The wheel must bring its own libxxhash, libzstd and liblz4; the sdist must build, and without headers must run
the portable kernels and give the same hashes. Slow (a minute or two): it builds and installs as a user would.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("libxxhash", "libzstd", "liblz4")
NOT_COPIED = (".git", ".venv", "build", "dist", "*.egg-info", "*.so", "__pycache__", ".*_cache")

pytestmark = pytest.mark.needs("make", "headers", "pip")

# What an installed package says of itself. The lengths walk through XXH3's branches: up to 16, 128 and 240
# bytes, one block of stripes, and beyond.
PROBE = """
import json, pathlib
from array import array
from secondsite.engine import kernel

lengths = array("I", [1, 3, 8, 16, 17, 128, 129, 240, 241, 511, 1023, 1024, 1025, 4096, 65536, 0, 65535])
payload = bytes((7 * i + (i >> 8)) & 255 for i in range(sum(lengths)))
digests = {}
for seed in (0, 1, 0x9E3779B97F4A7C15):
    out = bytearray(16 * len(lengths))
    kernel.scan.hash_blocks(payload, lengths, len(lengths), seed, out)
    digests[str(seed)] = out.hex()
maps = {line.split(maxsplit=5)[5] for line in pathlib.Path("/proc/self/maps").read_text().splitlines()
        if len(line.split()) > 5}
print(json.dumps({"name": kernel.NAME, "file": kernel.__file__, "digests": digests,
                  "objects": sorted(path.strip() for path in maps if ".so" in path)}))
"""


def call(*command: str | Path, **environment: str) -> str:
    """Run outside the checkout and without the caller's Python settings; the output is in the failure."""
    ours = ("PYTHON", "SECONDSITE_", "MAKE")
    env = {key: value for key, value in os.environ.items() if not key.startswith(ours)} | environment
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install(folder: Path, *what: str, **environment: str) -> Path:
    """A new environment with `what` in it, and neither a compiler nor headers on the way there."""
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    blind = {"CC": "/nonexistent/cc", "PKG_CONFIG_LIBDIR": "/nonexistent", "PIP_NO_COMPILE": "1"}
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    call(*pip, *what, **blind, **environment)
    return python


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist and the wheel that `make wheel` makes from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "copy", ignore=shutil.ignore_patterns(*NOT_COPIED))
    settings = [f"PY={sys.executable}", f"DIST={folder / 'dist'}", f"WHEEL_BUILD={folder / 'build'}"]
    # `-o setup`: the environment that runs this test is ready, and is not to be changed by it.
    call("make", "-C", folder / "copy", "-o", "setup", "wheel", *settings)
    return folder / "dist"


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (found,) = dist.glob("secondsite-*.tar.gz")
    return found


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Path:
    """The Python of an environment that has the wheel."""
    (wheel,) = dist.glob("secondsite-*.whl")
    assert "manylinux" in wheel.name, "auditwheel found no policy that this wheel keeps"
    return install(tmp_path_factory.mktemp("native") / "venv", str(wheel), PIP_ONLY_BINARY=":all:")


def bundled(path: str, python: Path) -> bool:
    return Path(path).resolve().is_relative_to(python.parents[1].resolve())


def test_the_wheel_runs_on_its_own_libraries(native: Path) -> None:
    said = json.loads(call(native, "-c", PROBE))
    assert said["name"] == "native"
    assert bundled(said["file"], native)
    for library in LIBRARIES:
        loaded = [path for path in said["objects"] if Path(path).name.startswith(library)]
        assert loaded, f"{library} is not in the running process at all"
        assert all(bundled(path, native) for path in loaded), loaded


@pytest.mark.needs("ldd")
def test_ldd_resolves_to_the_bundled_copies(native: Path) -> None:
    modules = sorted(native.parents[1].rglob("secondsite/engine/_*.so"))
    assert {module.name.split(".")[0] for module in modules} >= {"_scan", "_codec", "_files", "_bitmap"}
    found = set()
    for module in modules:
        for line in call("ldd", module).splitlines():
            library, _, target = line.strip().partition(" => ")
            assert "not found" not in target, line
            if library.startswith(LIBRARIES):
                assert bundled(target.split(" (")[0], native), line
                found.add(library.split("-")[0].split(".")[0])
    assert found == set(LIBRARIES)


def test_the_sdist_without_headers_runs_the_portable_kernels_with_the_same_hashes(
    native: Path, sdist: Path, tmp_path: Path
) -> None:
    portable = install(tmp_path / "venv", f"secondsite[portable] @ {sdist.as_uri()}", SECONDSITE_PORTABLE="1")
    assert not list((tmp_path / "venv").rglob("secondsite/engine/_*.so"))
    want = json.loads(call(native, "-c", PROBE))
    have = json.loads(call(portable, "-c", PROBE))
    assert have["name"] == "portable"
    assert have["digests"] == want["digests"]


def test_the_sdist_holds_every_source_and_format_document(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    patterns = [f"ext/**/*.{suffix}" for suffix in ("pyx", "pxd", "h", "c")]
    patterns += [f"engine/**/{what}" for what in ("*.py", "*.pyi", "*.md", "py.typed")]
    patterns += ["orchestration/**/*.py", "LICENSE", "README.md", "pyproject.toml"]
    want = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    assert not want - held
