"""Commands with limits: floods, hangs, children that stay, input that nobody reads."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from secondsite.engine import errors
from secondsite.orchestration.processes import limited


def python(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", text]


def test_what_it_says_and_how_it_ends_is_told() -> None:
    ended = limited.run(["sh", "-c", "cat; echo trouble >&2; exit 7"], 10, given=b"hello")
    assert (ended.status, ended.output, ended.errors, ended.late) == (7, "hello", "trouble\n", False)
    assert ended.last_line == "trouble"


def test_a_flood_is_read_and_its_end_kept() -> None:
    ended = limited.run(python("import sys\nfor _ in range(3000): sys.stdout.write('x' * 10000)\nprint('end')"), 20)
    assert ended.status == 0 and len(ended.output) == limited.MOST_BYTES and ended.output.endswith("xend\n")


def test_one_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    began, note = time.monotonic(), tmp_path / "child"
    ended = limited.run(["sh", "-c", f"sleep 100 & echo $! > {note}; wait"], 0.5)
    assert ended.late and ended.status < 0 and time.monotonic() - began < 5
    assert gone(int(note.read_text()))


def gone(process: int) -> bool:
    """Nobody waits for it here: an entry that is dead but for that counts as gone."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_one_that_ignores_being_asked_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "GRACE_SECONDS", 0.3)
    began = time.monotonic()
    ended = limited.run(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], 0.3)
    assert ended.late and ended.status == -9 and time.monotonic() - began < 5


def test_a_child_that_stays_behind_does_not_hold_it_up(tmp_path: Path) -> None:
    note, began = tmp_path / "child", time.monotonic()
    ended = limited.run(["sh", "-c", f"sleep 100 & echo $! > {note}; echo done"], 30)
    assert (ended.status, ended.output, ended.late) == (0, "done\n", False) and time.monotonic() - began < 5
    assert gone(int(note.read_text()))


def test_input_that_nobody_reads_is_no_error() -> None:
    assert limited.run(["true"], 10, given=b"x" * (1 << 20)).status == 0
    ended = limited.run(["wc", "-c"], 10, given=bytes(3 << 20))
    assert ended.output.strip() == str(3 << 20)


def test_what_cannot_be_run_is_one_line() -> None:
    with pytest.raises(errors.Unreachable, match="cannot run it: No such file"):
        limited.run(["/nowhere/at/all"], 1)
    with pytest.raises(errors.Unreachable, match="cannot run it"):
        limited.run(["echo", "a\0b"], 1)


def test_a_cancelled_one_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(errors.Cancelled):
        limited.run(["sleep", "100"], 60, cancel=lambda: time.monotonic() - began > 0.2)
    assert time.monotonic() - began < 5


def test_its_environment_is_added_to_ours() -> None:
    ended = limited.run(["sh", "-c", "echo $WHAT $HOME"], 5, environment={"WHAT": "this"})
    assert ended.output.split() == ["this", os.environ["HOME"]]


def test_its_end_is_seen_at_once() -> None:
    """Not at the next look: a failover asks a host's commands a dozen times."""
    began = time.monotonic()
    for _ in range(20):
        assert limited.run(["true"], 10).status == 0
    assert time.monotonic() - began < 20 * limited._LOOK_SECONDS
