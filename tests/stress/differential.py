"""The random differential: calls at random answer on a mount as on a disk, and the server has what they leave."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conformance.cases import Case, Step
from tests.conformance.places import Both, beside
from tests.support.files import on_disk
from tests.support.mounts import MountedJob
from tests.support.serverside import below, doubled, hidden

from jobfs import names
from jobfs.emulator import Behaviour

#: Together they have every value of every switch that is a choice, but for one that makes a mount differ from a disk.
SWITCHES: dict[str, dict[str, Any]] = {
    "the reference's own": {},
    "a strict server that redirects": {
        "create_existing": "overwrite", "path_scope": "lifecycle", "find": "prefix",
        "create_encodings": "multipart", "path_style": "slash", "type_spelling": "short",
        "input_spelling": "own", "list_order": "path", "delete_body": "empty", "trailing_slash": "slash",
        "move_touches": "no", "updated_resolution": "microseconds", "instance_items": "partial",
        "page_cap": 7, "bad_path_status": 422, "unknown_job": 404, "envelope": "item", "expert": "registryExpert",
        "name_form": "nfc",
    },
    "a lenient server of the rewrite": {
        "create_existing": "duplicate", "find": "substring", "create_encodings": "json",
        "other_encoding": 415, "sizes": "omitted", "ranges": False, "implicit_directories": "allowed",
        "list_order": "updated",
        "delete_body": "item", "trailing_slash": "bare", "move_touches": "tree",
        "updated_resolution": "seconds", "instance_items": "complete",
        "expert": "studioExpert", "name_form": "lower",
    },
    "a server whose list changes its order": {
        "create_existing": "duplicate", "list_order": "unstable", "delete_body": "nothing", "page_cap": 5,
        "move_touches": "no", "updated_resolution": "seconds", "path_style": "slash", "find": "glob",
        "name_form": "trimmed",
    },
}  # fmt: skip

NAMES = ("a", "b", "d", "e", "d/a", "d/b", "d/e", "e/a", "d/e/a", "'d/\u00fc b'", "a~", "d/.a.swp")
HANDLES = ("h0", "h1", "h2")
USERS = ("", "", "", "nobody ", "other ", "member ")
IDS = ("0", "NOBODY", "OTHER", "GROUP", "-1")
#: All let the owner write: without that an item is readOnly, which is not as on a disk.
MODES = ("0600", "0644", "0666", "0755", "0777", "01777", "02775", "06755", "0333", "0711")
FLAGS = (
    "RDONLY",
    "RDWR",
    "WRONLY|TRUNC",
    "RDWR|CREAT",
    "RDWR|CREAT|EXCL",
    "WRONLY|APPEND",
    "RDONLY|DIRECTORY",
)
SEEN = "type mode uid gid"
#: Bytes: several requests of the kernel, and not a multiple of a page.
LARGEST = 300_001
#: Steps between two of which all is closed: then the server has what the disk has, after `remount` in another mount.
FLUSH, REMOUNT = "flush", "remount"

#: What is looked at again and again: each name, each handle, each directory.
LOOKS = (
    *(f"stat {name} {SEEN}" for name in (*NAMES, *HANDLES)),
    *(f"size {name}" for name in (*NAMES, *HANDLES)),
    *(f"sum {name} 0 {LARGEST}" for name in NAMES),
    *(f"ls {name}" for name in (".", "d", "e", "d/e")),
)


class Maker:
    """Makes one sequence of steps; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._root_only = os.geteuid() != 0

    def steps(self, count: int) -> list[Step]:
        """About so many, and looks at everything, before and after all of it was sent."""
        lines = ["mkdir d 0777", "mkdir e 0755", "create a 0644 text", "create d/a 0666 more"]
        while len(lines) < count:
            lines += [FLUSH] if self._chance.random() < 0.03 else self._some()
        end = REMOUNT if self._chance.random() < 0.2 else FLUSH
        return [Step.parse(f"{line} -> ?") for line in (*lines, *LOOKS, end, *LOOKS)]

    def _pick(self, *words: str) -> str:
        return self._chance.choice(words)

    def _place(self, limit: int) -> int:
        """A number up to `limit`: near the edges of pages and of the kernel's requests more often than chance has it."""
        if self._chance.random() < 0.3:
            edge = self._chance.choice([0, 4096, 8192, 65_536, 131_072, 262_144])
            return max(0, min(limit, edge + self._chance.randint(-2, 2)))
        return self._chance.randrange(limit if self._chance.random() < 0.7 else min(limit, 5000))

    def _some(self) -> list[str]:
        name, other, handle = self._pick(*NAMES), self._pick(*NAMES), self._pick(*HANDLES)
        user = "" if self._root_only else self._pick(*USERS)
        above = self._pick(".", "d", "e", "d/e")
        if self._chance.random() < 0.3:
            at = self._place(LARGEST)
            piece = f"{at} {min(self._place(70_000), LARGEST - at)}"
            fill = self._chance.randrange(255)
            return [
                self._pick(
                    f"fill {name} {piece} {fill}", f"fill {handle} {piece} {fill}", f"mapfill {handle} {piece} {fill}",
                    f"grow {name} {piece} {fill}", f"sum {handle} {piece}", f"mapsum {handle} {piece}",
                    f"truncate {name} {at}", f"truncate {handle} {at}", f"size {name}", f"size {handle}",
                )
            ]  # fmt: skip
        calls = [
            f"create {name} {self._pick(*MODES)} {self._pick('x', 'xyz')}", f"mkdir {name} {self._pick(*MODES)}",
            f"unlink {name}", f"rmdir {name}", f"rename {name} {other}", f"rename {name} {other}",
            f"chmod {name} {self._pick(*MODES)}", f"chmod {handle} {self._pick(*MODES)}",
            f"truncate {name} {self._pick('0', '3', '10')}", f"truncate {handle} {self._pick('0', '2', '9')}",
            f"utimens {name} {self._pick('1', 'NOW', 'OMIT')} {self._pick('2', 'NOW', 'OMIT')}",
            f"access {name} {self._pick('r', 'w', 'x', 'rw', 'f')}", f"sum {name} 0 {LARGEST}", f"read {handle}",
            f"write {handle} {self._pick('1', '234')}", f"pwrite {handle} yz {self._pick('0', '5')}",
            f"{handle} = open {name} {self._pick(*FLAGS)} {self._pick(*MODES)}", f"close {handle}",
            f"fsync {handle}", f"stat {handle} {SEEN}", f"ls {above}", f"stat {name} {SEEN}",
        ]  # fmt: skip
        if not self._root_only:
            calls.append(f"chown {name} {self._pick(*IDS)} {self._pick(*IDS[:-1])}")
        call = user + self._chance.choice(calls)
        if self._chance.random() < 0.3:
            watched = self._pick(above, name, handle)
            return [f"mark {watched}", call, f"moved {watched}"]
        return [call]


