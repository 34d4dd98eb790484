"""`jobfs status [DIR]`: what a mount is doing, and what needs a person."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from jobfs import document
from jobfs.cli.options import complete_mounted, reject_empty, state_dir_option
from jobfs.cli.running import call_or_report, find_mounts_of, report_ended_if_any
from jobfs.cli.screen import escape_for_terminal, format_count, format_size
from jobfs.document import JobStatus, Status, Unsent
from jobfs.errors import UsageError
from jobfs.names import replace_hidden_names
from jobfs.settings import shell_command

#: Exit codes: all is well; something needs a person; nothing is mounted, or a mount does not answer.
WELL, NEEDS_A_PERSON, NO_ANSWER = 0, 1, 2

#: Seconds within which a mount must answer.
_PATIENCE = 10.0
#: Seconds after which the server's last report on the job counts as old.
_OLD = 15.0
#: Seconds between two updates of `--watch`.
_EVERY = 1.0

#: Lists in the status: a text for the title, and whether an entry needs a person.
_LISTS = {
    "unsent": ("not on the server", False),
    "conflicts": ("", True),  # `problems` says what to do
    "cleaning": ("being cleaned up on the server", False),
    "shadowed": ("hidden behind another item of the same name", False),
    "hostile": ("names that can't be shown", False),
    "foreign_hidden": ("saves that another mount left unfinished: mount the job there", False),
}
#: The maximum number of entries shown of a list; --json prints all.
_MOST = 20


@click.command("status")
@click.argument(
    "directory", callback=reject_empty, required=False, metavar="[DIR]", shell_complete=complete_mounted
)
@click.option("--json", "as_json", is_flag=True,
              help="Print a JSON object with a list `mounts` (fields: man jobfs-status).")  # fmt: skip
@click.option("-w", "--watch", is_flag=True, help="Refresh every second, until Ctrl-C.")
@state_dir_option
def status(directory: str | None, as_json: bool, watch: bool, state_dir: str | None) -> int:
    """Show the mount at DIR, or every mount.

    Exits with 0 if all is well, with 1 if there is a problem, with 2 if no job is mounted or a mount does not answer. With
    --watch, the last status counts, and the command ends when the mount does.
    """
    watched = functools.partial(_show_once, directory, state_dir, as_json=as_json, watch=watch)
    if watch:
        return _repeat(watched)
    code = watched()
    ended = directory is None and report_ended_if_any(state_dir)
    return NEEDS_A_PERSON if ended and code == WELL else code


def _show_once(directory: str | None, state_dir: str | None, *, as_json: bool, watch: bool) -> int:
    """Show the mounts once; return the exit code. Raises UsageError if none answers."""
    reports: list[Status] = []
    try:
        every = find_mounts_of(directory, state_dir)
        answers = [call_or_report(found, "status", {}, timeout=_PATIENCE) for found, _ in every]
        reports += filter(None, answers)
        _check_answers(reports)
    except UsageError:
        if as_json:
            _print_statuses(reports, as_json=as_json, watch=watch)
        raise
    _print_statuses(reports, as_json=as_json, watch=watch)
    if len(reports) < len(every):
        return NO_ANSWER
    return NEEDS_A_PERSON if any(report["problems"] for report in reports) else WELL


def _check_answers(reports: Sequence[Status]) -> None:
    """Raise UsageError if no mount has answered, or one of another version of jobfs has."""
    if not reports:
        raise UsageError("no mount answers")
    for where in (each.get("directory") for each in reports if each.get("schema") != document.SCHEMA):
        remedy = f"run {shell_command('umount', str(where))}, then mount the job again"
        raise UsageError(f"the mount at {where} is of another version of jobfs: {remedy}")


def _print_statuses(reports: Sequence[Status], *, as_json: bool, watch: bool) -> None:
    """Print the mounts' statuses, as JSON or for a person."""
    if watch:
        click.clear()  # has no effect unless stdout is a terminal
    if as_json:
        click.echo(json.dumps({"mounts": reports}, indent=None if watch else 2))
    else:
        lines = [line for report in reports for line in (*_format_mount(report), "")]
        most = shutil.get_terminal_size().lines - 1 if watch and sys.stdout.isatty() else None
        click.echo("\n".join(lines[:most]))


def _repeat(show_once: Callable[[], int]) -> int:
    """Call `show_once` until Ctrl-C; return its last exit code."""
    code: int | None = None
    try:
        while True:
            code = show_once()
            time.sleep(_EVERY)
    except KeyboardInterrupt:
        if code is None:
            raise
        return code


# In words


