"""What a recovery plan takes beside its machines: 20 of them in 4 groups, which are stubs that cost nothing.

    python bench/recovery.py [--machines 20] [--groups 4] [--rounds 3] [--output FILE]

Twice: the plan alone (`plan`: machines that do nothing at all, so that all of it is the process, the vault and the
durable workflow), and a whole unplanned failover of each (`whole`: epochs raised, overlays made and served, a command
of a host started and asked whether it runs, on replicas of a MiB).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from secondsite.orchestration.bench.protection.estates import PAIR
from secondsite.orchestration.estate.model import PlanGroup, RecoveryPlan
from secondsite.orchestration.plans import journal, workflow
from secondsite.orchestration.plans.doing import Doing
from secondsite.orchestration.plans.order import Kind
from secondsite.orchestration.vault import database, holders

CLI = [sys.executable, "-c", "from secondsite.orchestration.cli import main; main()"]
# The figure of the issue, in seconds.
WANTED = 2.0
STUB = """#!/bin/sh
# A machine: a file says that it runs.
read -r said
name=$(printf %s "$said" | grep -o '"name": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)
case $1 in
start) : >"{folder}/$name" ;;
stop) rm -f "{folder}/$name" ;;
status) [ -e "{folder}/$name" ] || exit 3 ;;
esac
"""
ESTATE = PAIR + """
[[host]]
name = "h1"
cloud = "c1"
run = "{folder}/run1"
[[host]]
name = "h2"
cloud = "c2"
path = "{folder}/replicas"
run = "{folder}/run2"
hypervisor = "external"
[host.commands]
start = ["{folder}/stub", "start"]
stop = ["{folder}/stub", "stop"]
status = ["{folder}/stub", "status"]
[[policy]]
name = "p"
copy_frequency = 900
[[recovery]]
name = "all"
"""


class Nothing:
    """Machines of which a plan alone is left."""

    def prepare(self, machine: str, kind: Kind, at: str) -> None:
        """It is ready."""

    def start(self, machine: str, kind: Kind) -> None:
        """It is up."""

    def lost(self, machine: str, kind: Kind) -> str | None:
        """It stays up."""
        return None


def groups(machines: int, count: int) -> list[list[str]]:
    names = [f"m{number}" for number in range(machines)]
    return [names[at::count] for at in range(count)]


def alone(url: str, machines: int, count: int) -> None:
    """A run of the plan alone, in this process."""
    plan = RecoveryPlan(name="all", group=tuple(PlanGroup(machines=tuple(one)) for one in groups(machines, count)))
    with database.create(url) as vault:
        holder, made = holders.this_process(), journal.new(vault, plan, "unplanned", "latest", "bench", time.time())
        doing = Doing(vault, journal.claim(vault, made, holder, time.time()), Nothing(), {"source": (), "target": ()})
        with workflow.executing(doing) as execution:
            execution.ended.wait()
        if execution.state != "done":
            raise SystemExit(f"the run ended as {execution.state}: {execution.error}")


def command(*words: str, folder: Path, vault: str | None = None) -> str:
    place = vault or str(folder / "vault.db")
    done = subprocess.run([*CLI, *words, "--vault", place], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


def site(folder: Path, machines: int, count: int, vault: str | None = None) -> None:
    """All machines protected, with a point each, in a vault of the folder or another one."""
    (folder / "stub").write_text(STUB.replace("{folder}", str(folder / "up")))
    (folder / "stub").chmod(0o755)
    for name in ("up", "replicas"):
        (folder / name).mkdir()
    text = ESTATE.format(folder=folder)
    for group in groups(machines, count):
        text += f"[[recovery.group]]\nmachines = {json.dumps(group)}\n"
    for name in (name for group in groups(machines, count) for name in group):
        (folder / f"{name}.raw").write_bytes(name.encode() * 1024 + bytes(1 << 20))
        text += f'[[machine]]\nname = "{name}"\nhost = "h1"\ndisks = [{{ path = "{folder}/{name}.raw", os = true }}]\n'
        text += f'[[item]]\nmachine = "{name}"\nprotection = "pair"\n'
    (folder / "estate.toml").write_text(text)
    place = vault or str(folder / "vault.db")
    command("vault", "init", folder=folder, vault=place)
    command("apply", str(folder / "estate.toml"), folder=folder, vault=place)
    cycles = subprocess.Popen([*CLI, "run", "--vault", place], stdout=subprocess.PIPE, text=True)
    assert cycles.stdout is not None
    for _ in range(machines):
        cycles.stdout.readline()
    cycles.terminate()
    cycles.wait()


def whole(folder: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of `recovery run`, and what it says of its tasks."""
    began = time.monotonic()
    out = command("recovery", "run", "all", "--kind", "unplanned", "--json", folder=folder)
    return time.monotonic() - began, json.loads(out.splitlines()[-1])


def back(folder: Path, machines: int) -> None:
    for number in range(machines):
        command("failover", "cancel", f"m{number}", folder=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=20)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--alone", metavar="VAULT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.alone, options.machines, options.groups)
        return
    found = measure(options)
    missed = "" if found["plan_seconds"] <= WANTED else "   MISSED"
    print(f"plan   {found['plan_seconds']:8.3f} s  at most {WANTED}{missed}")
    print(f"whole  {found['whole_seconds']:8.3f} s  with overlays, their servers and {found['machines']} starts")
    print(json.dumps(found))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    plans, wholes, tasks = [], [], {}
    said = ["--machines", str(options.machines), "--groups", str(options.groups)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site(folder, options.machines, options.groups)
        for number in range(options.rounds):
            began = time.monotonic()
            subprocess.run([sys.executable, __file__, *said, "--alone", str(folder / f"p{number}.db")], check=True)
            plans.append(time.monotonic() - began)
            seconds, told = whole(folder)
            wholes.append(seconds)
            tasks = {one["name"]: one["ended"] - one["began"] for one in told["tasks"]}
            back(folder, options.machines)
    return {
        "machines": options.machines, "groups": options.groups, "plan_seconds": statistics.median(plans),
        "whole_seconds": statistics.median(wholes), "plans": plans, "wholes": wholes, "tasks": tasks,
    }  # fmt: skip


if __name__ == "__main__":
    main()
