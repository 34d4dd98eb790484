"""`jobfs emulator`: a local server of the Workspace Instance API."""

from __future__ import annotations

import signal
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from jobfs.cli.options import Rare, help_all_option
from jobfs.cli.screen import print_escaped
from jobfs.emulator.behaviour import SWITCHES, Behaviour
from jobfs.emulator.config import EmulatorConfig
from jobfs.emulator.faults import parse_rule
from jobfs.emulator.keys import find_key, keep_key
from jobfs.errors import UsageError
from jobfs.names import quote_for_shell

if TYPE_CHECKING:
    from jobfs.emulator.runner import Server

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def behaviour_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each switch of `Behaviour`, so that none is missing."""
    for name, field in reversed(SWITCHES.items()):
        flag = "--" + name.replace("_", "-")
        kind: Any = field.annotation
        if kind is bool:
            flag, kind = f"{flag}/--no-{flag[2:]}", None
        elif get_origin(kind) is Literal:
            kind = click.Choice([str(choice) for choice in get_args(kind)])
        default = str(field.default)
        text = f"{field.description} Default: {default.lower() if kind is None else default}."
        command = click.option(flag, name, cls=Rare, type=kind, default=None, help=text)(command)
    return command


@click.command("emulator")
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True,
              help="Where the server keeps its state.")  # fmt: skip
@click.option("--host", cls=Rare, default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=0, show_default=True, help="Port to listen on; 0: any free one.")
@click.option("--control-port", cls=Rare, type=int,
              help="A second port, for /_emulator/ only, which answers while the first is closed; 0: any free one.")  # fmt: skip
@click.option("--job", "jobs", cls=Rare, multiple=True,
              help="Id of a job to serve; may be repeated. Default: those in DIR.")  # fmt: skip
@click.option("--key", cls=Rare, help="The API key. Default: the one in DIR, made at the first start.")
@click.option("--key-file", cls=Rare, type=click.Path(path_type=Path), help="File that holds the API key.")
@click.option("--log", type=click.Path(path_type=Path), help="Append each request to this file, as JSON lines.")  # fmt: skip
@click.option("--sample", is_flag=True, help="Fill empty jobs with a few dozen realistic files.")
@click.option("--play", is_flag=True, help="Let the first job write continuously.")
@click.option("--fault", "faults", multiple=True, metavar="FAULT",
              help="KIND[=RATE][@ON][,NAME=VALUE]…, such as silent@POST+DELETE; may be repeated.")  # fmt: skip
@click.option("--seed", cls=Rare, type=int, default=0, show_default=True,
              help="Makes faults and unstable order repeatable.")  # fmt: skip
@behaviour_options
@help_all_option
def emulator(
    directory: Path, key: str | None, key_file: Path | None, sample: bool, play: bool, **options: Any
) -> None:
    """Serve the Workspace Instance API from DIR on this machine, for demos, tests and other clients.

    DIR keeps the state, which survives a restart. At the start the command prints the job and the URL. SIGTERM or Ctrl-C stops
    the server. jobfs.emulator.faults describes the faults, and jobfs.emulator.control how to change a running server.
    """
    runner = _import_runner()
    found = find_key(directory, key, key_file)
    config = _make_config(found.key, options)
    server = runner.Server(config, directory)
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        keep_key(found)
        _serve(server, found.source, sample, play)
    finally:
        server.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _serve(server: Server, key_source: str, sample: bool, play: bool) -> None:
    from jobfs.emulator.play import Player
    from jobfs.emulator.sample import seed_sample

    if sample:
        for job in server.jobs:
            seed_sample(server.job_side(job))
    server.start()
    jobs = ("job " if len(server.jobs) == 1 else "jobs ") + ", ".join(server.jobs)
    control = "" if server.config.control_port is None else f", controlled at {server.control_url}"
    print_escaped(f"serving {jobs} at {server.url} (API key: {key_source}){control}")
    player = Player(server.store) if play else None
    if player:
        player.start()
    signal.sigwait(_SIGNALS)
    if player:
        player.stop()


def _make_config(key: str, options: dict[str, Any]) -> EmulatorConfig:
    switches = {name: _convert_choice(name, options.pop(name)) for name in SWITCHES}
    try:
        behaviour = Behaviour().with_changes(
            **{n: value for n, value in switches.items() if value is not None}
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    faults: Sequence[str] = options.pop("faults")
    return EmulatorConfig(key=key, behaviour=behaviour, faults=tuple(map(parse_rule, faults)), **options)


def _convert_choice(name: str, value: Any) -> Any:
    """Return the switch's own value for a choice: click's choices are strings, the model's may be numbers."""
    choices = get_args(SWITCHES[name].annotation)
    return next((choice for choice in choices if str(choice) == value), value)


def _import_runner() -> types.ModuleType:
    try:
        import jobfs.emulator.runner as runner
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the local server needs {error.name}, which is not installed: in a clone of jobfs, "
            f"{quote_for_shell(sys.executable)} -m pip install '.[emulator]'"
        ) from None
    return runner