class Twins:
    """A disk and a mount, each with a process that makes the calls there; each play is in a directory of its own."""

    def __init__(self, mounted: MountedJob, both: Both) -> None:
        self.mounted = mounted
        self._disk, self._here, self._there = both.disk.directory, both.disk, both.mount
        self._numbers = itertools.count(1)

    def play(self, steps: Sequence[Step], *, settle: bool) -> str:
        """The first step that the mount answers otherwise than the disk, or what the server has otherwise; "" if nothing."""
        name = f"case{next(self._numbers)}"
        for root in (self._disk, self.mounted.path):
            (root / name).mkdir()
            (root / name).chmod(0o777)
        for part, end in chapters(steps):
            case = Case("random", "at random", part)
            disk = self._here.run(case, make=False, below=name)
            mount = self._there.run(case, make=False, below=name, settle=settle)
            for step, here, there in zip(part, disk, mount, strict=True):
                if there == "EXDEV":
                    return ""  # a directory does not move to a scratch name; what follows is another case
                if here != there:
                    return f"{step.line}: {there} instead of {here}"
            if found := self._sent(name):
                return f"{found}, after {end}"
            if end == REMOUNT:
                self.mounted.remount()
        return ""

    def _sent(self, name: str) -> str:
        """What of a directory the server does not have as the disk does; scratch names are of this machine."""
        self.mounted.flush()
        disk, server = on_disk(self._disk / name), below(self.mounted.server, name)
        for path in sorted({*disk, *server}):
            local = any(names.is_scratch(part) for part in path.split("/"))
            if not local and (path not in disk or path not in server or disk[path] != server[path]):
                has = [str(tree.get(path, "nothing"))[:40] for tree in (server, disk)]
                return f"the server has at {path} {has[0]} instead of {has[1]}"
        return ""

    def end(self) -> list[str]:
        """Paths that are hidden, or there twice, once all is sent."""
        self.mounted.umount()
        return doubled(self.mounted.server) + hidden(self.mounted.server)


def chapters(steps: Sequence[Step]) -> Iterator[tuple[tuple[Step, ...], str]]:
    """The steps up to each that closes all, and which that is."""
    part: list[Step] = []
    for step in (*steps, Step.parse(FLUSH)):
        if step.line in (FLUSH, REMOUNT):
            yield tuple(part), step.line
            part = []
        else:
            part.append(step)


@contextmanager
def twins(home: Path, switches: dict[str, Any]) -> Iterator[Twins]:
    """A disk, and a mount of a server with these switches."""
    with beside(home, Behaviour().changed(**switches)) as (mounted, both):
        yield Twins(mounted, both)


def differences(
    play: Callable[..., str], seeds: Sequence[int], steps: int, shrink_for: float
) -> Iterator[str]:
    """Of each seed whose steps differ: the shortest case that still does, found in about so many seconds."""
    for seed in seeds:
        made, settle = Maker(seed).steps(steps), bool(seed % 2)
        if not (found := play(made, settle=settle)):
            continue

        def fails(candidate: Sequence[Step], settle: bool = settle) -> bool:
            return bool(play(candidate, settle=settle))

        shortest = shrunk(made, fails, shrink_for)
        lines = "\n".join(f"    {step.line}" for step in shortest)
        yield f"seed {seed}, settle {settle}: {found}; {play(shortest, settle=settle) or 'it depends on the moment'}\n{lines}"


def shrunk(steps: list[Step], fails: Callable[[Sequence[Step]], bool], seconds: float) -> list[Step]:
    """The steps without all that `fails` does not need, found in about so many `seconds`: halves first, then less."""
    end, piece = time.monotonic() + seconds, max(1, len(steps) // 2)
    while True:
        start, shorter = 0, False
        while start < len(steps) and time.monotonic() < end:
            candidate = steps[:start] + steps[start + piece :]
            if candidate and fails(candidate):
                steps, shorter = candidate, True
            else:
                start += piece
        if (piece == 1 and not shorter) or time.monotonic() >= end:
            return steps
        piece = (piece + 1) // 2
