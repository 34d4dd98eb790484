"""The data: the same trees for every system, from fixed seeds, and the expected output of commands on them."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

Tree = Mapping[str, bytes]

FILES, DIRECTORIES = 1000, 50
BIG_NAME, BIG_SIZE = "video.bin", 64 << 20
GIT_FILES = 200
COPIED = 200
SAVED = 20
NEEDLE = "needle"

_WORDS = [
    "rain",
    "month",
    "gauge",
    "station",
    "mean",
    "table",
    "river",
    "cloud",
    "wind",
    "error",
    "sample",
    "value",
    "north",
    "south",
]


def _text(rng: random.Random, low: int, high: int, label: str) -> bytes:
    """Return `low` to `high` bytes of words; the last line has the needle and the label."""
    size, lines = rng.randint(low, high), []
    last = f"{NEEDLE} {label}\n"
    total = len(last)
    while total < size:
        line = " ".join(rng.choices(_WORDS, k=9))[: size - total - 1] + "\n"
        lines.append(line)
        total += len(line)
    return ("".join(lines) + last).encode()


@cache
def small_files(files: int = FILES, directories: int = DIRECTORIES) -> Tree:
    """Return files of 1 to 8 KiB, spread over directories."""
    rng = random.Random(1)
    paths = [f"part-{n % directories:02d}/note-{n:04d}.txt" for n in range(files)]
    return {path: _text(rng, 1024, 8192, path) for path in sorted(paths)}


@cache
def big_file() -> Tree:
    """Return one file of 64 MiB that can't be compressed."""
    return {BIG_NAME: random.Random(2).randbytes(BIG_SIZE)}


@cache
def copied_files(count: int = COPIED) -> Tree:
    """Return the files for `cp -r`: in one directory, since each `mkdir` waits for the server by design."""
    rng = random.Random(3)
    return {f"item-{n:03d}.txt": _text(rng, 1024, 8192, str(n)) for n in range(count)}


@cache
def saved_files(generation: int) -> Tree:
    """Return twenty files to save; each generation has other bytes of about the same length."""
    rng = random.Random(100 + generation)
    return {f"doc-{n:02d}.md": _text(rng, 2000, 4000, f"{generation}.{n}") for n in range(SAVED)}


def repository(directory: Path, env: Mapping[str, str]) -> Tree:
    """Make a git repository in `directory`: 200 files, one commit, and one changed file."""
    rng = random.Random(4)
    write(
        directory, {f"src-{n % 8}/unit-{n:03d}.txt": _text(rng, 500, 4000, str(n)) for n in range(GIT_FILES)}
    )

    def git(*words: str) -> None:
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        subprocess.run(["git", *identity, *words], cwd=directory, env=dict(env), check=True)

    git("init", "--quiet", "--template=", "--initial-branch=main")
    git("add", ".")
    git("commit", "--quiet", "--message=Start")
    (directory / "src-3/unit-003.txt").write_text("changed\n")
    return read(directory)


GIT_STATUS = " M src-3/unit-003.txt\n"


def write(directory: Path, tree: Tree) -> None:
    """Write a tree to the disk."""
    for path, content in tree.items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def read(directory: Path) -> dict[str, bytes]:
    """Return every file below `directory`, by relative path."""
    found = {}
    for above, _, names in os.walk(directory):
        for name in names:
            place = Path(above, name)
            found[str(place.relative_to(directory))] = place.read_bytes()
    return found


def directories_of(paths: Iterable[str]) -> set[str]:
    """Return every directory above these paths."""
    return {
        "/".join(parts[:depth])
        for parts in (path.split("/") for path in paths)
        for depth in range(1, len(parts))
    }
