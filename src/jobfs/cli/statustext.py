"""The status of mounts in words, for `jobfs status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.text import Text

from jobfs.cli.screen import counted, shown
from jobfs.document import Job, Status, Unsent

#: Lists of a status: what each is called, and whether an entry in it needs a person.
LISTS = {
    "unsent": ("not sent yet", False),
    "failed": ("refused by the server: jobfs retry, or jobfs discard", True),
    "conflicts": ("changed on both sides: compare, and delete what is not wanted", True),
    "cleaning": ("sent, and being tidied up on the server", False),
    "shadowed": ("hidden behind another item of the same name", False),
    "hostile": ("names that can't be shown", False),
    "foreign_hidden": ("saves that another mount left unfinished: mount the job there", False),
}

#: Entries of a list that are shown; --json has them all.
_MOST = 20
#: Seconds after which a description of the job is no longer taken for what it is now, and a listing is worth a word.
_OLD, _LONG = 30.0, 1.0


def pictured(reports: Sequence[Status]) -> RenderableType:
    """What a person reads of mounts: the facts, what needs them, and the lists."""
    parts: list[RenderableType] = []
    for report in reports:
        if parts:
            parts.append("")
        parts += [Text.assemble((f"{name:10}", "bold"), shown(value)) for name, value in facts(report)]
        parts += [Text(f"! {shown(problem)}", "red") for problem in report["problems"]]
        parts += _lists(report)
    return Group(*parts)


def _lists(report: Mapping[str, Any]) -> Iterator[Text]:
    for name, (meaning, needed) in LISTS.items():
        entries = report[name]
        if entries:
            yield Text(
                f"\n{name.replace('_', ' ')} ({len(entries)}): {meaning}", "bold red" if needed else "bold"
            )
            for entry in entries[:_MOST]:
                yield Text(f"  {shown(describe(entry))}")
                if "diff" in entry:
                    yield Text(f"    {shown(entry['diff'])}")
            if len(entries) > _MOST:
                yield Text(f"  and {len(entries) - _MOST:,} more: --json has them all")


def facts(report: Status) -> Iterator[tuple[str, str]]:
    """What is said of a mount in a line each: a name and a text."""
    yield "mount", f"{report['directory']} (process {report['pid']}{', read-only' * report['read_only']})"
    yield "job", f"{report['job_id']} {_job(report['job'])}"
    yield "server", f"{report['base_url']} {_server(report)}"
    if report["items"] is not None:
        yield "items", f"{report['items']:,}"
    yield "listing", _listing(report)
    yield "cache", decimal(report["cache"]["bytes"])
    if report["taken_up"]:
        yield "taken up", f"{counted(len(report['taken_up']), 'save')} that an earlier mount had left"
    yield "unsent", _unsent(report["unsent"])
    yield "log", f"journalctl _PID={report['pid']}" if report["log"] == "journal" else report["log"]


def _job(job: Job) -> str:
    if job["status"] is None:
        return "(not known yet)"
    steps = None if job["current_step"] is None else f"step {job['current_step']:,}"
    if steps and job["total_steps"]:
        steps += f" of {job['total_steps']:,}"
    tokens = None if job["tokens"]["total"] is None else f"{job['tokens']['total']:,} tokens"
    ended = "has ended" if job["ended"] else None
    old = f"{_span(job['age'])} ago" if (job["age"] or 0.0) > _OLD else None
    return ", ".join(filter(None, (job["status"], ended, steps, job["model"], tokens, old)))


def _server(report: Status) -> str:
    server = report["server"]
    answering = {True: "answers", False: "does not answer", None: "has not answered yet"}[server["answering"]]
    latency = f", {server['latency'] * 1000:.0f} ms" if server["answering"] and server["latency"] else ""
    return answering + latency + ("; what is known is shown as it was" if server["stale"] else "")


def _listing(report: Status) -> str:
    age, ttl, seconds = report["snapshot_age"], report["effective_ttl"], report["listing_seconds"]
    if age is None:
        return "not read yet"
    when = f"after {ttl:.0f} s" if age <= ttl else "when something is looked up"
    takes = f", takes {seconds:.1f} s" if seconds >= _LONG else ""
    return f"{age:.1f} s old, refreshed {when}{takes}"


def _unsent(entries: Sequence[Unsent]) -> str:
    if not entries:
        return "0"
    oldest = max((entry["age"] or 0.0 for entry in entries), default=0.0)
    size = decimal(sum(entry["size"] for entry in entries))
    return f"{counted(len(entries), 'file')}, {size}" + (
        f", the oldest {_span(oldest)} old" if oldest else ""
    )


def describe(entry: Mapping[str, Any]) -> str:
    """One line for an entry of a list: its path, and what else is known of it."""
    rest = [text for name, value in entry.items() if (text := _word(name, value))]
    return ": ".join([str(entry["path"]), *([", ".join(rest)] if rest else [])])


def _word(name: str, value: Any) -> str:
    """What a field of an entry says to a person; "" where that goes without saying, or is said elsewhere."""
    if name in ("path", "diff", "origin", "state") or value in (None, ""):
        return ""
    if name == "attempts":
        return counted(value, "attempt") if value else ""
    words = {
        "size": lambda: decimal(int(value)),
        "age": lambda: f"{_span(value)} old",
        "next_try": lambda: f"next try in {_span(value)}" if value else "",
    }
    return words.get(name, lambda: str(value))()


def _span(seconds: float | None) -> str:
    """A duration as people say it."""
    value = seconds or 0.0
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * length:
            return f"{value / length:.0f} {unit}"
    return f"{value:.0f} s"
