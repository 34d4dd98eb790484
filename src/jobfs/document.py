"""The status of a mount as a document: what `jobfs status --json` and `.jobfs/status.json` hold.

Sizes in bytes; durations and ages in seconds; `null` where something is not known, or does not apply. Names of fields stay, and
`schema` grows when one of them goes or changes its meaning; new ones may come at any time.

| field | meaning |
|---|---|
| `schema` | 2 |
| `problems[]` | sentences: what does not go away without a person; the exit code is 1 if there is any |
| `directory`, `pid` | where it is mounted, and by which process |
| `mounted_at` | when, in seconds since 1970 |
| `read_only` | true if it refuses everything that writes |
| `state_dir` | where its unsent work is |
| `log` | the file that its log goes to; `journal`; `stderr` |
| `job_id`, `base_url` | what is mounted: the job, and the server that has it |
| `job.id`, `job.status`, `job.expert`, `job.model` | as the server says |
| `job.ended` | true once the job has come to its end, whichever |
| `job.current_step`, `job.total_steps` | as the server says |
| `job.tokens.input`, `job.tokens.output`, `job.tokens.total` | what the job has used |
| `job.tokens.reasoning`, `job.tokens.cached_input` | what of that was for reasoning, or came from a cache |
| `job.age` | how long ago the server said so |
| `server.answering` | whether it answered what was asked last; `null` before anything was asked |
| `server.key_refused` | true if it refuses the API key |
| `server.latency` | until an answer begins, on average |
| `server.last_error` | why the last request failed |
| `server.requests` | how many were made |
| `server.stale` | true while it can't be asked and what is known is shown |
| `items` | how many files and directories the workspace has |
| `snapshot_age` | how old the listing is |
| `effective_ttl` | how old it may be: as `--ttl` says, or five times what listings take |
| `listing_seconds` | how long the last one took |
| `listing_error` | why the last listing failed, or why the server can't be asked |
| `cache.bytes` | what the content cache takes |
| `cache.refused` | why its disk takes no bytes: four files of up to 16 MiB can be read then; `null` if it does |
| `taken_up[]` | what an earlier mount had left and this one took up, a line each |
| `unsent[]`, `failed[]` | what is not on the server; those of them that it has refused |
| `[].path`, `[].size` | where, and how much |
| `[].age` | since it was closed |
| `[].state` | `dirty`: changed, and not begun; `staging`, `staged`: waits, or is half done; `uploading`; `failed` |
| `[].reason` | why it waits or failed |
| `[].attempts`, `[].next_try` | how often it was tried; when it will be |
| `cleaning[]` | saves that are on the server, and of which something is left to be tidied up there |
| `[].path`, `[].reason`, `[].age`, `[].next_try` | of which file, and what is done |
| `conflicts[]` | second versions that were kept, until they are deleted or renamed |
| `[].path`, `[].origin`, `[].reason` | where it is, of which file, and why |
| `[].diff` | the shell command that compares the two; `null` if that file is gone |
| `shadowed[]` | items hidden behind another one |
| `[].path`, `[].id`, `[].reason` | which, and behind what |
| `hostile[]`, `foreign_hidden[]` | items whose names can't be shown; saves that another mount left unfinished |
| `[].path`, `[].reason` | which, and why |
| `damaged[]` | directories with what was saved of a journal that was damaged, or lost its end |
| `other_slots[]` | ended mounts of this job that have left something here |
| `[].path`, `[].directory` | their state directory, and where they were mounted |
| `[].left`, `[].bytes` | how many changes are not finished, and how much is unsent |
| `[].error` | why that can't be told |
"""

from __future__ import annotations

import shlex
from typing import TypedDict

SCHEMA = 2

#: What is said of files that failed, and of conflicts.
REFUSED = "refused by the server: jobfs retry, or jobfs discard"
CHANGED_TWICE = "a second version was kept: compare, and delete what is not wanted"

