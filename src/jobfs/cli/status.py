"""`jobfs status [DIR]`: what a mount is doing, and what needs a person."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from jobfs import document
from jobfs.cli.completion import mounted
from jobfs.cli.options import not_empty, state_dir_option
from jobfs.cli.running import asked, mounts_of, tell_of_ended
from jobfs.cli.screen import counted, shown, size, tell
from jobfs.document import Job, Status, Unsent
from jobfs.errors import JobfsError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

Reports = list[Status]

#: Exit codes: all well, something needs a person, not mounted or no answer.
WELL, NEEDS_A_PERSON, NO_ANSWER = 0, 1, 2

#: Seconds in which a mount answers, or is not well.
_PATIENCE = 10.0
#: Seconds between two looks of `--watch`.
_EVERY = 1.0

#: Lists of a status: what each is called, and whether an entry in it needs a person.
_LISTS = {
    "unsent": ("not on the server", False),
    "conflicts": (document.CHANGED_TWICE, True),
    "cleaning": ("sent, and being tidied up on the server", False),
    "shadowed": ("hidden behind another item of the same name", False),
    "hostile": ("names that can't be shown", False),
    "foreign_hidden": ("saves that another mount left unfinished: mount the job there", False),
}
#: Entries of a list that are shown; --json has them all.
_MOST = 20
#: Seconds after which a description of the job is no longer taken for its present state.
_OLD = 30.0


@click.command("status", short_help="Show what a mount is doing and what needs a person.")
@click.argument("directory", callback=not_empty, required=False, metavar="[DIR]", shell_complete=mounted)
@click.option("--json", "as_json", is_flag=True,
              help="Print the document that .jobfs/status.json holds (its fields: man jobfs-status).")  # fmt: skip
@click.option("-w", "--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@state_dir_option
def status(directory: str | None, as_json: bool, watch: bool, state_dir: str | None) -> int:
    """Show the mount at DIR, or every mount.

    Exits with 0 if all is well, 1 if something needs a person, 2 if nothing is mounted or does not answer. With
    --watch it is what was shown last that counts, and it ends when the mount does.
    """

    def look() -> tuple[int, Reports]:
        every = mounts_of(directory, state_dir)
        answers = [asked(found, "status", {}, timeout=_PATIENCE) for found, _ in every]
        reports = [_checked(report) for report in answers if report is not None]
        if not reports:
            raise JobfsError("no mount answers")
        if len(reports) < len(every):
            return NO_ANSWER, reports
        return NEEDS_A_PERSON if any(report["problems"] for report in reports) else WELL, reports

    def show_json(reports: Reports) -> None:
        shown = reports[0] if directory or len(reports) == 1 else reports
        click.echo(json.dumps(shown, indent=None if watch else 2))

    try:
        if watch:
            return _watch(look, show_json if as_json else None if sys.stdout.isatty() else _print)
        code, reports = look()
        show_json(reports) if as_json else _print(reports)
        ended = directory is None and tell_of_ended(state_dir)
        return NEEDS_A_PERSON if ended and code == WELL else code
    except JobfsError as error:
        tell(f"jobfs: {error}", err=True)
        return NO_ANSWER


def _checked(report: Status) -> Status:
    """The report of a mount. Raises JobfsError if the mount is of another version."""
    if report.get("schema") != document.SCHEMA:
        where = report.get("directory")
        raise JobfsError(
            f"the mount at {where} is of another version of jobfs: jobfs umount {where}, then mount it again"
        )
    return report


def _print(reports: Reports) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(_pictured(reports))
    console.print()


def _watch(look: Callable[[], tuple[int, Reports]], show: Callable[[Reports], object] | None) -> int:
    """Look and show until Ctrl-C; without `show`, in a view cut to the terminal's lines. Returns the last look's exit code.

    Raises JobfsError once nothing is mounted.
    """
    from rich.console import Console
    from rich.live import Live

    code: int | None = None
    view = Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="ellipsis")
    try:
        with view if show is None else contextlib.nullcontext():
            while True:
                code, reports = look()
                if show is None:
                    view.update(_pictured(reports), refresh=True)
                else:
                    show(reports)
                    sys.stdout.flush()
                time.sleep(_EVERY)
    except KeyboardInterrupt:
        if code is None:
            raise
        return code


# In words


def _pictured(reports: Sequence[Status]) -> RenderableType:
    """Mounts as a person reads of them: the facts, the problems, and the lists."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for report in reports:
        parts += [""] if parts else []
        parts += [Text.assemble((f"{name:10}", "bold"), shown(value)) for name, value in _facts(report)]
        parts += [Text(f"! {shown(problem)}", "red") for problem in report["problems"]]
        parts += _lists(report)
    return Group(*parts)


