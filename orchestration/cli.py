"""The command line: which commands there are, and how errors become one line and an exit status.

A command's module is imported when that command runs, so that `secondsite points` does not pay for the others.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

import click

from secondsite.engine import errors

# Name, and the line that `secondsite --help` shows for it (the module is not imported for that).
COMMANDS = {
    "replicate": "Bring a replica up to date with a disk image.",
    "track": "Serve disk images over NBD and note what changes.",
    "points": "List the recovery points of a replica.",
    "info": "Describe a replica or a disk image.",
    "verify": "Prove that a replica is what it should be.",
    "restore": "Write a recovery point to an image file.",
    "materialize": "Write a recovery point as a disk that Azure boots.",
    "serve": "Export a recovery point over NBD, without a copy.",
    "overlay": "Make a disk to run from a recovery point at once, remove it, or list those of a replica.",
    "place": "Put a recovery point in the place of a machine's own disk, and back.",
    "prune": "Drop old recovery points.",
    "convert": "Convert a disk image to another format.",
    "check": "Check the structure of a disk image.",
    "map": "Show where a disk image holds data.",
    "export-hrl": "Write what changed between two points as a Hyper-V Replica log.",
    "export-seed": "Write a disk to a medium, as the first copy of a replica elsewhere.",
    "import-seed": "Make a replica's first point from a medium.",
    "adopt": "Make a copy of a disk that lies here the first point of a new replica.",
    "key": "Make a key file, or list, add and remove the keys of an encrypted replica.",
    "identity": "Make or show the key that other hosts know this one by.",
    "agent": "Keep replicas for other hosts, and give out keys to them.",
    "pair": "Pair with another host's agent.",
    "peers": "List who is paired with this host's agent, or revoke one.",
    "scenarios": "Show what each scenario has and asks for; hold an estate to it.",
    "plan": "Show what an estate file would change, and every rule that it breaks.",
    "apply": "Make the vault say what an estate file says.",
    "vault": "The database of what is protected: make it, register with it, look at its log.",
    "run": "Run the cycles of all protected machines, for ever.",
    "status": "Show state and health of the protected machines.",
    "protection": "Start a cycle at once; pause, resume, resync or recover a machine; pin its points.",
    "retention": "Show every point of a machine, the rule that keeps it, and when it dies.",
    "failover": "Fail a protected machine over, as a test or for good, and bring it back.",
    "mapping": "Say where a machine goes at a failover, and why.",
    "network": "Show the network devices of machines on this host, or sweep up what a crash left.",
    "drill": "Prove that a machine comes up from its copy, and how soon.",
    "recovery": "Run recovery plans: several machines in order, with scripts and manual steps.",
    "bench": "Measure what this machine can do.",
}
# For programs, so not in the help.
HIDDEN = ("host-call",)

EXIT_STATUS = """\b
Exit status:
  0  done
  1  verification found a difference
  2  the request makes no sense (usage)
  3  refused: a rule forbids it, or the replica is busy
  4  damaged: bytes are not what they should be
  5  unreachable: a file or device cannot be read or written, or is full
  129, 130, 143  stopped by a signal; what was begun was taken back
"""


class Commands(click.Group):
    """A group whose commands live in modules of their own name, with `_` for `-`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS and cmd_name not in HIDDEN:
            return None
        module = cmd_name.replace("-", "_")
        found = import_module(f"secondsite.orchestration.commands.{module}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version  # 17 ms that no other command should pay

        from secondsite.engine import kernel

        click.echo(f"secondsite {version('secondsite')} ({kernel.NAME} kernels)")
        ctx.exit()


@click.group(cls=Commands, epilog=EXIT_STATUS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show it.")
def secondsite() -> None:
    """Keep a second copy of disk images, with recovery points, that is proved and ready to run from.

    \b
    secondsite replicate vm.raw /backup/vm        # the first time all of it, then what changed
    secondsite points /backup/vm
    secondsite verify /backup/vm
    secondsite restore /backup/vm vm-monday.raw --at 2026-11-16T08:00
    """


def main() -> NoReturn:
    """Run the command line of this process, and end it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us, which is no reason to fail
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        # A file's name need not be text in the user's encoding; it is shown all the same.
        sys.stdout.reconfigure(errors="backslashreplace")
    # A command makes many objects and few circles of them: looking for these each 700 objects, as Python does, takes a
    # quarter of `status` of 1,000 machines (0.66 s of processor time to 0.48 s).
    gc.set_threshold(50_000)
    status = run(sys.argv[1:])
    # And at the end it would look through everything that was loaded, only to give back memory that goes with the
    # process: 80 ms after `status`, and 14 ms so. What is to be done at the end (atexit) is done all the same.
    gc.freeze()
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run one command line; its exit status. Every error is one line on standard error."""
    json = "--json" in arguments
    try:
        # Not click's own main: that ends with 1 where a pipe is broken, which would say that something differs.
        with secondsite.make_context("secondsite", list(arguments)) as context:
            status = secondsite.invoke(context)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except errors.Error as error:
        return _failed(str(error), error.exit_code, json, retryable=error.retryable)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return errors.USAGE
    except click.UsageError as error:
        where = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        return _failed(error.format_message() + where, errors.USAGE, json)
    except (KeyboardInterrupt, click.Abort):
        return _failed("interrupted", errors.CANCELLED, json)
    except BrokenPipeError:
        _drop_output()
        return errors.UNREACHABLE
    except OSError as error:
        # The engine's own are errors.Error; this one is of standard output, a full disk behind it for one.
        _drop_output()
        return _failed(f"standard output: cannot write: {os.strerror(error.errno or 0)}", errors.UNREACHABLE, False)
    except Exception as error:
        if _was_interrupted(error):
            return _failed("interrupted", errors.CANCELLED, json)
        if os.environ.get("SECONDSITE_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}"
        return _failed(f"internal error: {what} (SECONDSITE_DEBUG=1 shows where; please report it)", 70, json)


def _was_interrupted(error: BaseException | None) -> bool:
    """Before 3.12 Python makes an error of an interrupt that comes while an import makes a class (__set_name__)."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _was_interrupted(error.__cause__))


def _failed(message: str, status: int, json: bool, *, retryable: bool = False) -> int:
    from secondsite.orchestration import output

    said = output.fail(message, status, retryable=retryable)
    if json:
        try:
            output.print_json(said)
            sys.stdout.flush()
        except OSError:
            _drop_output()
    return status


def _drop_output() -> None:
    """What is left in the buffer of standard output has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