#: Statuses of a job that it does not leave any more (API reference, GET workspace_instance/).
ENDED = frozenset({"completed", "exceededMaxSteps", "failed", "canceled", "expired"})


class Tokens(TypedDict):
    """What the job has used."""

    input: int | None
    output: int | None
    reasoning: int | None
    cached_input: int | None
    total: int | None


class Job(TypedDict):
    """The job as the server described it last."""

    id: str | None
    status: str | None
    ended: bool | None
    current_step: int | None
    total_steps: int | None
    model: str | None
    expert: str | None
    tokens: Tokens
    age: float | None


class Server(TypedDict):
    """How the server has been answering."""

    answering: bool | None
    key_refused: bool
    latency: float | None
    last_error: str | None
    requests: int
    stale: bool


class Cache(TypedDict):
    """The content cache."""

    bytes: int
    refused: str | None


class Unsent(TypedDict):
    """A file that the server does not have yet, or refuses."""

    path: str
    size: int
    age: float | None
    attempts: int
    reason: str
    next_try: float | None
    state: str


class Cleaning(TypedDict):
    """A save of which something is left on the server."""

    path: str
    reason: str
    age: float
    next_try: float


class Conflict(TypedDict):
    """A second version."""

    path: str
    origin: str
    reason: str
    diff: str | None


class Shadowed(TypedDict):
    """An item behind another one."""

    path: str
    id: str
    reason: str


class Odd(TypedDict):
    """A path, and what is the matter with it."""

    path: str
    reason: str


class Slot(TypedDict):
    """What an ended mount has left on this machine."""

    path: str
    directory: str | None
    left: int | None
    bytes: int | None
    error: str | None


class Status(TypedDict):
    """The whole document; the table above says what each field means."""

    schema: int
    problems: list[str]
    directory: str
    job_id: str
    base_url: str
    pid: int
    mounted_at: float
    read_only: bool
    state_dir: str
    log: str
    job: Job
    server: Server
    items: int | None
    snapshot_age: float | None
    effective_ttl: float
    listing_seconds: float
    listing_error: str | None
    cache: Cache
    taken_up: list[str]
    unsent: list[Unsent]
    failed: list[Unsent]
    cleaning: list[Cleaning]
    conflicts: list[Conflict]
    shadowed: list[Shadowed]
    hostile: list[Odd]
    foreign_hidden: list[Odd]
    damaged: list[str]
    other_slots: list[Slot]


def unsent(path: str, size: int, reason: str = "", state: str = "dirty") -> Unsent:
    """An entry of which nothing more is known; its size in bytes."""
    return {
        "path": path, "size": size, "age": None, "attempts": 0, "reason": reason, "next_try": None, "state": state
    }  # fmt: skip


def problems(status: Status) -> list[str]:
    """One sentence for each thing in a status that does not go away without a person."""
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
        found.append(f"{failed} failed: {REFUSED}")
    if conflicts:
        found.append(f"{conflicts} conflict{'s' if conflicts > 1 else ''}: {CHANGED_TWICE}")
    found += [
        f"an earlier journal was damaged, or lost its end: look at what was saved in {place}, then remove it"
        for place in status["damaged"]
    ]
    return found + [_of_slot(slot, status["job_id"]) for slot in status["other_slots"]]


def _of_slot(slot: Slot, job: str) -> str:
    where = f"an ended mount at {slot['directory']} has left"
    if slot["error"] is not None:
        return f"what {where} can't be told: {slot['error']}"
    return f"{where} unsent work in {slot['path']}: jobfs recover {job}"


def quoted(path: str) -> str:
    """A path as a word of a shell's command line; what a terminal would obey, by its code (`$'…'` of bash, zsh and ksh)."""
    if path.isprintable():
        return shlex.quote(path)
    codes = "".join(
        char
        if char.isprintable() and char not in "'\\"
        else "".join(f"\\x{byte:02x}" for byte in _bytes(char))
        for char in path
    )
    return f"$'{codes}'"


def _bytes(char: str) -> bytes:
    return char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass")
