"""`jobfs status [DIR]`: what a mount is doing, and what needs a person."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from jobfs import control
from jobfs.cli.completion import mounted
from jobfs.cli.options import state_dir_option
from jobfs.cli.running import mount_of, mounts
from jobfs.cli.screen import shown, tell
from jobfs.errors import JobfsError
from jobfs.state.directory import Found

#: Exit codes: all well, something needs a person, not mounted or no answer.
WELL, NEEDS_A_PERSON, NO_ANSWER = 0, 1, 2

#: Lists of paths in a status: what each is called, and whether an entry in it needs a person.
LISTS = {
    "unsent": ("not sent yet", False),
    "failed": ("refused by the server: `jobfs retry` or `jobfs discard`", True),
    "conflicts": ("changed on both sides: compare, and delete what is not wanted", True),
    "shadowed": ("hidden behind another item of the same name", False),
    "hostile": ("names that can't be shown", False),
    "foreign_hidden": ("saves that another mount left unfinished: mount the job there", False),
}

_ONE = {"conflicts": "conflict"}


@click.command("status", short_help="Show what a mount is doing and what needs a person.")
@click.argument("directory", required=False, metavar="[DIR]", shell_complete=mounted)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
def status(directory: str | None, as_json: bool, state_dir: str | None) -> int:
    """Show the mount at DIR, or every mount.

    Exits with 0 if all is well, 1 if something needs a person, 2 if nothing is mounted or does not answer.
    """
    try:
        targets = [mount_of(directory, state_dir)[0]] if directory else mounts(state_dir)
        if not targets:
            raise control.NoMountError("no job is mounted")
        reports = [_report(found) for found in targets]
    except JobfsError as error:
        tell(f"jobfs: {error}", err=True)
        return NO_ANSWER
    if as_json:
        click.echo(json.dumps(reports[0] if directory or len(reports) == 1 else reports, indent=2))
    else:
        for report in reports:
            _show(report)
    return NEEDS_A_PERSON if any(report["problems"] for report in reports) else WELL


def _report(found: Found) -> dict[str, Any]:
    report: dict[str, Any] = control.call(found.path, "status")
    return {**report, "problems": problems(report)}


def problems(report: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing in a status that does not go away without a person."""
    found = []
    server = report.get("server") or {}
    if server.get("key_refused"):
        found.append("the API key is refused: put a valid one in the key file, or mount again with one")
    elif server.get("answering") is False:
        found.append(f"the server does not answer: {server.get('last_error') or 'no reason given'}")
    for name, (meaning, needed) in LISTS.items():
        if needed and report.get(name):
            number = len(report[name])
            found.append(f"{number} {_ONE.get(name, name) if number == 1 else name}: {meaning}")
    for place in report.get("damaged") or ():
        found.append(f"an earlier journal was damaged: look at what was saved in {place}, then remove it")
    for other in report.get("other_slots") or ():
        where, kept = other.get("directory"), other.get("path")
        found.append(
            f"an ended mount at {where} has left unsent work in {kept}: jobfs recover {report.get('job_id')}"
        )
    return found


def _show(report: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(report):
        table.add_row(Text(name, "bold"), Text(shown(value)))
    console.print(table)
    for name, (meaning, needed) in LISTS.items():
        entries = report.get(name) or []
        if entries:
            console.print(Text(f"\n{name} ({len(entries)}): {meaning}", "bold red" if needed else "bold"))
            for entry in entries:
                console.print(Text(f"  {shown(describe(entry))}"))
    for problem in report["problems"]:
        console.print(Text(f"! {shown(problem)}", "red"))
    console.print()


def _facts(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    job, server, cache = (report.get(name) or {} for name in ("job", "server", "cache"))
    yield "mount", f"{report.get('directory')} (process {report.get('pid')})"
    state = job.get("status") if isinstance(job, Mapping) else job
    yield "job", " ".join(filter(None, (report.get("job_id"), f"({state})" if state else "")))
    latency = server.get("latency")
    answering = {True: "answers", False: "does not answer", None: "not asked yet"}[server.get("answering")]
    yield (
        "server",
        f"{report.get('base_url')} {answering}" + (f", {latency * 1000:.0f} ms" if latency else ""),
    )
    if report.get("items") is not None:
        yield "items", str(report["items"])
    if report.get("snapshot_age") is not None:
        age, ttl = report["snapshot_age"], report.get("effective_ttl") or 0.0
        yield "listing", f"{age:.1f} s old, good for {ttl:.1f} s"
    if cache:
        yield "cache", decimal(int(cache.get("bytes") or 0))
    if report.get("taken_up"):
        yield "taken up", f"{_count(len(report['taken_up']), 'save')} that an earlier mount had left"
    yield "unsent", str(len(report.get("unsent") or ()))


def describe(entry: Any) -> str:
    """One line for an entry of a list: its path, and what else is known of it."""
    if isinstance(entry, Mapping):
        rest = [text for name, value in entry.items() if (text := _word(name, value))]
        return ": ".join([str(entry.get("path", "")), *([", ".join(rest)] if rest else [])])
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        return ": ".join(str(part) for part in entry)
    return str(entry)


def _word(name: str, value: Any) -> str:
    """What a fact of an entry says to a person; sizes in bytes, times in seconds."""
    if name == "path" or value in (None, ""):
        return ""
    if name == "attempts":
        return f"{_count(value, 'attempt')}" if value else ""
    words = {
        "size": lambda: decimal(int(value)),
        "age": lambda: f"{value:.0f} s old",
        "next_try": lambda: f"next try in {value:.0f} s",
    }
    return words.get(name, lambda: str(value))()


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
