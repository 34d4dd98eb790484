"""Commands on files in a mount: `flush`, `retry` and `discard` for what is unsent; `info` and `set` for what the server knows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import click

from jobfs import control
from jobfs.cli.options import complete_files, complete_mounted, reject_empty, state_dir_option
from jobfs.cli.running import (
    call_or_report,
    find_mount_of,
    find_mounts_of,
    mount_point_of,
    report_ended_if_any,
)
from jobfs.cli.screen import confirm, print_escaped, print_sentence, show_progress
from jobfs.document import describe_paths
from jobfs.errors import FsError, UsageError
from jobfs.nodes import Lifecycle, Permission


@click.command("flush")
@click.argument(
    "path", callback=reject_empty, required=False, metavar="[DIR|FILE]", shell_complete=complete_mounted
)
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Wait no longer than this.")
@state_dir_option
def flush(path: str | None, timeout: float | None, state_dir: str | None) -> int:
    """Send unsent files in DIR (any part of a mount), or in every mount, and return when the server has them.

    Exits with 0 if the server has everything; otherwise lists the unsent files, and exits with 1. `jobfs retry` sends files
    again that the server refused. Ctrl-C ends only this command, with 130: the mount continues sending.
    """
    answers: list[dict[str, Any] | None] = []
    for found, inside in find_mounts_of(path, state_dir):
        with show_progress(f"sending {mount_point_of(found)}") as progress, _name_path_in_errors(path):
            args = {"path": inside or None, "timeout": timeout}
            answers.append(
                call_or_report(found, "flush", args, on_progress=progress, on_sentence=print_sentence)
            )
    left = [entry for answer in filter(None, answers) for entry in answer["left"]]
    if left:
        print_escaped(f"jobfs: {len(left)} unsent: {describe_paths(left)}", err=True)
    ended = path is None and report_ended_if_any(state_dir)
    return 1 if left or ended or None in answers else 0


@click.command("retry")
@click.argument(
    "path", callback=reject_empty, required=False, metavar="[DIR|FILE]", shell_complete=complete_mounted
)
@state_dir_option
def retry(path: str | None, state_dir: str | None) -> int:
    """Send files again, at PATH or in every mount, that the server refused or that wait for their next try.

    Returns at once. `jobfs flush` waits for the outcome, and `jobfs status` shows it.
    """
    answers = [
        call_or_report(found, "retry", {"path": inside or None})
        for found, inside in find_mounts_of(path, state_dir)
    ]
    tried = [name for answer in filter(None, answers) for name in answer["paths"]]
    for name in tried:
        print_escaped(f"sending again: {name}")
    if not tried and None not in answers:
        print_escaped("jobfs: no file there has failed", err=True)
    return 1 if None in answers else 0


@click.command("discard")
@click.argument("path", callback=reject_empty, metavar="PATH", shell_complete=complete_files)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@state_dir_option
def discard(path: str, yes: bool, state_dir: str | None) -> int:
    """Give up the unsent changes to PATH, a file or directory in a mount, and show the server's version again.

    The state directory keeps a copy of the unsent bytes until the next clean unmount.
    """
    found, inside = find_mount_of(path, state_dir)
    report = control.call_mount(found.path, "status")
    unsent = [e for e in report["unsent"] if not inside or f"{e['path']}/".startswith(f"{inside}/")]
    if not unsent:
        raise UsageError(f"nothing is unsent at {path}")
    if not (yes or confirm(f"Give up the unsent changes to {describe_paths(unsent)}?")):
        print_escaped("nothing was given up")
        return 1
    for name, kept in control.call_mount(found.path, "discard", {"path": inside})["given_up"]:
        print_escaped(f"given up: {name}" + (f" (a copy is in {kept})" if kept else ""))
    return 0


@click.command("info")
@click.argument("path", callback=reject_empty, shell_complete=complete_files)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
def info(path: str, as_json: bool, state_dir: str | None) -> int:
    """Show what the server knows about the file or directory PATH in a mount, and its state on this machine."""
    facts = _call_mount("info", path, state_dir)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        if value not in (None, "", []):
            print_escaped(f"{name:10}  {value}")
    return 0


@click.command("set")
@click.argument("path", callback=reject_empty, shell_complete=complete_files)
@click.option("--permission", type=click.Choice([str(value) for value in Permission]))
@click.option("--lifecycle", type=click.Choice([str(value) for value in Lifecycle]))
@state_dir_option
def set(path: str, permission: str | None, lifecycle: str | None, state_dir: str | None) -> int:
    """Change the permission or the lifecycle of the file or directory PATH in a mount.

    The lifecycle is `application` for the workspace's defaults, and `expertJob` for this job's own items, which hide the
    defaults. Unsent changes to PATH are sent first. Returns when the server has the new values.
    """
    if permission is None and lifecycle is None:
        raise UsageError("nothing to change: give --permission or --lifecycle")
    _call_mount("set", path, state_dir, permission=permission, lifecycle=lifecycle)
    return 0


def _call_mount(call: str, path: str, state_dir: str | None, **args: str | None) -> Any:
    found, inside = find_mount_of(path, state_dir)
    with _name_path_in_errors(path):
        return control.call_mount(found.path, call, {"path": inside, **args})


@contextlib.contextmanager
def _name_path_in_errors(path: str | None) -> Iterator[None]:
    """Put the path in front of the message of an FsError."""
    try:
        yield
    except FsError as error:
        raise FsError(error.errno, f"{path}: {error}" if path else str(error)) from None
