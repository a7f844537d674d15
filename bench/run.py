"""The whole matrix: in memory and on disk, as JSON and as a Markdown table for the README.

    python bench/run.py                       # 4 GiB, some minutes; needs 13 GiB in /dev/shm and on the disk
    python bench/run.py --smoke               # 64 MiB, seconds: does it run, not how fast
    python bench/run.py --place disk=/mnt/ssd --only delta

The exit status is 0 whatever the ratios are, unless `--strict`: then 1 where a figure is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from secondsite.engine import errors, units
from secondsite.orchestration.bench import runner, table

RESULTS = Path(__file__).resolve().parent / "results"
MEMORY = Path("/dev/shm")
# Where the tests have installed the emulator of Azure's storage.
EMULATOR = RESULTS.parent.parent / "build" / "azurite" / "node_modules" / ".bin"
SMOKE_SIZE = "64M"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4G", help="size of the image (default: 4G)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: 3)")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_SIZE}, one round, one folder, no file")
    parser.add_argument(
        "--place", action="append", default=[], metavar="LABEL=DIR",
        help="measure here (default: tmpfs=/dev/shm, where it is, and disk=the temporary folder)",
    )  # fmt: skip
    parser.add_argument("--only", action="append", default=[], choices=list(runner.GROUPS), help="may be given again")
    parser.add_argument("--output", type=Path, help="the JSON (default: bench/results/DATE-MACHINE.json)")
    parser.add_argument("--strict", action="store_true", help="fail where a figure is not met")
    return parser.parse_args()


def places(options: argparse.Namespace) -> dict[str, Path]:
    """Label and folder of each place to measure in."""
    if options.place:
        named = (place.partition("=") for place in options.place)
        return {label: Path(folder or label) for label, _, folder in named}
    disk = {"disk": Path(tempfile.gettempdir())}
    if options.smoke:
        return disk
    return {"tmpfs": MEMORY, **disk} if MEMORY.is_dir() else disk


def measure(options: argparse.Namespace, say: Console) -> dict[str, Any]:
    """One report of all places: rows carry their place, checksums lie by place."""
    size = units.parse_size(SMOKE_SIZE if options.smoke else options.size)
    report: dict[str, Any] = {}
    for label, folder in places(options).items():
        try:
            one = runner.measure(
                size, folder, rounds=1 if options.smoke else options.rounds, only=options.only,
                say=lambda line, label=label: say.print(f"{label}: {line}", style="dim"),
            )  # fmt: skip
        except errors.Full as error:
            say.print(f"{label}: left out: {error}", style="yellow", soft_wrap=True)
            report.setdefault("skipped", {})[label] = f"no room for {units.format_size(size)}"
            continue
        rows = [{"place": label, **row} for row in one.pop("rows")]
        checksum, skipped = one.pop("checksum"), one.pop("skipped")
        file_system = one["host"].pop("file_system")
        report = {**one, **report}
        report["host"].setdefault("file_systems", {})[label] = file_system
        report.setdefault("rows", []).extend(rows)
        report.setdefault("checksum", {})[label] = checksum
        report["skipped"] = {**report.get("skipped", {}), **{f"{label}, {name}": why for name, why in skipped.items()}}
    return report


def store(report: dict[str, Any], output: Path | None) -> Path:
    """Write the JSON, and the table beside it. The name says what the machine is, not which."""
    host = report["host"]
    if output is None:
        output = RESULTS / f"{report['time'][:10]}-{host['cores']}core-{host['machine']}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    output.with_suffix(".md").write_text(table.markdown(report))
    return output


def terminated(number: int, _: FrameType | None) -> NoReturn:
    """End by an exception, so that what was made is removed."""
    sys.exit(128 + number)


def main() -> int:
    """Measure, print, write."""
    signal.signal(signal.SIGTERM, terminated)
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(EMULATOR)])
    options, say = arguments(), Console(stderr=True)
    try:
        report = measure(options, say)
    except errors.Error as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    if "rows" not in report:
        print("bench: there was room nowhere", file=sys.stderr)
        return errors.UNREACHABLE
    console = Console() if sys.stdout.isatty() else Console(width=table.WIDE)
    for drawn in table.draw(report, console.width):
        console.print(drawn)
        console.print()
    for line in table.notes(report):
        console.print(line, highlight=False, markup=False)
    if options.output is not None or not options.smoke:
        print(f"written to {store(report, options.output)}", file=sys.stderr)
    missed = [row for row in report["rows"] if row["met"] is False]
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
