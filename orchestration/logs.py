"""What a service tells about itself on standard error: lines for people, or a JSON object each."""

from __future__ import annotations

import json
import logging
import sys
import time

from secondsite.orchestration import output

# What a record may say beside its message, in this order.
FIELDS = ("peer", "replica", "operation", "seconds", "error")


class Lines(logging.Formatter):
    """`12:00:01 warning: …  peer=east replica=vm`; under systemd the journal has the time."""

    def format(self, record: logging.LogRecord) -> str:
        told = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        text = f"{record.levelname.lower()}: {record.getMessage()}" + (f"  {told}" if told else "")
        line = output.one_line(text)
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class Json(logging.Formatter):
    """One object on a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        said = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage(), **_fields(record)}
        if record.exc_info is not None:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}


def begin(kind: str, level: str = "info") -> None:
    """Send what the engine logs to standard error, as `text` or `json`, from a level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if kind == "json" else Lines())
    logger = logging.getLogger("secondsite")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    logging.raiseExceptions = False  # a log that cannot be written ends nothing
