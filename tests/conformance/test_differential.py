"""The random differential: calls at random answer on a mount as on a disk, and the server has what they leave."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conformance.cases import Case, Step
from tests.conformance.places import Both, beside
from tests.support.files import on_disk
from tests.support.mounts import MountedJob
from tests.support.serverside import below, doubled, hidden

from jobfs import names
from jobfs.emulator import Behaviour, behaviour

#: Together they have every value of every switch that is a choice, but for one that makes a mount differ from a disk.
SWITCHES: dict[str, dict[str, Any]] = {
    "the reference's own": {},
    "a strict server that redirects": {
        "create_existing": "overwrite", "path_scope": "lifecycle", "find": "prefix",
        "create_encodings": "multipart", "path_style": "slash", "type_spelling": "short",
        "input_spelling": "own", "list_order": "path", "delete_body": "empty", "trailing_slash": "slash",
        "move_touches": "no", "updated_resolution": "microseconds", "instance_items": "partial",
        "page_cap": 7, "bad_path_status": 422, "unknown_job": 404, "envelope": "item", "expert": "registryExpert",
        "name_form": "nfc", "find_missing": 404,
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
DIRECTORIES = (".", "d", "e", "d/e")
#: Bytes: several requests of the kernel, and not a multiple of a page.
LARGEST = 300_001
#: Steps between two of which all is closed: then the server has what the disk has, after `remount` in another mount.
FLUSH, REMOUNT = "flush", "remount"

#: Near the edges of pages and of the kernel's requests more often than chance has it.
PLACES = (
    st.integers(0, LARGEST)
    | st.integers(0, 5000)
    | st.builds(int.__add__, st.sampled_from([4096, 8192, 65_536, 131_072, 262_144]), st.integers(-2, 2))
)
#: What stands for a word in braces below.
WORDS = {
    "name": st.sampled_from(NAMES),
    "handle": st.sampled_from(HANDLES),
    "any": st.sampled_from(NAMES + HANDLES),
    "watched": st.sampled_from(NAMES + HANDLES + DIRECTORIES),
    "directory": st.sampled_from(DIRECTORIES),
    # All let the owner write: without that an item is readOnly, which is not as on a disk.
    "mode": st.sampled_from(["0600", "0644", "0666", "0755", "0777", "01777", "02775", "06755", "0333", "0711"]),
    "flags": st.sampled_from(
        ["RDONLY", "RDWR", "WRONLY|TRUNC", "RDWR|CREAT", "RDWR|CREAT|EXCL", "WRONLY|APPEND", "RDONLY|DIRECTORY"]
    ),
    "access": st.sampled_from(["r", "w", "x", "rw", "f"]),
    "few": st.sampled_from(["0", "2", "9", "10"]),
    "time": st.sampled_from(["1", "2", "NOW", "OMIT"]),
    "id": st.sampled_from(["0", "NOBODY", "OTHER", "GROUP"]),
    "text": st.sampled_from(["x", "xyz", "234"]),
    "at": PLACES.map(str),
    "piece": st.tuples(PLACES, PLACES).map(lambda piece: f"{piece[0]} {min(piece[1], 70_000, LARGEST - piece[0])}"),
    "byte": st.integers(0, 254).map(str),
}  # fmt: skip
SEEN = "type mode uid gid"
CONTENTS = [
    "fill {any} {piece} {byte}", "mapfill {handle} {piece} {byte}", "grow {name} {piece} {byte}", "sum {handle} {piece}",
    "mapsum {handle} {piece}", "truncate {any} {at}", "size {any}",
]  # fmt: skip
CALLS = [
    "create {name} {mode} {text}", "mkdir {name} {mode}", "unlink {name}", "rmdir {name}", "rename {name} {name}",
    "rename {name} {name}", "chmod {any} {mode}", "truncate {any} {few}", "utimens {name} {time} {time}",
    "access {name} {access}", f"sum {{name}} 0 {LARGEST}", "read {handle}", "write {handle} {text}",
    "pwrite {handle} yz {few}", "{handle} = open {name} {flags} {mode}", "close {handle}", "fsync {handle}",
    f"stat {{any}} {SEEN}", "ls {directory}",
]  # fmt: skip
if os.geteuid() == 0:
    CALLS.append("chown {name} {id} {id}")

#: What is looked at in the end: each name, each handle, each directory.
LOOKS = (
    *(f"stat {name} {SEEN}" for name in (*NAMES, *HANDLES)),
    *(f"size {name}" for name in (*NAMES, *HANDLES)),
    *(f"sum {name} 0 {LARGEST}" for name in NAMES),
    *(f"ls {name}" for name in DIRECTORIES),
)


@st.composite
def some(draw: st.DrawFn) -> list[str]:
    """A call; with a look at what its time and its directory's do, now and then; or a pause in which all is sent."""

    def filled(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: str(draw(WORDS[found[1]])), text)

    kind = draw(st.integers(0, 99))
    if kind > 96:
        return [FLUSH]
    if kind > 66:
        return [filled(draw(st.sampled_from(CONTENTS)))]
    user = draw(st.sampled_from(["", "", "", "nobody ", "other ", "member "])) if os.geteuid() == 0 else ""
    call = user + filled(draw(st.sampled_from(CALLS)))
    watched = filled("{watched}")
    return [f"mark {watched}", call, f"moved {watched}"] if kind > 45 else [call]


