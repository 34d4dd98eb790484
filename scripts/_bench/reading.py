"""The workloads that read: listing, searching, streaming, a part of a file, git, tar."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from . import tree
from .jobfs import Jobfs
from .measure import (
    Goal,
    Measured,
    Outcome,
    Row,
    Sample,
    ahead_of,
    ahead_of_peers,
    at_most,
    of_bound,
    of_system,
    requests,
    round_trips,
)
from .system import Mounted
from .trial import Trial, same, sample

CONNECTIONS = 16

#: The TTL of warm workloads, in seconds: metadata and contents are cached and still fresh, in jobfs as in its peers.
WARM_TTL = 300
#: Seconds after which the kernel's names and attributes have expired, so that it asks the driver again.
KERNEL_FORGETS = 1.1

_LIST_GOALS = (round_trips(4), requests(12), ahead_of_peers(10))
_WARM_GOALS = (requests(0), of_system("floor", 1.5), of_system("rclone", 1.1))


def _per_connection(count: int, rtt: float) -> float:
    return count / CONNECTIONS * rtt


LISTING = (
    Row("ls", "ls -lR, cold", lambda rtt: 2 * rtt, _LIST_GOALS),
    Row("ls-warm", "ls -lR, warm", goals=_WARM_GOALS, rtt=None),
)
FIND = (Row("find", "find, cold", lambda rtt: 2 * rtt, _LIST_GOALS),)
GREP = (
    Row(
        "grep", "grep -r, cold", lambda rtt: _per_connection(tree.FILES, rtt) + 2 * rtt,
        (of_bound(1.5), requests(1030), ahead_of_peers(10)),
    ),
    Row("grep-warm", "grep -r, warm", goals=_WARM_GOALS, rtt=None),
)  # fmt: skip
TAR = (Row("tar", "tar, cold", lambda rtt: _per_connection(tree.FILES, rtt) + 2 * rtt),)
CAT = (
    Row("cat-first", "cat 64 MiB: first byte", lambda rtt: rtt, (round_trips(2.5),)),
    Row("cat", "cat 64 MiB: whole", goals=(of_system("curl", 1.25),), rtt=None),
)
MIDDLE = (
    Row(
        "middle", "4 KiB in the middle", lambda rtt: rtt,
        (round_trips(2.5), at_most("moved", 8 << 20, "<= 8 MiB moved")),
    ),
)  # fmt: skip


def _level(outcome: Outcome) -> float | None:
    ours, theirs = outcome.median("jobfs"), outcome.median("rclone")
    return ours / theirs if ours is not None and theirs else None


GIT = (
    Row(
        # Besides the listing and the files, one after the other: HEAD, config, a ref and the index; a commit and a tree.
        "git", "git status, cold", lambda rtt: _per_connection(tree.GIT_FILES, rtt) + (2 + 6) * rtt,
        (of_bound(1.5), ahead_of("rclone", 10)),
    ),
    Row("git-warm", "git status, warm", goals=(Goal("level with rclone", _level, 1.1),)),
)  # fmt: skip


def listing(trial: Trial) -> Iterator[Measured]:
    """Run `ls -lR`: every name with its size."""
    wanted = {path: len(content) for path, content in _tree(trial).items()}

    def check(out: str) -> None:
        same(_parsed(out), wanted, "ls -lR")

    with trial.mounted("tree", ttl=WARM_TTL) as mounted:
        yield from _cold_and_warm(trial, mounted, LISTING, ["ls", "-lR", "."], check)


def _cold_and_warm(
    trial: Trial, mounted: Mounted, rows: Sequence[Row], command: Sequence[str], check: Callable[[str], None]
) -> Iterator[Measured]:
    cold, warm = rows
    yield Measured(cold.key, trial.timed(mounted, command, check, mounted.path))
    time.sleep(KERNEL_FORGETS)
    yield Measured(warm.key, trial.timed(mounted, command, check, mounted.path))


def _parsed(out: str) -> dict[str, int]:
    """Parse the output of `ls -lR .`; return the size of every file by its path."""
    sizes, directory = {}, ""
    for line in out.splitlines():
        if line.startswith(".") and line.endswith(":"):
            directory = line[:-1].removeprefix(".").removeprefix("/")
        elif line.startswith("-"):
            fields = line.split(maxsplit=8)
            sizes[f"{directory}/{fields[8]}" if directory else fields[8]] = int(fields[4])
    return sizes


def finding(trial: Trial) -> Iterator[Measured]:
    """Run `find`: every path."""
    paths = set(_tree(trial))
    wanted = {f"./{path}" for path in paths | tree.directories_of(paths)} | {"."}
    with trial.mounted("tree") as mounted:
        yield Measured(
            "find",
            trial.timed(
                mounted, ["find", "."], lambda out: same(_visible(out), wanted, "find"), mounted.path
            ),
        )


def _visible(out: str) -> set[str]:
    # davfs2 shows an extra directory for files that could not be sent.
    return {line for line in out.splitlines() if not line.startswith("./lost+found")}


def grepping(trial: Trial) -> Iterator[Measured]:
    """Run `grep -r` for a word that occurs once, at the end of every file."""
    wanted = {f"{path}:{tree.NEEDLE} {path}" for path in _tree(trial)}
    command = ["grep", "-r", tree.NEEDLE, "."]

    def check(out: str) -> None:
        same({line.removeprefix("./") for line in out.splitlines()}, wanted, "grep -r")

    with trial.mounted("tree", ttl=WARM_TTL) as mounted:
        yield from _cold_and_warm(trial, mounted, GREP, command, check)


def archiving(trial: Trial) -> Iterator[Measured]:
    """Run `tar` into a file on the local disk."""
    archive = trial.lab.fresh("tar") / "tree.tar"

    def check(out: str) -> None:
        unpacked = trial.lab.fresh("unpacked")
        subprocess.run(["tar", "-xf", archive, "-C", unpacked], check=True)
        same(_digests(tree.read(unpacked)), _digests(_tree(trial)), "tar")

    with trial.mounted("tree") as mounted:
        command = ["tar", "-cf", archive, "--exclude=./lost+found", "."]
        yield Measured("tar", trial.timed(mounted, command, check, mounted.path))


def _digests(files: tree.Tree) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


def streaming(trial: Trial) -> Iterator[Measured]:
    """Run `cat` on the large file; for jobfs also curl, without the mount."""
    wanted = tree.big_file()[tree.BIG_NAME]
    with trial.mounted("big") as mounted:
        _list(mounted)
        with trial.system.metered(mounted) as cost:
            first, whole, content = trial.stream(["cat", mounted.path / tree.BIG_NAME])
        same(content, wanted, "cat")
        yield Measured("cat-first", Sample(first))
        yield Measured("cat", sample(whole, cost))
    if isinstance(trial.system, Jobfs):
        url, header = trial.system.download_url("big", tree.BIG_NAME)
        first, whole, content = trial.stream(["curl", "-s", "-H", header, url])
        same(content, wanted, "curl")
        yield Measured("cat-first", Sample(first), "curl")
        yield Measured("cat", Sample(whole), "curl")


def reading_block(trial: Trial) -> Iterator[Measured]:
    """Run `dd` on one block in the middle of the large file."""
    offset = tree.BIG_SIZE // 2
    out = trial.lab.fresh("part") / "block"

    def check(_: str) -> None:
        same(out.read_bytes(), tree.big_file()[tree.BIG_NAME][offset : offset + 4096], "dd")

    with trial.mounted("big") as mounted:
        _list(mounted)
        words = [f"if={mounted.path / tree.BIG_NAME}", f"of={out}", "bs=4096", "count=1", "status=none"]
        yield Measured("middle", trial.timed(mounted, ["dd", *words, f"skip={offset // 4096}"], check))


def git_status(trial: Trial) -> Iterator[Measured]:
    """Run `git status` in a repository of 200 files whose index has other inodes: git reads all files.

    git writes what it learns into the index, which is in the workspace; so each run has its own copy.
    """
    with trial.mounted(trial.system.writable("git"), ttl=WARM_TTL) as mounted:
        command = ["git", "status", "--porcelain", "--untracked-files=all"]
        yield from _cold_and_warm(trial, mounted, GIT, command, _check_status)


def _check_status(out: str) -> None:
    seen = "".join(line + "\n" for line in out.splitlines() if "lost+found" not in line)
    same(seen, tree.GIT_STATUS, "git status")


def _list(mounted: Mounted) -> None:
    """Look up the name first, so that the content is timed, not the lookup."""
    same((mounted.path / tree.BIG_NAME).stat().st_size, tree.BIG_SIZE, "stat")


def _tree(trial: Trial) -> tree.Tree:
    return tree.small_files(trial.plan.share(tree.FILES), trial.plan.share(tree.DIRECTORIES))
