"""A command while it runs: signals, the rate limit, the progress bar, and how soon it starts."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from clikit import MIB, PROGRAM, Done, Pair, Shell, program, python, start

from secondsite import engine

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
# CPU time; a process that imports click, the engine's front and one command takes some 80 ms of it.
START_SECONDS = 0.12


def grow(disk: Path, size: int) -> None:
    with disk.open("r+b") as file:
        file.truncate(0)
        file.write(os.urandom(size))


def begun(root: Path, child: subprocess.Popen[str]) -> None:
    """Wait until a cycle has written what it would have to take back."""
    deadline = time.monotonic() + 20
    while not (root / "points/000000000002.undo").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_stopped_in_the_middle(pair: Pair, number: signal.Signals) -> None:
    grow(pair.disk, 8 * MIB)
    child = start("replicate", pair.disk, pair.root, "--limit", "1M", "--json")
    begun(pair.root, child)
    child.send_signal(number)
    done = Done(*(child.wait(timeout=20), *child.communicate()))
    assert (done.status, done.json["exit"]) == (SIGNALS[number], SIGNALS[number])
    assert "stopped on request" in done.complaint
    assert not list((pair.root / "points").glob("*2.undo")), "left for another to take back"
    assert (pair.root / "head.raw").read_bytes() == pair.second
    assert [point.point for point in engine.points(pair.root)] == ["1", "2"]
    assert engine.verify(pair.root).ok


def test_a_second_signal_does_not_wait(pair: Pair) -> None:
    grow(pair.disk, 8 * MIB)
    child = start("replicate", pair.disk, pair.root, "--limit", "1M")
    begun(pair.root, child)
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGINT)
    time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=5) in (-signal.SIGTERM, 130, 143)
    child.communicate()
    assert engine.verify(pair.root).ok
    assert (pair.root / "head.raw").read_bytes() == pair.second


def test_stopped_while_it_was_suspended(pair: Pair) -> None:
    """Ctrl-Z, `kill %1`, `fg`: then any of the threads may get the signal, and one alone runs handlers."""
    grow(pair.disk, 8 * MIB)
    child = start("replicate", pair.disk, pair.root, "--limit", "1M", "--threads", "4")
    begun(pair.root, child)
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
        child.send_signal(number)
    assert child.wait(timeout=5) == 143
    child.communicate()
    assert (pair.root / "head.raw").read_bytes() == pair.second


def test_an_interrupt_at_any_moment_of_its_start_is_no_traceback(pair: Pair, sweep: bool) -> None:
    """From its own first line on, while click, the command and the engine are imported."""
    code = "from secondsite.orchestration import entry; print('up', flush=True); entry.main()"
    ended = set()
    for moment in range(0, 200, 2 if sweep else 10):
        child = subprocess.Popen(
            (sys.executable, "-c", code, "replicate", pair.disk, pair.root, "--watch", "60"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None and child.stdout.readline() == "up\n"
        time.sleep(moment / 1000)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
        assert child.returncode in (130, -signal.SIGINT) and "Traceback" not in said, (moment, said)
        ended.add(child.returncode)
    assert -signal.SIGINT in ended
    assert engine.verify(pair.root).ok


def test_a_new_replica_that_was_stopped_has_no_point(disk: Path, tmp_path: Path, shell: Shell) -> None:
    grow(disk, 8 * MIB)
    root = tmp_path / "new"
    child = start("replicate", disk, root, "--limit", "1M")
    while not list(root.glob("next-*")):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=20) == 143
    child.communicate()
    assert shell.json("points", root) == {"points": []}
    assert not list(root.glob("next-*"))
    assert shell.json("replicate", disk, root)["kind"] == "initial"


def test_the_limit_is_kept(pair: Pair, shell: Shell) -> None:
    rate = 8 * MIB
    grow(pair.disk, 2 * rate)
    done = shell.json("replicate", pair.disk, pair.root, "--limit", "8M")
    assert done["sent_bytes"] == 2 * rate
    assert done["sent_bytes"] / done["seconds"] == pytest.approx(rate, rel=0.15)


# -- a terminal ------------------------------------------------------------------------------------------------


def on_terminal(*arguments: str | Path, stop_at: bytes = b"never") -> tuple[int, str, str]:
    """Status, what standard output got, and what a terminal on standard error got. It is ended where it shows that."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    child = start(*arguments, stderr=theirs, env=environment)
    os.close(theirs)
    alarm = threading.Timer(30.0, child.terminate)
    alarm.start()
    shown, stopped = b"", False
    while True:
        ready, _, _ = select.select([ours], [], [], 20)
        assert ready, shown
        try:
            piece = os.read(ours, 65536)
        except OSError:  # nobody has the other end any more
            break
        if not piece:
            break
        shown += piece
        if stop_at in shown and not stopped:
            stopped = True
            child.terminate()
    os.close(ours)
    out, _ = child.communicate(timeout=20)
    alarm.cancel()
    return child.returncode, out, shown.decode()


