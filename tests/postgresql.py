"""A PostgreSQL of its own for a test run: Debian's, in a temporary folder, on a socket there and nowhere else."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What it need not survive: the tests that crash something crash our processes.
_SETTINGS = ("fsync=off", "full_page_writes=off", "listen_addresses=", "max_connections=60", "shared_buffers=16MB")


class Unavailable(Exception):
    """Why there is none here."""


def programs() -> Path:
    """The folder of its programs, which Debian keeps out of PATH. Raises Unavailable."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for folder in reversed(folders):
        if (folder / "initdb").exists():
            return folder
    raise Unavailable("no PostgreSQL server")


def _as_owner(folder: Path) -> list[str]:
    """It refuses to run as root: it gets a user of its own, who owns the folder. Raises Unavailable."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, found.pw_uid, found.pw_gid)
        return ["setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]
    raise Unavailable("no user that PostgreSQL could run as")


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server that runs meanwhile, without a database: add one by `database`. Raises Unavailable."""
    binaries = programs()
    folder = Path(tempfile.mkdtemp(prefix="secondsite-postgresql-"))
    try:
        owner = _as_owner(folder)
        _run([*owner, str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "tests", "-A", "trust", "-N"])
        options = " ".join(["-k", str(folder), *(f"-c {one}" for one in _SETTINGS)])
        control = [*owner, str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w", "-t", "60"]
        _run([*control, "-o", options, "-l", str(folder / "log"), "start"])
        try:
            yield f"postgresql://tests@/postgres?host={folder}"
        finally:
            _run([*control, "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def database(url: str, name: str) -> str:
    """A new empty database of a server, by its URL."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return url.replace("/postgres?", f"/{name}?")


def drop(url: str) -> None:
    """A database of `database` goes, whoever still has it open: each one takes 10 MiB."""
    import psycopg

    place, _, more = url.partition("?")
    server, _, name = place.rpartition("/")
    with psycopg.connect(f"{server}/postgres?{more}", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/", timeout=120)
    if done.returncode:
        raise Unavailable(f"{Path(command[-1]).name}: {done.stderr.strip()[-300:]}")
