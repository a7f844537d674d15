"""The rules of the tree: who imports whom, how long a file is, and what must not be committed."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("engine", "orchestration", "ext", "tests", "bench")
MODULES = sorted(p for folder in OURS for p in (ROOT / folder).rglob("*.py"))
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".h", ".c", ".html", ".css", ".js", ".sql"}
SOURCES = sorted(
    p
    for folder in OURS
    for p in (ROOT / folder).rglob("*")
    if p.suffix in SUFFIXES and ".min." not in p.name  # other people's scripts, as they came
)
MAX_LINES = 450
# Of the engine, what the layer above may see beside the public API, which is `secondsite.engine` itself.
PUBLIC_MODULES = {"errors", "units", "kernel"}
# Spelled in two parts, so that this file does not find itself.
LEFTOVERS = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
PRIVATE_PATH = re.compile(rb"(?<![\w.*-])/(?:home|root|work|Users)/[\w.-]")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Each import of a file as (line, module, imported name or None), relative ones made absolute."""
    package = ["secondsite", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, module, alias.name


def full_names(path: Path) -> Iterator[tuple[int, str]]:
    for line, module, imported in imports(path):
        yield line, f"{module}.{imported}" if imported else module


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def public_names() -> set[str]:
    """What `engine/__init__.py` lists in `__all__`."""
    for node in ast.parse((ROOT / "engine/__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return set()


def engine_modules() -> set[str]:
    below = {p.stem for p in (ROOT / "engine").glob("*.py*")} | {p.stem for p in (ROOT / "ext").glob("*.pyx")}
    return below | {p.name for p in (ROOT / "engine").iterdir() if p.is_dir()}


def test_our_packages_are_imported_by_their_installed_name() -> None:
    """`import engine` works in the checkout, and loads a second copy of everything."""
    wrong = [
        f"{name(path)}:{line}: {module}"
        for path in MODULES
        for line, module in full_names(path)
        if inside(module, "engine") or inside(module, "orchestration")
    ]
    assert not wrong


def test_the_engine_does_not_know_the_orchestration() -> None:
    wrong = [
        f"{name(path)}:{line}: {module}"
        for path in MODULES
        if path.is_relative_to(ROOT / "engine")
        for line, module in full_names(path)
        if inside(module, "secondsite.orchestration")
    ]
    assert not wrong


def test_the_orchestration_uses_only_the_public_engine() -> None:
    hidden = engine_modules() - PUBLIC_MODULES - public_names()
    wrong = []
    for path in MODULES:
        if not path.is_relative_to(ROOT / "orchestration"):
            continue
        for line, module, imported in imports(path):
            whole = f"{module}.{imported}" if imported else module
            if not inside(whole, "secondsite.engine"):
                continue
            below = whole.split(".")[2:]
            if below and (below[0] in hidden or (len(below) > 1 and below[0] not in PUBLIC_MODULES)):
                wrong.append(f"{name(path)}:{line}: {whole}")
    assert not wrong


def test_extension_modules_import_nothing_of_ours() -> None:
    ours = re.compile(r"^\s*(?:from|import|cimport)\s+(?:secondsite|engine|orchestration)\b")
    wrong = [
        f"{name(path)}:{number}: {line}"
        for path in SOURCES
        if path.suffix in {".pyx", ".pxd"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ours.match(line)
    ]
    assert not wrong


def test_no_file_is_too_long() -> None:
    lengths = {name(path): path.read_text().count("\n") for path in SOURCES}
    assert not {file: lines for file, lines in lengths.items() if lines > MAX_LINES}


def test_no_tabs_trailing_blanks_or_leftovers() -> None:
    wrong = [
        f"{name(path)}:{number}: {line.strip()[:60]}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if "\t" in line or line != line.rstrip() or LEFTOVERS.search(line)
    ]
    assert not wrong


def test_every_module_says_what_it_is() -> None:
    silent = [
        name(path)
        for path in MODULES
        if name(path).startswith(("engine/", "orchestration/"))
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def committed() -> list[Path]:
    """The files under version control; one that is deleted but not yet committed is left out."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are committed is not known")
    # CI often checks out as one user and runs as another, which git takes for an attack.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [path for path in (ROOT / line for line in names if line) if path.is_file()]


def test_no_committed_file_names_a_folder_of_somebodys_machine() -> None:
    wrong = []
    for path in committed():
        found = PRIVATE_PATH.search(path.read_bytes())
        if found:
            wrong.append(f"{name(path)}: {found[0].decode()}...")
    assert not wrong