def screen(shown: str) -> str:
    """What is left on the screen: a terminal that knows carriage return, line feed, cursor up and erase line."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.startswith("\x1b["):
            if part[-1] == "A":
                row -= int(part[2:-1] or 1)
            elif part[-1] == "K":
                lines[row] = ""
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return "\n".join(lines).strip()


def test_a_bar_on_a_terminal(pair: Pair) -> None:
    grow(pair.disk, 4 * MIB)
    status, out, shown = on_terminal("replicate", pair.disk, pair.root, "--limit", "2M")
    assert (status, out.split(":")[0]) == (0, "delta")
    assert "replicate" in shown and "MiB" in shown and "\x1b[2K" in shown
    assert screen(shown) == ""


def test_a_bar_goes_away_before_an_error(pair: Pair) -> None:
    """What is left on the terminal is one line that can be read."""
    grow(pair.disk, 8 * MIB)
    status, out, shown = on_terminal("replicate", pair.disk, pair.root, "--limit", "2M", stop_at=b"MiB")
    assert (status, out) == (143, "")
    assert "MiB" in shown
    assert screen(shown) == "secondsite: stopped on request; nothing was changed"


def test_no_bar_on_a_short_run(pair: Pair) -> None:
    assert on_terminal("verify", pair.root)[2] == ""


def test_nothing_is_drawn_where_there_is_no_terminal(pair: Pair) -> None:
    grow(pair.disk, 3 * MIB)
    done = program("replicate", pair.disk, pair.root, "--limit", "2M")
    assert (done.status, done.err) == (0, "")
    assert done.out.count("\n") == 2 and done.out.splitlines()[1].startswith("tracker ")


# -- start-up --------------------------------------------------------------------------------------------------

IMPORTED = """
import sys
from secondsite.orchestration import cli
assert cli.run(sys.argv[1:]) == 0
print("IMPORTED", *sorted(sys.modules))
"""
HEAVY = {"rich", "numpy", "ssl", "asyncio", "subprocess", "multiprocessing", "importlib.metadata", "xxhash"}


@pytest.mark.parametrize("command", ["points", "info", "verify", "replicate"])
def test_nothing_heavy_is_imported(pair: Pair, command: str) -> None:
    arguments = (pair.disk, pair.root) if command == "replicate" else (pair.root,)
    modules = python(IMPORTED, command, *arguments).rpartition("IMPORTED ")[2].split()
    assert "click" in modules
    assert not HEAVY & set(modules)


def cpu_seconds(*arguments: str | Path) -> float:
    """User and system time of one run of the program."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    null = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, null, 1)]
    try:
        child = os.posix_spawn(PROGRAM, [PROGRAM, *map(str, arguments)], environment, file_actions=actions)
        _, status, used = os.wait4(child, 0)
    finally:
        os.close(null)
    assert os.waitstatus_to_exitcode(status) == 0
    return used.ru_utime + used.ru_stime


def test_it_starts_at_once(pair: Pair) -> None:
    """A user who lists points does not wait for an interpreter to read half a library."""
    assert shutil.which(PROGRAM) and sys.executable
    cpu_seconds("points", pair.root)  # which compiles what was not
    best, tries = float("inf"), 30  # a neighbour on the same core makes each instruction slower
    while best >= START_SECONDS and tries:
        best, tries = min(best, cpu_seconds("points", pair.root)), tries - 1
    assert best < START_SECONDS, f"{best:.3f} s"


def test_a_command_that_ends_does_not_look_through_what_it_loaded(tmp_path: Path) -> None:
    """Python looks for circles once more at its end, which took longer than reading what `status` shows."""
    code = (
        "import atexit, gc, sys; from secondsite.orchestration import cli\n"
        "atexit.register(lambda: print(gc.get_freeze_count(), len(gc.get_objects())))\n"
        "sys.argv[1:] = ['plan', '/dev/null']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    frozen, left = map(int, done.stdout.split())
    assert done.returncode == 2 and frozen > 20 * left, done
