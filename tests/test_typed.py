"""Types that threads convert: what msgspec knows of them is there before they begin."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: here other tests have converted to all of them.
CALLS = """
import threading
from secondsite.orchestration.hosts.spec import MachineSpec, unpacked

begin, found = threading.Barrier(8), []
def call():
    begin.wait()
    found.append(unpacked(MachineSpec, {"name": "m", "folder": "/f", "disks": [{"name": "d"}]}))
threads = [threading.Thread(target=call) for _ in range(8)]
for one in threads: one.start()
for one in threads: one.join()
assert len(found) == 8 and all(one == found[0] for one in found)
"""
READ = """
import msgspec
made, init = [], msgspec.json.Decoder
msgspec.json.Decoder = lambda kind: made.append(kind) or init(kind)
from secondsite.orchestration.protection import lookup, note
for kind in (lookup.Statistics, lookup.Tripwire, lookup.Application, lookup.Plan, lookup.Ending, lookup.Intent,
             lookup.Test, lookup.Placed, note.Note):
    assert kind in made, kind
"""

# Three machines of a plan at once are asked what their scenario does. Of 25 processes 9 ended so.
FIRST = """
import gc, sys, threading
from secondsite.orchestration.scenarios import machines, matrix

sys.setswitchinterval(1e-6)
begin = threading.Barrier(8)
def call():
    begin.wait()
    matrix.load()
    machines.limits("today")
threads = [threading.Thread(target=call) for _ in range(8)]
for one in threads: one.start()
for one in threads: one.join()
gc.collect()
"""


def test_threads_that_begin_at_once_find_a_type_made() -> None:
    subprocess.run([sys.executable, "-c", CALLS], check=True, timeout=60)


@pytest.mark.sweep(sample=6)
@pytest.mark.parametrize("time", range(50))
def test_what_scenarios_are_may_be_read_first_by_several_threads(time: int) -> None:
    subprocess.run([sys.executable, "-c", FIRST], check=True, timeout=60)


def test_what_a_vault_holds_is_known_once_its_reader_is_imported() -> None:
    subprocess.run([sys.executable, "-c", READ], check=True, timeout=60)
