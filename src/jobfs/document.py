"""The JSON that a mount gives to programs: its status, and the events of `jobfs watch --json`.

`jobfs status --json` prints {"mounts": […]}, with the mounts that answer; `.jobfs/status.json` is one element of that list. Sizes
are in bytes, durations and ages in seconds; `null` means that a value is not known or does not apply. New fields may be added at
any time. `schema` grows when a field is removed or changes its meaning.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypedDict, TypeVar

from jobfs.settings import shell_command

SCHEMA = 5

#: The note beside a failed file in a list of paths.
REFUSED = "refused by the server: run jobfs retry, or jobfs discard"

#: The statuses of a job that has ended (API reference, GET workspace_instance/). If its owner continues it, it gets another one.
ENDED = frozenset({"completed", "exceededMaxSteps", "failed", "canceled", "expired"})
#: The status of a job that waits for its owner to reply.
ASKING = "requestInteractiveToolResult"


class JobStatus(TypedDict):
    """The job as the server reported it last."""

    status: Annotated[str | None, "as the server reports it"]
    ended: Annotated[
        bool | None, "true once the job has ended, in whatever way; false again if its owner continues it"
    ]
    current_step: Annotated[int | None, "as the server reports it"]
    total_steps: Annotated[int | None, "as the server reports it"]
    model: Annotated[str | None, "as the server reports it"]
    tokens: Annotated[int | None, "how many it has used in all"]
    age: Annotated[float | None, "how long ago the server reported this"]


class ServerStatus(TypedDict):
    """How the server has answered so far."""

    answering: Annotated[bool, "true if it answered the last request"]
    key_refused: Annotated[bool, "true if it refuses the API key"]
    latency: Annotated[float | None, "the average time until a reply begins"]
    last_error: Annotated[str | None, "why the last request failed"]
    requests: Annotated[int, "how many requests were made"]
    stale: Annotated[bool, "true while it can't be asked, and the mount shows what it knows"]


class CacheStatus(TypedDict):
    """The content cache."""

    bytes: Annotated[int, "how much of the disk it uses"]
    refused: Annotated[
        str | None,
        "why its disk refuses bytes, while only files of up to 16 MiB can be read, four at a time; null if it accepts them",
    ]


class WatchStatus(TypedDict):
    """The programs on this machine that watch what the job does, and what they cost."""

    programs: Annotated[int, "how many watch now, by inotify or by jobfs watch"]
    told: Annotated[int, "how many changes were reported to them in all"]
    requests: Annotated[
        int,
        "about how many requests they cost: while there is one, the workspace is listed every effective_ttl",
    ]


class Unsent(TypedDict):
    """A change that the server does not have yet, or has refused."""

    path: Annotated[str, "the path in the workspace"]
    size: Annotated[int, "how many bytes are unsent"]
    sent: Annotated[int, "how many of these the current attempt has sent"]
    age: Annotated[float | None, "since the first close that is unsent; null if there was none"]
    attempts: Annotated[int, "how many attempts have failed"]
    reason: Annotated[str, "why it waits or has failed"]
    state: Annotated[
        str,
        "dirty: not begun; staging, staged: begun, and waiting; uploading: being sent; failed: refused by the server",
    ]


class CleanupEntry(TypedDict):
    """A finished or cancelled save that has left hidden items on the server."""

    path: Annotated[str, "the file that was saved"]
    age: Annotated[float, "since the file was closed"]
    attempts: Annotated[int, "how many attempts to clean up have failed"]
    reason: Annotated[str, "why the last attempt has failed"]
    state: Annotated[str, "failed: the last attempt has failed, and is repeated; else waiting"]


class ConflictEntry(TypedDict):
    """A second version of a file, which was kept beside it."""

    path: Annotated[str, "the second version"]
    origin: Annotated[str, "the file"]
    reason: Annotated[str, "which of them has whose version"]
    diff: Annotated[str | None, "the shell command that compares the two; null if the file is gone"]
    merge: Annotated[
        str | None,
        "the command that merges it into the file; null if the file is gone, or their common base is not known",
    ]


class PathProblem(TypedDict):
    """A path with a problem."""

    path: Annotated[str, "the path"]
    reason: Annotated[str, "the problem"]


class EndedMountEntry(TypedDict):
    """An ended mount that has left unsent work on this machine."""

    path: Annotated[str, "its state directory"]
    directory: Annotated[str | None, "where it was mounted"]
    left: Annotated[int | None, "how many changes are unfinished; null if its journal can't be read"]


class Status(TypedDict):
    """The status of one mount."""

    schema: Annotated[int, "5"]
    problems: Annotated[
        list[str], "sentences on what needs a person; the exit code of jobfs status is 1 if there is any"
    ]
    directory: Annotated[str, "where it is mounted"]
    job_id: Annotated[str, "the job that is mounted"]
    base_url: Annotated[str, "the address of the server"]
    pid: Annotated[int, "the process that serves it"]
    read_only: Annotated[bool, "true if it refuses all writes"]
    state_dir: Annotated[str, "the directory with its unsent work"]
    log: Annotated[str, "where its log goes: the path of a file, journal, or stderr"]
    job: JobStatus
    server: ServerStatus
    items: Annotated[int | None, "how many files and directories the workspace has"]
    snapshot_age: Annotated[float | None, "how old the listing is"]
    effective_ttl: Annotated[
        float, "how old it may be: --ttl, or five times as long as a listing takes if that is longer"
    ]
    listing_seconds: Annotated[float, "how long the last listing took"]
    listing_error: Annotated[str | None, "why the last listing failed, or why the server can't be asked"]
    cache: CacheStatus
    watching: WatchStatus
    taken_up: Annotated[list[str], "what an earlier mount had left and this one took up, a line each"]
    unsent: Annotated[list[Unsent], "what the server does not have"]
    failed: Annotated[list[Unsent], "those of unsent that the server has refused"]
    cleaning: Annotated[
        list[CleanupEntry],
        "saves of which hidden items are left on the server, until cleanup deletes them",
    ]
    conflicts: Annotated[
        list[ConflictEntry], "second versions that were kept, until they are deleted or renamed"
    ]
    shadowed: Annotated[list[PathProblem], "items hidden behind another one"]
    hostile: Annotated[list[PathProblem], "items whose names can't be shown"]
    foreign_hidden: Annotated[list[PathProblem], "hidden items of saves that another mount left unfinished"]
    other_slots: Annotated[
        list[EndedMountEntry], "ended mounts of this job that have left unsent work on this machine"
    ]


class WatchEvent(TypedDict):
    """One line of `jobfs watch --json`."""

    time: Annotated[float, "when it was seen, in seconds since 1970"]
    mount: Annotated[str, "where the mount is"]
    what: Annotated[
        str,
        "created, changed, deleted, renamed: by the job; job: its status or step at the start, and whenever one of them changes "
        "(reason: continued, if it had ended); conflict: a second version was kept; failed: a save was refused; server: the "
        "workspace can no longer be listed, or can be listed again; missed: changes came faster than they were read, and some "
        "were left out",
    ]
    path: Annotated[str | None, "the file or directory"]
    old: Annotated[str | None, "for renamed: the path before"]
    directory: Annotated[bool, "true if it is a directory"]
    size: Annotated[int | None, "the size of a file, if known"]
    reason: Annotated[str | None, "the reason, in words"]
    job: Annotated[JobStatus | None, "for job: as in the status"]


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
    """Return an event of now, in the mount that has this status."""
    return {
        "time": time.time(), "mount": status["directory"], "what": what, "path": path, "old": old, "directory": directory,
        "size": size, "reason": reason, "job": job,
    }  # fmt: skip


def events_between(before: Status | None, now: Status) -> Iterator[WatchEvent]:
    """Yield the events by which a status differs from the one `before`; if that is None, only the job as it is."""
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


def list_problems(status: Status, recovery_command: str) -> list[str]:
    """Return a sentence for each problem in a status that needs a person.

    `recovery_command`: the command that sends what ended mounts have left.
    """
    found = []
    server, failed, conflicts = status["server"], len(status["failed"]), len(status["conflicts"])
    if server["key_refused"]:
        found.append(
            "the server refuses the API key: put a valid key into the key file, or mount again with one"
        )
    elif server["answering"] is False:
        found.append(f"the server does not answer: {server['last_error'] or 'no reason given'}")
    elif status["listing_error"]:
        found.append(f"the workspace can't be listed: {status['listing_error']}")
    if status["cache"]["refused"]:
        why = status["cache"]["refused"]
        found.append(f"can't write to the content cache ({why}): files over 16 MiB can't be read")
    if failed:
        retry = shell_command("retry", status["directory"])
        found.append(f"{failed} failed: refused by the server: run {retry}, or jobfs discard FILE")
    if conflicts:
        advice = "a second version was kept: compare, merge, or delete the version you don't want"
        found.append(f"{conflicts} conflict{'s' if conflicts > 1 else ''}: {advice}")
    return found + [
        f"an ended mount at {slot['directory']} has left unsent work in {slot['path']}: run {recovery_command}"
        for slot in status["other_slots"]
    ]


def describe_kept(unsent: Sequence[Any]) -> str:
    """Return one line on what is unsent when a mount ends, "" if nothing is."""
    return (
        f"{len(unsent)} unsent: kept for the next mount of this job: {describe_paths(unsent)}"
        if unsent
        else ""
    )


def describe_paths(unsent: Sequence[Any], max_count: int = 10) -> str:
    """Return the paths of unsent entries in one line, at most `max_count`; those that the server has refused are marked."""
    paths = [entry["path"] + f" ({REFUSED})" * (entry.get("state") == "failed") for entry in unsent]
    more = f" and {len(paths) - max_count} more" if len(paths) > max_count else ""
    return ", ".join(paths[:max_count]) + more
