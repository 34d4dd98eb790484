"""`jobfs status [DIR]`: what a mount is doing, and what needs a person."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from jobfs import control, document
from jobfs.cli.completion import mounted
from jobfs.cli.options import state_dir_option
from jobfs.cli.running import mount_of, mounts
from jobfs.cli.screen import tell
from jobfs.errors import JobfsError, UsageError

if TYPE_CHECKING:
    from jobfs.state.directory import Found

Reports = list[document.Status]

#: Exit codes: all well, something needs a person, not mounted or no answer.
WELL, NEEDS_A_PERSON, NO_ANSWER = 0, 1, 2

#: Seconds between two looks of `--watch`.
_EVERY = 1.0
#: Fields that change without anything having happened.
_PASSING = frozenset(
    {"age", "snapshot_age", "next_try", "latency", "requests", "listing_seconds", "effective_ttl"}
)


@click.command("status", short_help="Show what a mount is doing and what needs a person.")
@click.argument("directory", required=False, metavar="[DIR]", shell_complete=mounted)
@click.option("--json", "as_json", is_flag=True, help="Print the document that .jobfs/status.json holds.")
@click.option("-w", "--watch", is_flag=True, help="Go on until Ctrl-C; in a pipe, print each change.")
@state_dir_option
def status(directory: str | None, as_json: bool, watch: bool, state_dir: str | None) -> int:
    """Show the mount at DIR, or every mount.

    Exits with 0 if all is well, 1 if something needs a person, 2 if nothing is mounted or does not answer. With
    --watch it is what was shown last that counts, and it ends when the mount does.
    """

    def look() -> Reports:
        targets = [mount_of(directory, state_dir)[0]] if directory else mounts(state_dir)
        if not targets:
            raise UsageError("no job is mounted")
        return [_report(found) for found in targets]

    def written(reports: Reports) -> str:
        return json.dumps(
            reports[0] if directory or len(reports) == 1 else reports, indent=None if watch else 2
        )

    show = (lambda reports: click.echo(written(reports))) if as_json else _print
    try:
        if not watch:
            reports = look()
            show(reports)
            return _code(reports)
        return _live(look) if sys.stdout.isatty() and not as_json else _watch(look, _changes(show))
    except JobfsError as error:
        tell(f"jobfs: {error}", err=True)
        return NO_ANSWER


def _report(found: Found) -> document.Status:
    report: document.Status = control.call(found.path, "status")
    if report.get("schema") != document.SCHEMA:
        where = found.record.directory if found.record else found.path
        raise JobfsError(
            f"the mount at {where} is of another version of jobfs: jobfs umount {where}, then mount it again"
        )
    return report


def _code(reports: Reports) -> int:
    return NEEDS_A_PERSON if any(report["problems"] for report in reports) else WELL


def _print(reports: Reports) -> None:
    from rich.console import Console

    from jobfs.cli.statustext import pictured

    console = Console(highlight=False, soft_wrap=True)
    console.print(pictured(reports))
    console.print()


def _live(look: Callable[[], Reports]) -> int:
    """Show it on a terminal, as far as that has lines."""
    from rich.console import Console
    from rich.live import Live

    from jobfs.cli.statustext import pictured

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        return _watch(look, lambda reports: live.update(pictured(reports), refresh=True))


def _watch(look: Callable[[], Reports], show: Callable[[Reports], object]) -> int:
    """Look and show until Ctrl-C; the exit code of what was shown last. Raises JobfsError once nothing is mounted."""
    code: int | None = None
    try:
        while True:
            reports = look()
            # Before it is shown: who has seen it may end this at once.
            code = _code(reports)
            show(reports)
            time.sleep(_EVERY)
    except KeyboardInterrupt:
        if code is None:
            raise
        return code


def _changes(show: Callable[[Reports], object]) -> Callable[[Reports], None]:
    """Show only what is not as before."""
    before: Any = None

    def shown(reports: Reports) -> None:
        nonlocal before
        now = _lasting(reports)
        if now != before:
            before = now
            show(reports)
            sys.stdout.flush()

    return shown


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(part) for name, part in value.items() if name not in _PASSING}
    return [_lasting(part) for part in value] if isinstance(value, list) else value
