"""secondsite agent"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from secondsite import engine
from secondsite.orchestration import logs, output
from secondsite.orchestration.commands.options import address, json_option, state_option

PORT = 8084


@click.command(short_help="Keep replicas for other hosts, and give out keys to them.")
@click.option("--root", metavar="DIR", help="The folder of the replicas.")
@click.option("--listen", metavar="ADDR[:PORT]", help=f"Where to take connections; without a port at {PORT}.")
@click.option("--token", is_flag=True, help="Print a key with which one host can pair, once, within five days.")
@click.option("--replica", "replicas", multiple=True, metavar="NAME", help="With --token: a replica that it is for.")
@click.option(
    "--allow", metavar="ACTIONS", help="With --token: send, read, administer, or some of them.  [default: send]"
)
@click.option(
    "--keep", type=int, metavar="N",
    help="After each cycle keep the newest N points of its replica; else only who may administer drops points.",
)  # fmt: skip
@click.option("--metrics", metavar="ADDR:PORT", help="Tell figures to Prometheus here, without TLS: 127.0.0.1:9184.")
@click.option(
    "--log", "log", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="How what happens is told on standard error.",
)  # fmt: skip
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True,
    help="From when on.",
)  # fmt: skip
@state_option
@json_option
def command(
    root: str | None, listen: str | None, token: bool, replicas: tuple[str, ...], allow: str | None,
    metrics: str | None, keep: int | None, log: str, log_level: str, state: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Serve the replicas below DIR to paired hosts until SIGTERM or SIGINT.

    Only TLS 1.3 is spoken, and only with hosts whose key is pinned here. A key for one more is printed by --token; the
    agent need not be stopped for that.

    \b
    secondsite agent --root /backup --listen 0.0.0.0:8084
    secondsite agent --token --replica vm --allow send,read
    """
    if token:
        _give(root or listen, replicas, allow, state, as_json)
        return
    if replicas or allow:
        raise click.UsageError("--replica and --allow go with --token")
    where = address(listen, PORT)
    if root is None or where is None:
        raise click.UsageError("say where the replicas are and where to listen: --root DIR --listen ADDR")
    logs.begin(log, log_level)
    told = address(metrics, option="--metrics")
    with output.watching() as watch, engine.agent(root, listen=where, metrics=told, keep=keep, state=state) as running:
        figures = f", metrics at http://{running.metrics}/metrics" if running.metrics else ""
        line = f"serving {running.root} at {running.address}{figures}"
        output.until_stopped(watch, asdict(running), line, as_json=as_json)


def _give(other: str | None, replicas: tuple[str, ...], allow: str | None, state: str | None, as_json: bool) -> None:
    if other is not None:
        raise click.UsageError("--token prints a key and ends; the agent itself is another command")
    if not replicas:
        raise click.UsageError("say what the key is for: --replica NAME, more than once for more")
    actions: list[Any] = (allow or "send").split(",")
    if not set(actions) <= {"send", "read", "administer"}:
        raise click.UsageError(f"--allow takes send, read and administer, with commas, not {allow!r}")
    key = engine.registration_key(replicas, allow=actions, state=state)
    if as_json:
        output.print_json({"key": key, "replicas": replicas, "actions": actions})
    else:
        click.echo(key)
