"""Network namespaces: working in one, holding it alone, and those of tests, which come with their first device and go
with their last (R9.2).

Not pyroute2's, which forks for it: this process has threads, and in the child their locks would be locked for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from secondsite.engine import errors
from secondsite.orchestration.networks import names

FOLDER = Path("/run/netns")
_OWN = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2
# Whoever holds the lock makes or removes a few devices, at 1 ms each.
_LOCK_SECONDS = 30.0
_TEST = "secondsite-test-"
_LIBC = ctypes.CDLL(None, use_errno=True)
Result = TypeVar("Result")


def of_test(test: str, host: str | None = None) -> str:
    """The namespace of a test's own networks, on a host whose bridges are in namespace `host`."""
    return f"{_of_host(host)}{names.key(test)[:16]}"


def of_tests(host: str | None = None) -> list[str]:
    """Those that there are on such a host."""
    return sorted(path.name for path in FOLDER.glob(f"{_of_host(host)}*"))


def is_of_test(namespace: str | None) -> bool:
    """Is it one that we make and remove?"""
    return namespace is not None and namespace.startswith(_TEST)


def _of_host(host: str | None) -> str:
    return f"{_TEST}{names.key(host or '')[:6]}-"


def exists(namespace: str | None) -> bool:
    """Is there a network namespace of this name? The current one, None, always is."""
    return namespace is None or _is_one(_path(namespace))


def is_current(namespace: str) -> bool:
    """Is this thread in it, and does it still have its name?"""
    try:
        return os.path.samestat(os.stat(_path(namespace)), os.stat(_OWN))
    except OSError:
        return False


def within(namespace: str | None, work: Callable[[], Result]) -> Result:
    """What `work` returns in a network namespace; None is the current one. It runs in a thread of its own, whose
    namespace ends with it: the caller is never left in another, and may itself be in an event loop, which pyroute2
    does not bear. Raises Refused where there is no such namespace.
    """
    if namespace is None:
        return _in_thread(work)

    def inside() -> Result:
        _enter(namespace)
        return work()

    return _in_thread(inside)


def alone(namespace: str | None, work: Callable[[], Result], *, make: bool = False) -> Result:
    """The same, while nobody else of us is in there so. With `make` a test's namespace is made where it is missing.

    Raises Refused, and Busy after half a minute.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    made = str(namespace) if make and is_of_test(namespace) else None
    while True:
        if made is not None:
            _make(made, deadline)
        try:
            return within(namespace, lambda: _hold(namespace, deadline, work))
        except Missing:
            # Its last machine went meanwhile, and it with it.
            if made is None or time.monotonic() > deadline:
                raise


def remove(namespace: str) -> None:
    """Take the name from a test's namespace, from within `alone`; it is gone with its last process."""
    with _names_locked(time.monotonic() + _LOCK_SECONDS):
        path = str(_path(namespace)).encode()
        _LIBC.umount2(path, _MNT_DETACH)
        with contextlib.suppress(OSError):
            os.unlink(path)


def clear(namespace: str) -> bool:
    """Remove the name of a test's namespace that is none, and not just becoming one; was it so?"""
    with _names_locked(time.monotonic() + _LOCK_SECONDS):
        path = _path(namespace)
        if _is_one(path) or not path.exists():
            return False
        path.unlink(missing_ok=True)
        return True


class Missing(errors.Refused):
    """There is no such namespace, or there is none any more."""


def _hold(namespace: str | None, deadline: float, work: Callable[[], Result]) -> Result:
    """The namespace itself is what is locked: the lock needs no file, and lives as long as what it guards."""
    with _locked(_OWN, deadline, f"network namespace {namespace}" if namespace else "the network namespace"):
        if namespace is not None and not is_current(namespace):
            raise Missing(f"network namespace {namespace!r} was removed meanwhile")
        return work()


def _in_thread(work: Callable[[], Result]) -> Result:
    done: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="networks")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _path(namespace: str) -> Path:
    if "/" in namespace or namespace in ("", ".", ".."):
        raise errors.Usage(f"{namespace!r} is no name of a network namespace")
    return FOLDER / namespace


def _enter(namespace: str) -> None:
    try:
        there = os.open(_path(namespace), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise Missing(f"there is no network namespace {namespace!r}: ip netns add {namespace}") from None
    try:
        if _LIBC.setns(there, _CLONE_NEWNET):
            raise _failed(f"network namespace {namespace}: cannot enter it")
    finally:
        os.close(there)


def _failed(doing: str) -> errors.Refused:
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.EACCES):
        return errors.Refused(f"{doing}: networks of machines take root")
    return errors.Refused(f"{doing}: {os.strerror(code)}")


def _is_one(path: Path) -> bool:
    """A plain file of that name is what is left where its maker was killed."""
    try:
        return path.stat().st_dev == os.stat(_OWN).st_dev
    except OSError:
        return False


def _make(namespace: str, deadline: float) -> None:
    """As `ip netns add` does, but not refused where it is there."""
    path = _path(namespace)
    if _is_one(path):
        return
    with _names_locked(deadline):
        if not _is_one(path):
            path.touch(mode=0o400)
            _in_thread(lambda: _new(path))


def _new(path: Path) -> None:
    """This thread's new namespace is what the name is for."""
    if _LIBC.unshare(_CLONE_NEWNET) or _LIBC.mount(_OWN.encode(), str(path).encode(), b"none", _MS_BIND, None):
        raise _failed(f"network namespace {path.name}: cannot make it")


@contextlib.contextmanager
def _names_locked(deadline: float) -> Iterator[None]:
    """The folder is shared between mount namespaces, or those that a service began would not see a name that goes."""
    try:
        FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise errors.from_os(error, FOLDER, "make it") from None
    folder = str(FOLDER).encode()
    with _locked(FOLDER, deadline, str(FOLDER)):
        if _LIBC.mount(b"", folder, b"none", _MS_SHARED | _MS_REC, None):
            _LIBC.mount(folder, folder, b"none", _MS_BIND | _MS_REC, None)
            if _LIBC.mount(b"", folder, b"none", _MS_SHARED | _MS_REC, None):
                raise _failed(f"{FOLDER}: cannot share it")
        yield


@contextlib.contextmanager
def _locked(path: str | Path, deadline: float, what: str) -> Iterator[None]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise errors.Busy(f"somebody else changes {what}") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(file)
