"""secondsite key"""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import asking, json_option, key_options, state_option


@click.command(short_help="Make a key file, or list, add and remove the keys of an encrypted replica.")
@click.argument("what", type=click.Choice(["new", "list", "add", "remove"]), metavar="new|list|add|remove")
@click.argument("target", metavar="FILE|REPLICA")
@click.argument("slot", type=int, required=False, metavar="[KEY]")
@click.option("--new-key-file", metavar="FILE", help="Add this key file.")
@click.option(
    "--new-passphrase-file", metavar="FILE",
    help="Add the passphrase in this file.  [default: SECONDSITE_NEW_PASSPHRASE, or asked]",
)  # fmt: skip
@json_option
@state_option
@key_options
def command(
    what: str, target: str, slot: int | None, new_key_file: str | None, new_passphrase_file: str | None, as_json: bool,
    state: str | None,
) -> None:
    """Make a key file (new FILE), or list, add and remove the keys that open an encrypted REPLICA.

    `replicate --encrypt` makes an encrypted replica. What opens it is a passphrase (SECONDSITE_PASSPHRASE,
    --passphrase-file or asked) or a key file (--key-file). Adding and removing takes a key that opens it, and leaves
    all else as it is. Who lost the last key has lost the replica. Who kept a copy of a key that was removed, and of
    the replica's key.json of then, still opens it.

    \b
    secondsite key new vm.key
    secondsite key add azure://backup/vm --key-file vm.key
    secondsite key remove azure://backup/vm 1 --key-file vm.key
    """
    if (slot is not None) != (what == "remove"):
        raise click.UsageError("`key remove REPLICA KEY` takes the number of a key, as `key list` prints it")
    if (new_key_file or new_passphrase_file) and what != "add":
        raise click.UsageError("--new-key-file and --new-passphrase-file are for `key add`")
    if what == "new":
        engine.new_key_file(target)
        _tell_file(target, as_json)
        return
    if slot is not None:
        found = engine.remove_key(target, slot, state=state)
    elif what == "add":
        found = engine.add_key(target, _new(new_key_file, new_passphrase_file), state=state)
    else:
        found = engine.replica_keys(target, state=state)
    _tell(found, as_json)


def _new(file: str | None, passphrase_file: str | None) -> engine.Key:
    if file or passphrase_file:
        return engine.Key(file, passphrase_file)
    return engine.Key(passphrase=os.environ.get("SECONDSITE_NEW_PASSPHRASE") or None, ask=asking("New passphrase"))


def _tell_file(target: str, as_json: bool) -> None:
    if as_json:
        output.print_json({"file": target})
    else:
        click.echo(f"{target}: a new key; keep a copy where the replica is not, without it nobody opens what it locks")


def _tell(found: list[engine.KeyInfo], as_json: bool) -> None:
    if as_json:
        output.print_json({"keys": [asdict(key) for key in found]})
    else:
        rows = [(str(key.slot), key.kind, f"{key.made[:10]} {key.made[11:19]}") for key in found]
        click.echo(output.table(("KEY", "OPENED BY", "MADE (UTC)"), rows))
