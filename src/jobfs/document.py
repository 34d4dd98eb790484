"""What programs get of a mount: its status (`jobfs status --json`, `.jobfs/status.json`), its changes (`jobfs watch --json`).

`jobfs status --json` prints {"mounts": […]}, the mounts that answer; `.jobfs/status.json` is one element of that list.
Sizes in bytes; durations and ages in seconds; `null` where something is not known, or does not apply. Names of fields stay, and
`schema` grows when one of them goes or changes its meaning; new ones may come at any time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypedDict, TypeVar

from jobfs.settings import shell_command

SCHEMA = 5

#: What is said of files that failed.
REFUSED = "refused by the server: jobfs retry, or jobfs discard"

#: Statuses of a job that has ended (API reference, GET workspace_instance/). Its owner may continue it, with another status.
ENDED = frozenset({"completed", "exceededMaxSteps", "failed", "canceled", "expired"})
#: The status of a job that asks its owner for something.
ASKING = "requestInteractiveToolResult"


class JobStatus(TypedDict):
    """The job as the server described it last."""

    status: Annotated[str | None, "as the server says"]
    ended: Annotated[
        bool | None, "true while the job is at an end, whichever; false again if its owner continues it"
    ]
    current_step: Annotated[int | None, "as the server says"]
    total_steps: Annotated[int | None, "as the server says"]
    model: Annotated[str | None, "as the server says"]
    tokens: Annotated[int | None, "what it has used, in all"]
    age: Annotated[float | None, "how long ago the server said so"]


class ServerStatus(TypedDict):
    """How the server has been answering."""

    answering: Annotated[bool, "whether it answered what was asked last"]
    key_refused: Annotated[bool, "true if it refuses the API key"]
    latency: Annotated[float | None, "until an answer begins, on average"]
    last_error: Annotated[str | None, "why the last request failed"]
    requests: Annotated[int, "how many were made"]
    stale: Annotated[bool, "true while it can't be asked and what is known is shown"]


class CacheStatus(TypedDict):
    """The content cache."""

    bytes: Annotated[int, "what it takes on the disk"]
    refused: Annotated[
        str | None,
        "why its disk takes no bytes: four files of up to 16 MiB can be read then; null if it does",
    ]


class WatchStatus(TypedDict):
    """The programs on this machine that watch what the job does, and what that costs."""

    programs: Annotated[int, "how many watch now, by inotify or by jobfs watch"]
    told: Annotated[int, "how many changes were told, in all"]
    requests: Annotated[
        int, "about how many were made for them: to list the workspace each effective_ttl while there is one"
    ]


class Unsent(TypedDict):
    """A file that the server does not have yet, or refuses."""

    path: Annotated[str, "where"]
    size: Annotated[int, "how much"]
    sent: Annotated[int, "how much of it is on its way to the server, or there"]
    age: Annotated[float | None, "since it was closed"]
    attempts: Annotated[int, "how often it was tried"]
    reason: Annotated[str, "why it waits or failed"]
    state: Annotated[
        str, "dirty: changed, and not begun; staging, staged: waits, or is half done; uploading; failed"
    ]


class CleanupEntry(TypedDict):
    """A save of which something is left on the server."""

    path: Annotated[str, "of which file"]
    age: Annotated[float, "since it was closed"]


class ConflictEntry(TypedDict):
    """A second version."""

    path: Annotated[str, "where it is"]
    origin: Annotated[str, "of which file"]
    reason: Annotated[str, "whose version is whose"]
    diff: Annotated[str | None, "the shell command that compares the two; null if that file is gone"]
    merge: Annotated[
        str | None,
        "the command that merges it into that file; null if that is gone, or where nothing is known that both began with",
    ]


class PathProblem(TypedDict):
    """A path, and what is the matter with it."""

    path: Annotated[str, "which"]
    reason: Annotated[str, "why"]


class EndedMountEntry(TypedDict):
    """What an ended mount has left on this machine."""

    path: Annotated[str, "its state directory"]
    directory: Annotated[str | None, "where it was mounted"]
    left: Annotated[int | None, "how many changes are not finished; null if its journal can't be read"]


class Status(TypedDict):
    """The whole document."""

    schema: Annotated[int, "5"]
    problems: Annotated[
        list[str], "sentences: what does not go away without a person; the exit code is 1 if there is any"
    ]
    directory: Annotated[str, "where it is mounted"]
    job_id: Annotated[str, "the job that is mounted"]
    base_url: Annotated[str, "the server that has it"]
    pid: Annotated[int, "the process that serves it"]
    read_only: Annotated[bool, "true if it refuses everything that writes"]
    state_dir: Annotated[str, "where its unsent work is"]
    log: Annotated[str, "the file that its log goes to; journal; stderr"]
    job: JobStatus
    server: ServerStatus
    items: Annotated[int | None, "how many files and directories the workspace has"]
    snapshot_age: Annotated[float | None, "how old the listing is"]
    effective_ttl: Annotated[float, "how old it may be: as --ttl says, or five times what listings take"]
    listing_seconds: Annotated[float, "how long the last one took"]
    listing_error: Annotated[str | None, "why the last listing failed, or why the server can't be asked"]
    cache: CacheStatus
    watching: WatchStatus
    taken_up: Annotated[list[str], "what an earlier mount had left and this one took up, a line each"]
    unsent: Annotated[list[Unsent], "what is not on the server"]
    failed: Annotated[list[Unsent], "those of them that it has refused"]
    cleaning: Annotated[
        list[CleanupEntry],
        "saves that are on the server, and of which something is left to be tidied up there",
    ]
    conflicts: Annotated[
        list[ConflictEntry], "second versions that were kept, until they are deleted or renamed"
    ]
    shadowed: Annotated[list[PathProblem], "items hidden behind another one"]
    hostile: Annotated[list[PathProblem], "items whose names can't be shown"]
    foreign_hidden: Annotated[list[PathProblem], "saves that another mount left unfinished"]
    other_slots: Annotated[list[EndedMountEntry], "ended mounts of this job that have left something here"]


class WatchEvent(TypedDict):
    """One change, as `jobfs watch` tells it."""

    time: Annotated[float, "when it was seen, in seconds since 1970"]
    mount: Annotated[str, "where it is mounted"]
    what: Annotated[
        str,
        "created, changed, deleted, renamed: by the job; job: its status or step is another, or is told first (reason: "
        "continued, if it had ended); conflict: a "
        "second version was kept; failed: a save was refused; server: the workspace can't be listed any more, or can again; "
        "missed: changes came faster than they were read, and some are not told",
    ]
    path: Annotated[str | None, "of which file or directory"]
    old: Annotated[str | None, "the path before, of what was renamed"]
    directory: Annotated[bool, "true if it is a directory"]
    size: Annotated[int | None, "of a file, as far as it is known"]
    reason: Annotated[str | None, "why, in words"]
    job: Annotated[JobStatus | None, "of job: as in the status"]


def make_event(
    status: Status,
    what: str,
    path: str | None = None,
    *,
    old: str | None = None,
    directory: bool = False,
    size: int | None = None,
    reason: str | None = None,
    job: JobStatus | None = None,
) -> WatchEvent:
    """A change that is seen now, in the mount that has this status."""
    return {
        "time": time.time(), "mount": status["directory"], "what": what, "path": path, "old": old, "directory": directory,
        "size": size, "reason": reason, "job": job,
    }  # fmt: skip


def events_between(before: Status | None, now: Status) -> Iterator[WatchEvent]:
    """What is another in a status than `before`, and concerns who watches. Of the first one only the job is told."""
    yield from _job_events(before, now)
    if before is None:
        return
    if bool(before["listing_error"]) is not bool(now["listing_error"]):
        yield make_event(now, "server", reason=now["listing_error"] or "answers again")
    for conflict in _new_entries(before["conflicts"], now["conflicts"]):
        yield make_event(now, "conflict", conflict["path"], reason=conflict["reason"])
    for save in _new_entries(before["failed"], now["failed"]):
        yield make_event(now, "failed", save["path"], size=save["size"], reason=save["reason"])


_Entry = TypeVar("_Entry", Unsent, ConflictEntry)


def _new_entries(before: Sequence[_Entry], now: Sequence[_Entry]) -> list[_Entry]:
    """Return the entries of `now` whose paths are not in `before`."""
    known = {entry["path"] for entry in before}
    return [entry for entry in now if entry["path"] not in known]


def _job_events(before: Status | None, now: Status) -> Iterator[WatchEvent]:
    job, earlier = now["job"], before["job"] if before is not None else None
    if earlier is None or _job_progress(earlier) != _job_progress(job):
        continued = earlier is not None and earlier["ended"] and job["ended"] is False
        yield make_event(now, "job", job=job, reason="continued" if continued else None)


def _job_progress(job: JobStatus) -> tuple[str | None, int | None, int | None]:
    return job["status"], job["current_step"], job["total_steps"]


def list_problems(status: Status, recovery: str) -> list[str]:
    """One sentence for each thing in a status that needs a person; `recovery`: the command for what ended mounts have left."""
    found = []
    server, failed, conflicts = status["server"], len(status["failed"]), len(status["conflicts"])
    if server["key_refused"]:
        found.append("the API key is refused: put a valid one in the key file, or mount again with one")
    elif server["answering"] is False:
        found.append(f"the server does not answer: {server['last_error'] or 'no reason given'}")
    elif status["listing_error"]:
        found.append(f"the workspace can't be listed: {status['listing_error']}")
    if status["cache"]["refused"]:
        why = status["cache"]["refused"]
        found.append(f"the disk of the content cache takes no bytes ({why}): files over 16 MiB can't be read")
    if failed:
        retry = shell_command("retry", status["directory"])
        found.append(f"{failed} failed: refused by the server: {retry}, or jobfs discard FILE")
    if conflicts:
        told = "a second version was kept: compare, merge, or delete what is not wanted"
        found.append(f"{conflicts} conflict{'s' if conflicts > 1 else ''}: {told}")
    return found + [
        f"an ended mount at {slot['directory']} has left unsent work in {slot['path']}: {recovery}"
        for slot in status["other_slots"]
    ]


def describe_kept(left: Sequence[Any]) -> str:
    """What is left when a mount ends, in one line, "" if nothing is."""
    return f"{len(left)} unsent: kept for the next mount of this job: {describe_paths(left)}" if left else ""


def describe_paths(left: Sequence[Any], most: int = 10) -> str:
    """The paths in `left`, or in its entries, in one line; refused files, which are not tried again by themselves, are marked."""
    paths = [entry["path"] + f" ({REFUSED})" * (entry.get("state") == "failed") for entry in left]
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
