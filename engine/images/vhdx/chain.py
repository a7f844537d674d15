"""The chain of a differencing disk: its parents, found by name and known by identifier (formats 1.2).

Names come from the file, so from anybody. They are looked for in the folder of the image that was opened, in that of
the child, and in what the caller allows, and in nothing else: not through `..`, and not through links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

from secondsite.engine import errors
from secondsite.engine.images.vhdx.layer import Layer
from secondsite.engine.images.vhdx.locator import Locator
from secondsite.engine.images.vhdx.structures import MAX_DEPTH, braced


class ParentError(errors.Refused):
    """The parent is missing, is another disk, or lies where it may not; `expected` are its DataWriteGuids."""

    def __init__(
        self, message: str, *, path: str, expected: Sequence[UUID] = (), found: UUID | None = None
    ) -> None:
        super().__init__(message, path=path)
        self.expected, self.found = tuple(expected), found


def open_chain(path: str | os.PathLike[str], allow: Sequence[str | os.PathLike[str]] = ()) -> list[Layer]:
    """The file and its parents, down to the base; `allow` are more folders where parents may lie."""
    layers = [Layer.open(path)]
    try:
        roots = [_folder(layers[0]), *(Path(folder).resolve() for folder in allow)]
        while (locator := layers[-1].locator) is not None:
            if len(layers) == MAX_DEPTH:
                raise ParentError(f"a chain of more than {MAX_DEPTH} files", path=layers[0].path)
            layers.append(_open_parent(layers, locator, roots))
    except BaseException:
        for layer in layers:
            layer.close()
        raise
    return layers


def _folder(layer: Layer) -> Path:
    return Path(layer.path).resolve().parent


def _open_parent(layers: Sequence[Layer], locator: Locator, roots: Sequence[Path]) -> Layer:
    child = layers[-1]
    wrong: list[errors.Error] = []
    folder = _folder(child)
    allowed = list(dict.fromkeys([folder, *roots]))
    reasons: list[str] = []
    for candidate in _candidates(locator, folder, allowed, reasons):
        try:
            parent = Layer.open(candidate)
        except errors.Error as error:
            wrong.append(error)
            continue
        try:
            _check(layers, locator, parent)
        except errors.Error as error:
            parent.close()
            wrong.insert(0, error)
            continue
        except BaseException:
            parent.close()
            raise
        return parent
    if wrong:
        raise wrong[0]
    raise _missing(child, locator, folder, allowed, reasons)


def _check(layers: Sequence[Layer], locator: Locator, parent: Layer) -> None:
    """Is it the parent that the child was made for?"""
    child, found = layers[-1], parent.header.data_write
    if parent.container.identity in {layer.container.identity for layer in layers}:
        raise ParentError(f"a ring of parents: {parent.path} is reached again", path=layers[0].path)
    if found not in locator.linkages:
        raise ParentError(
            f"its parent must have DataWriteGuid {_names(locator.linkages)}, {parent.path} has {braced(found)}: "
            "it was changed after the child was made, or is another disk",
            path=child.path, expected=locator.linkages, found=found,
        )  # fmt: skip
    for what, ours, theirs in (
        ("disk", child.metadata.size, parent.metadata.size),
        ("logical sector", child.metadata.logical_sector, parent.metadata.logical_sector),
    ):
        if ours != theirs:
            raise ParentError(
                f"its {what} has {ours} bytes, that of its parent {parent.path} has {theirs}", path=child.path,
                expected=locator.linkages, found=found,
            )  # fmt: skip


def _missing(
    child: Layer, locator: Locator, folder: Path, allowed: Sequence[Path], reasons: Sequence[str]
) -> ParentError:
    names = " or ".join(repr(name) for name in locator.paths) or "without a name"
    message = f"its parent {names} with DataWriteGuid {_names(locator.linkages)} was not found in {folder}"
    outside = [name for name in locator.paths[:1] if _relative(name) and not _inside(folder, _parts(name), allowed)]
    if len(allowed) > 1:
        message += " nor in the folders that are allowed"
    if outside:
        message += ": the name leads out of it"
    elif reasons:
        message += f": {reasons[0]}"
    message += " (--allow-parent-path DIR allows another folder)"
    return ParentError(message, path=child.path, expected=locator.linkages)


def _names(linkages: Sequence[UUID]) -> str:
    return " or ".join(braced(value) for value in linkages)


def _candidates(locator: Locator, folder: Path, allowed: Sequence[Path], reasons: list[str]) -> Iterator[Path]:
    """Existing files that may be the parent, the likeliest first, each once; why others are none goes to `reasons`."""
    places = []
    for name in locator.paths:
        if _relative(name):
            places.append(_inside(folder, _parts(name), allowed))
    for name in locator.paths:
        # A full path of another machine: of it, the last name may be here.
        places += [(root, _parts(name)[-1:]) for root in allowed]
    seen = set()
    for place in places:
        found = _find(*place, allowed, reasons) if place else None
        if found and found not in seen:
            seen.add(found)
            yield found


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _relative(name: str) -> bool:
    return bool(name) and name[0] not in "\\/" and name[1:2] != ":"


def _inside(folder: Path, parts: Sequence[str], allowed: Sequence[Path]) -> tuple[Path, list[str]] | None:
    """A relative name as an allowed folder and names below it, without a look at the disk."""
    steps = list(folder.parts)
    for part in parts:
        if part == "..":
            if len(steps) > 1:
                steps.pop()
        else:
            steps.append(part)
    for root in allowed:
        if steps[: len(root.parts)] == list(root.parts) and len(steps) > len(root.parts):
            return root, steps[len(root.parts) :]
    return None


def _find(root: Path, names: Sequence[str], allowed: Sequence[Path], reasons: list[str]) -> Path | None:
    """The file, whose names may differ in upper and lower case; None where there is none or a link leads out."""
    path = root
    if not names or ".." in names:
        return None
    try:
        for name in names:
            exact = path / name
            path = exact if exact.exists() else path / _alike(path, name)
        real = path.resolve()
        if not any(real.is_relative_to(folder) for folder in allowed):
            reasons.append(f"{path} is, or is behind, a link to {real}, outside of it")
            return None
        if not real.is_file():
            reasons.append(f"{path} is {_kind(real)}, not a file")
            return None
        return real
    except (OSError, ValueError, LookupError):
        return None


def _kind(path: Path) -> str:
    """What lies there, which is no file. Raises FileNotFoundError where nothing does."""
    mode = path.stat().st_mode
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a socket")


def _alike(folder: Path, name: str) -> str:
    """The name of an entry that differs in case only. Raises LookupError."""
    wanted = name.casefold()
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.casefold() == wanted)
    return names[0] if names else _nothing(name)


def _nothing(name: str) -> str:
    raise LookupError(name)