def _format_mount(report: Status) -> Iterator[str]:
    """Yield a mount's status as lines for a person: facts, problems, lists."""
    for name, value in _format_facts(report):
        yield click.style(f"{name:10}", bold=True) + escape_for_terminal(value)
    for problem in report["problems"]:
        yield click.style(f"! {escape_for_terminal(problem)}", fg="red")
    lists: Mapping[str, Any] = report
    for name, (meaning, needed) in _LISTS.items():
        if entries := lists[name]:
            title = f"{name.replace('_', ' ')} ({len(entries)})" + (f": {meaning}" if meaning else "")
            yield ""
            yield click.style(title, bold=True, fg="red" if needed else None)
            yield from _format_entries(entries)


def _format_entries(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    # Files that failed come first.
    for entry in sorted(entries, key=lambda entry: entry.get("state") != "failed")[:_MOST]:
        yield f"  {escape_for_terminal(_describe_listed_path(entry))}"
        yield from (
            f"    {escape_for_terminal(entry[name])}" for name in ("diff", "merge") if entry.get(name)
        )
    if len(entries) > _MOST:
        yield f"  and {len(entries) - _MOST:,} more: --json has them all"


def _format_facts(report: Status) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each fact on a mount."""
    yield "mount", f"{report['directory']} (process {report['pid']}{', read-only' * report['read_only']})"
    yield "job", f"{report['job_id']} {describe_job(report['job'])}"
    yield "server", f"{report['base_url']} {_describe_server(report)}"
    if report["items"] is not None:
        yield "items", f"{report['items']:,}"
    age = report["snapshot_age"]
    left = report["effective_ttl"] - (age or 0.0)
    more = f"valid for {_format_duration(left)} more" if left > 0 else "read again when needed"
    yield "listing", "not read yet" if age is None else f"{_format_duration(age)} old, {more}"
    yield "cache", format_size(report["cache"]["bytes"])
    if report["watching"]["programs"]:
        requests = format_count(report["watching"]["requests"], "request")
        cost = f"the workspace is listed every {report['effective_ttl']:.0f} s ({requests} so far)"
        yield "watched", f"by {format_count(report['watching']['programs'], 'program')}: {cost}"
    if report["taken_up"]:
        yield "taken up", f"{format_count(len(report['taken_up']), 'save')} left by an earlier mount"
    yield "unsent", _describe_unsent(report["unsent"], len(report["failed"]))
    # A mount of an older version gives no state.
    if failed := sum(entry.get("state") == "failed" for entry in report["cleaning"]):
        yield (
            "uncleaned",
            f"{format_count(failed, 'save')}: what they replaced is still hidden there; tried again",
        )
    yield "log", f"journalctl _PID={report['pid']}" if report["log"] == "journal" else report["log"]


def describe_job(job: JobStatus) -> str:
    """Return the job's status, step, model and tokens in words; and their age, if the server has not answered since."""
    if job["status"] is None:
        return "(not known yet)"
    steps = None if job["current_step"] is None else f"step {job['current_step']:,}"
    if steps and job["total_steps"]:
        steps += f" of {job['total_steps']:,}"
    tokens = None if job["tokens"] is None else f"{job['tokens']:,} tokens"
    ended = "has ended" if job["ended"] else None
    age = job["age"] or 0.0
    old = f"as of {_format_duration(age)} ago" if age >= _OLD else None
    return ", ".join(filter(None, (job["status"], ended, steps, job["model"], tokens, old)))


def _describe_server(report: Status) -> str:
    server = report["server"]
    answering = "answers" if server["answering"] else "does not answer"
    latency = f", {server['latency'] * 1000:.0f} ms" if server["answering"] and server["latency"] else ""
    return answering + latency + ("; the last known state is shown" if server["stale"] else "")


def _describe_unsent(entries: Sequence[Unsent], failed: int) -> str:
    if not entries:
        return "0"
    oldest = max(entry["age"] or 0.0 for entry in entries)
    old = f", the oldest {_format_duration(oldest)} old" if oldest else ""
    refused = f"; {failed} of them failed" if failed else ""
    whole, part = sum(entry["size"] for entry in entries), sum(entry["sent"] for entry in entries)
    sent = f" ({format_size(part)} sent)" if part else ""
    return f"{format_count(len(entries), 'file')}, {format_size(whole)}{sent}{old}{refused}"


def _describe_listed_path(entry: Mapping[str, Any]) -> str:
    """Return one line for a path of a list in the status, with its size, progress, age and error where they are known."""
    if "origin" in entry:
        return str(entry["reason"])
    told = [
        format_size(entry["size"]) if "size" in entry else "",
        f"{format_size(entry['sent'])} sent" if entry.get("sent") else "",
        f"{_format_duration(entry['age'])} old" if entry.get("age") is not None else "",
        entry.get("reason", ""),
        "failed" if entry.get("state") == "failed" else "",
    ]
    rest = ", ".join(filter(None, told))
    path = replace_hidden_names(entry["path"])
    return f"{path}: {rest}" if rest else path


def _format_duration(value: float) -> str:
    """Format a duration, given in seconds, as people say it."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * length:
            return f"{value / length:.0f} {unit}"
    return f"{value:.0f} s"
