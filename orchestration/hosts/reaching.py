"""How an operation of a host is called: in this process, or there, through the command that the estate names.

A host without `reach` is this machine. For another one `[*reach, "secondsite", "host-call", OPERATION]` gets the
arguments as a line of JSON, and prints a line of JSON. A key that what it does may need goes in that line and nowhere
else (R9.14). Its standard input stays open while the call lasts: where the
caller dies it ends, and with it what can be cancelled. No shell reads the command here; ssh gives it to one over there,
for which it holds nothing but plain words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import msgspec

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.hosts.operations import Json, find, limit
from secondsite.orchestration.processes import limited

# Of an answer: a screenshot as base64 is the largest one. More has its beginning cut off, and is then no answer.
MOST_BYTES = 32 << 20
# Beside the arguments; no operation has one of this name.
KEY = "$key"
_KINDS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.Error)
}


class Calls(Protocol):
    """The operations of one host."""

    def call(
        self, operation: str, arguments: Mapping[str, Any], *, seconds: float | None = None,
        cancel: Callable[[], bool] = lambda: False,
    ) -> Json:  # fmt: skip
        """Do it there. `seconds` limits the call where it goes over a command; by default the operation's own limit.

        Raises what the operation raises, of the same class; Unreachable where the host gives no answer, after which
        nobody knows whether it was done: the call may be repeated.
        """


class Here:
    """In this process."""

    def call(
        self, operation: str, arguments: Mapping[str, Any], *, seconds: float | None = None,
        cancel: Callable[[], bool] = lambda: False,
    ) -> Json:  # fmt: skip
        """The arguments and the answer are what would have travelled, so that both ways do the same."""
        run = find(operation).load()
        return _travelled(run(_travelled(arguments), cancel))


class There:
    """Through a command. `name` is what errors call the host."""

    def __init__(self, name: str, reach: tuple[str, ...]) -> None:
        self.name, self._reach = name, reach

    def call(
        self, operation: str, arguments: Mapping[str, Any], *, seconds: float | None = None,
        cancel: Callable[[], bool] = lambda: False,
    ) -> Json:  # fmt: skip
        found, said = find(operation), _travelled(arguments)
        most = limit(found, said) if seconds is None else seconds
        command = [*self._reach, "secondsite", "host-call", "--held", operation]
        given = json.dumps({**said, **(_key() if found.keyed else {})}).encode() + b"\n"
        ended = limited.run(
            command, most, given=given, held=True, most=MOST_BYTES, cancel=cancel
        )  # fmt: skip
        if ended.late:
            raise errors.Unreachable(f"{operation} did not end within {most:.0f} s", path=self.name)
        return self._answer(operation, ended)

    def _answer(self, operation: str, ended: limited.Ended) -> Json:
        """The last line: what a login prints comes before it."""
        lines = ended.output.rstrip("\n").rsplit("\n", 1)
        try:
            answer = json.loads(lines[-1])
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and ended.status == 0 and isinstance(answer.get("return"), dict):
            found: Json = answer["return"]
            return found
        if isinstance(answer, dict) and ended.status != 0 and isinstance(answer.get("error"), dict):
            raise unpacked_error(answer["error"], self.name)
        said = f": {ended.last_line}" if ended.errors.strip() else ""
        text = f"{operation} gave no answer; {self._reach[0]} ended with {ended.status}{said}"
        raise errors.Unreachable(text, path=self.name)


def _key() -> Json:
    """What the caller opens replicas with. One that is only in our environment, for machines that need it, is not told
    to hosts of others.
    """
    key = engine.current_key()
    wanted = key.given if key.plain and not key.environment else not key.plain
    packed = key.packed() if wanted else None
    return {} if packed is None else {KEY: packed}


def opening(arguments: Json) -> AbstractContextManager[None]:
    """A block in which replicas are opened with the key that came with the arguments, if one did; they lose it. Raises
    Usage for what is none.
    """
    said = arguments.pop(KEY, None)
    return nullcontext() if said is None else engine.using_key(engine.Key.unpacked(said))


def reach(host: Host) -> Calls:
    """The operations of a host of the estate."""
    return There(host.name, host.reach) if host.reach else Here()


def packed_error(error: errors.Error) -> Json:
    """As it travels."""
    return {
        "kind": error.class_name, "message": error.message, "path": error.path, "exit_code": error.exit_code,
        "retryable": error.retryable,
    }  # fmt: skip


def unpacked_error(said: Mapping[str, Any], host: str) -> errors.Error:
    """The error that was raised there. One of a kind that is not known here is an Error with its exit status."""
    path, message = said.get("path"), str(said.get("message", ""))
    made = _KINDS.get(str(said.get("kind")), errors.Error)(
        " ".join(message.split())[:2000], path=f"{host}:{path}" if isinstance(path, str) and path else host
    )  # fmt: skip
    if type(code := said.get("exit_code")) is int and 0 < code < 256:
        made.exit_code = code
    if type(again := said.get("retryable")) is bool:
        made.retryable = again
    return made


def _travelled(value: Any) -> Json:
    found: Json = json.loads(json.dumps(msgspec.to_builtins(value)))
    return found