def sequence(pieces: list[list[str]], end: str) -> list[Step]:
    """The steps, and looks at everything, before and after all of it was sent."""
    first = ("mkdir d 0777", "mkdir e 0755", "create a 0644 text", "create d/a 0666 more")
    return [Step.parse(f"{line} -> ?") for line in (*first, *itertools.chain(*pieces), *LOOKS, end, *LOOKS)]


SEQUENCES = st.builds(
    sequence, st.lists(some(), min_size=30, max_size=60), st.sampled_from([FLUSH, FLUSH, FLUSH, REMOUNT])
)


class Twins:
    """A disk and a mount, each with a process that makes the calls there; each play is in a directory of its own."""

    def __init__(self, mounted: MountedJob, both: Both) -> None:
        self._mounted, self._disk, self._mount = mounted, both.disk, both.mount
        self._numbers = itertools.count(1)

    def play(self, steps: Sequence[Step], *, settle: bool) -> None:
        """AssertionError with the first step that the mount answers otherwise, or what the server has otherwise."""
        name = f"case{next(self._numbers)}"
        for root in (self._disk.directory, self._mounted.path):
            (root / name).mkdir()
            (root / name).chmod(0o777)
        for part, end in chapters(steps):
            case = Case("random", "at random", part)
            disk = self._disk.run(case, make=False, below=name)
            mount = self._mount.run(case, make=False, below=name, settle=settle)
            for step, here, there in zip(part, disk, mount, strict=True):
                if there == "EXDEV":
                    return  # a directory does not move to a scratch name; what follows is another case
                assert there == here, step.line
            self._mounted.flush()
            # Scratch names are of this machine.
            wanted, found = on_disk(self._disk.directory / name), below(self._mounted.server, name)
            sent = {
                path: data for path, data in wanted.items() if not any(map(names.is_scratch, path.split("/")))
            }
            assert found == sent, f"on the server after {end}"
            if end == REMOUNT:
                self._mounted.remount()


def chapters(steps: Sequence[Step]) -> Iterator[tuple[tuple[Step, ...], str]]:
    """The steps up to each that closes all, and which that is."""
    part: list[Step] = []
    for step in (*steps, Step.parse(FLUSH)):
        if step.line in (FLUSH, REMOUNT):
            yield tuple(part), step.line
            part = []
        else:
            part.append(step)


def test_the_switches_cover_every_value() -> None:
    used = [Behaviour().with_changes(**switches) for switches in SWITCHES.values()]
    for name, field in behaviour.SWITCHES.items():
        if name in ("read_only", "move_carries", "move_existing", "move_locked"):
            # What `chmod u-w` made readOnly can't be removed until `chmod u+w`; a rename that loses contents is EXDEV; no
            # save is safe where a move replaces; and a lock is of no account where one program follows another.
            continue
        if field.annotation is bool or get_origin(field.annotation) is Literal:
            values = {True, False} if field.annotation is bool else set(get_args(field.annotation))
            values.discard(
                "nfd"
            )  # the names of the calls are composed; a server that decomposes refuses them
            assert {getattr(one, name) for one in used} == values, name


# A case that fails is shrunk for five minutes at most.
@pytest.mark.timeout(420)
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_random_calls_answer_as_on_a_disk_and_their_files_are_sent(
    switches: dict[str, Any], tmp_path: Path
) -> None:
    """vfs/semantics.md 2.2, 2.15: names, reads, writes, memory maps, truncation, fsync, close and remount."""
    with beside(tmp_path, Behaviour().with_changes(**switches)) as (mounted, both):
        pair = Twins(mounted, both)

        @settings(max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(SEQUENCES, st.booleans())
        def play(steps: list[Step], settle: bool) -> None:
            pair.play(steps, settle=settle)

        play()
        mounted.umount()
        assert doubled(mounted.server) + hidden(mounted.server) == []
