"""Cases made at random: calls of several users on a handful of names and handles, and what is seen of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.conformance.cases import Case, Step
from tests.conformance.places import Both

NAMES = ("a", "b", "d", "e", "d/a", "d/b", "d/e", "e/a", "d/e/a", "a~", "d/.a.swp")
HANDLES = ("h0", "h1", "h2")
USERS = ("", "", "", "nobody ", "other ", "member ")
IDS = ("0", "NOBODY", "OTHER", "GROUP", "-1")
#: All let the owner write: without that an item is readOnly, which is not as on a disk (differences.py).
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
SEEN = "type mode uid gid nlink"


class Maker:
    """Makes one case; the same for the same seed."""

    def __init__(self, seed: int, *, root_only: bool) -> None:
        self._chance = random.Random(seed)
        self._root_only = root_only

    def case(self, steps: int) -> Case:
        """About so many steps, and a look at everything."""
        lines = ["mkdir d 0777", "mkdir e 0755", "create a 0644 text", "create d/a 0666 more"]
        while len(lines) < steps:
            lines += self._some()
        lines += [f"stat {name} {SEEN}" for name in (*NAMES, *HANDLES)]
        lines += [f"get {name}" for name in NAMES] + [f"ls {name}" for name in (".", "d", "e", "d/e")]
        return Case("random", "at random", tuple(Step.parse(f"{line} -> ?") for line in lines))

    def _pick(self, *words: str) -> str:
        return self._chance.choice(words)

    def _some(self) -> list[str]:
        name, other, handle = self._pick(*NAMES), self._pick(*NAMES), self._pick(*HANDLES)
        user = "" if self._root_only else self._pick(*USERS)
        above = self._pick(".", "d", "e", "d/e")
        owner = f"{self._pick(*IDS)} {self._pick(*IDS[:-1])}"
        calls = [
            f"create {name} {self._pick(*MODES)} {self._pick('x', 'xyz')}", f"mkdir {name} {self._pick(*MODES)}",
            f"unlink {name}", f"rmdir {name}", f"rename {name} {other}", f"rename {name} {other}",
            f"chmod {name} {self._pick(*MODES)}", f"chmod {handle} {self._pick(*MODES)}",
            f"truncate {name} {self._pick('0', '3', '10')}", f"truncate {handle} {self._pick('0', '2', '9')}",
            f"utimens {name} {self._pick('1', 'NOW', 'OMIT')} {self._pick('2', 'NOW', 'OMIT')}",
            f"access {name} {self._pick('r', 'w', 'x', 'rw', 'f')}", f"get {name}", f"read {handle}",
            f"write {handle} {self._pick('1', '234')}", f"pwrite {handle} yz {self._pick('0', '5')}",
            f"{handle} = open {name} {self._pick(*FLAGS)} {self._pick(*MODES)}", f"close {handle}",
            f"fsync {handle}", f"stat {handle} {SEEN}", f"ls {above}", f"stat {name} {SEEN}",
        ]  # fmt: skip
        if not self._root_only:
            calls.append(f"chown {name} {owner}")
        call = user + self._chance.choice(calls)
        if self._chance.random() < 0.3:
            watched = self._pick(above, name, handle)
            return [f"mark {watched}", call, f"moved {watched}"]
        return [call]


def difference(both: Both, case: Case, *, settle: bool) -> str:
    """The first step that the mount answers otherwise than the disk, or ""."""
    disk, mount = both.disk.run(case), both.mount.run(case, settle=settle)
    for step, here, there in zip(case.steps, disk, mount, strict=True):
        if there == "EXDEV":
            return ""  # a directory does not move to a scratch name (differences.py); what follows is another case
        if here != there:
            return f"{step.line}: {there} instead of {here}"
    return ""


def told(steps: Sequence[Step]) -> str:
    """The steps as they are written in a case."""
    return "\n".join(f"    {step.line}" for step in steps)