def _lists(report: Mapping[str, Any]) -> Iterator[Text]:
    from rich.text import Text

    for name, (meaning, needed) in _LISTS.items():
        entries = report[name]
        if entries:
            title = f"\n{name.replace('_', ' ')} ({len(entries)}): {meaning}"
            yield Text(title, "bold red" if needed else "bold")
            # Files that failed come first.
            for entry in sorted(entries, key=lambda entry: entry.get("state") != "failed")[:_MOST]:
                yield Text(f"  {shown(_described(entry))}")
                if entry.get("diff"):
                    yield Text(f"    {shown(entry['diff'])}")
            if len(entries) > _MOST:
                yield Text(f"  and {len(entries) - _MOST:,} more: --json has them all")


def _facts(report: Status) -> Iterator[tuple[str, str]]:
    """The facts on a mount, a line each: a name and a text."""
    yield "mount", f"{report['directory']} (process {report['pid']}{', read-only' * report['read_only']})"
    yield "job", f"{report['job_id']} {_job(report['job'])}"
    yield "server", f"{report['base_url']} {_server(report)}"
    if report["items"] is not None:
        yield "items", f"{report['items']:,}"
    yield "listing", _listing(report)
    yield "cache", size(report["cache"]["bytes"])
    if report["taken_up"]:
        yield "taken up", f"{counted(len(report['taken_up']), 'save')} that an earlier mount had left"
    yield "unsent", _unsent(report["unsent"], len(report["failed"]))
    yield "log", f"journalctl _PID={report['pid']}" if report["log"] == "journal" else report["log"]


def _job(job: Job) -> str:
    if job["status"] is None:
        return "(not known yet)"
    steps = None if job["current_step"] is None else f"step {job['current_step']:,}"
    if steps and job["total_steps"]:
        steps += f" of {job['total_steps']:,}"
    tokens = None if job["tokens"] is None else f"{job['tokens']:,} tokens"
    ended = "has ended" if job["ended"] else None
    old = f"{_span(job['age'])} ago" if (job["age"] or 0.0) > _OLD else None
    return ", ".join(filter(None, (job["status"], ended, steps, job["model"], tokens, old)))


def _server(report: Status) -> str:
    server = report["server"]
    answering = "answers" if server["answering"] else "does not answer"
    latency = f", {server['latency'] * 1000:.0f} ms" if server["answering"] and server["latency"] else ""
    return answering + latency + ("; what is known is shown as it was" if server["stale"] else "")


def _listing(report: Status) -> str:
    age, ttl = report["snapshot_age"], report["effective_ttl"]
    if age is None:
        return "not read yet"
    return f"{age:.1f} s old, good for {ttl:.0f} s"


def _unsent(entries: Sequence[Unsent], failed: int) -> str:
    if not entries:
        return "0"
    oldest = max(entry["age"] or 0.0 for entry in entries)
    old = f", the oldest {_span(oldest)} old" if oldest else ""
    refused = f"; {failed} of them failed" if failed else ""
    return f"{counted(len(entries), 'file')}, {size(sum(entry['size'] for entry in entries))}{old}{refused}"


def _described(entry: Mapping[str, Any]) -> str:
    """One line for an entry of a list: its path, and what else is known of it."""
    told = [
        size(entry["size"]) if "size" in entry else "",
        f"{_span(entry['age'])} old" if entry.get("age") is not None else "",
        entry.get("reason", ""),
        "failed" if entry.get("state") == "failed" else "",
    ]
    rest = ", ".join(filter(None, told))
    return f"{entry['path']}: {rest}" if rest else str(entry["path"])


def _span(seconds: float | None) -> str:
    """A duration as people say it."""
    value = seconds or 0.0
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * length:
            return f"{value / length:.0f} {unit}"
    return f"{value:.0f} s"
