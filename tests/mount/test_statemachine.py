"""Random operations on a mount and on a local directory: same errno, same contents, and the server has them.

Each set of the server's switches has one mount; each example works in a directory of its own.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    multiple,
    rule,
    run_state_machine_as_test,
)
from tests.support.mounts import MountedJob, mounting
from tests.support.serverside import doubled, hidden, visible
from tests.support.waiting import eventually

from jobfs.emulator import Behaviour, EmulatorConfig, behaviour, running

#: How often and how long, for each set of switches; a longer run is asked for with JOBFS_TEST_EXAMPLES.
EXAMPLES = int(os.environ.get("JOBFS_TEST_EXAMPLES", "25"))
STEPS = 40
#: To shrink a failure takes minutes: only when somebody waits for it.
PHASES = tuple(phase for phase in Phase if phase is not Phase.shrink or "JOBFS_TEST_SHRINK" in os.environ)

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
        "updated_resolution": "seconds", "instance_items": "complete", "move_carries": False,
        "expert": "studioExpert", "name_form": "lower",
    },
    "a server whose list changes its order": {
        "create_existing": "duplicate", "list_order": "unstable", "delete_body": "nothing", "page_cap": 5,
        "move_touches": "no", "updated_resolution": "seconds", "path_style": "slash", "find": "glob",
        "name_form": "trimmed",
    },
}  # fmt: skip

NAMES = st.sampled_from(["a", "b.txt", "c", "\u00fc b"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
DATA = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.sampled_from([4096, 5000, 140_000])
    ),
)
OFFSETS = st.sampled_from([0, 1, 10, 4000, 4096, 10_000, 131_072])
FLAGS = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR | os.O_CREAT | os.O_TRUNC,
        os.O_WRONLY | os.O_APPEND | os.O_CREAT,
    ]
)
MODES = st.sampled_from([0o644, 0o755, 0o600, 0o700])


def outcome(call: Callable[[], Any]) -> Any:
    """What a call answers, or the errno it fails with; the two of a directory in use are one."""
    try:
        return call()
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        return (
            "ENOTEMPTY"
            if name == "EEXIST" and isinstance(error, FileExistsError) and _of_rename(error)
            else name
        )


def _of_rename(error: OSError) -> bool:
    return error.filename2 is not None


def picture(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """Mode and bytes (None: a directory) of everything below a directory."""
    found: dict[str, tuple[int, bytes | None]] = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = Path(directory, name)
            mode = path.stat().st_mode
            content = None if stat.S_ISDIR(mode) else path.read_bytes()
            found[str(path.relative_to(root))] = (mode, content)
    return dict(sorted(found.items()))


class Twins(RuleBasedStateMachine):
    """A directory in the mount and one on the local disk, and handles that are open in both."""

    mounted: ClassVar[MountedJob]
    local: ClassVar[Path]
    numbers: ClassVar[itertools.count[int]]

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.name = f"example{next(self.numbers)}"
        self.here, self.there = self.local / self.name, self.mounted.path / self.name
        self.here.mkdir()
        self.there.mkdir()
        self.open: list[tuple[int, int]] = []

    def both(self, call: Callable[[Path], Any]) -> Any:
        """The outcome of the same call in both places, which must be the same."""
        here, there = outcome(lambda: call(self.here)), outcome(lambda: call(self.there))
        assert there == here, f"the mount: {there!r}, the local disk: {here!r}"
        return here

    def both_handles(self, pair: tuple[int, int], call: Callable[[int], Any]) -> None:
        here, there = outcome(lambda: call(pair[0])), outcome(lambda: call(pair[1]))
        assert there == here, f"the mount: {there!r}, the local disk: {here!r}"

    # Names

    @rule(path=PATHS, data=DATA)
    def write_whole(self, path: str, data: bytes) -> None:
        self.both(lambda root: (root / path).write_bytes(data))

    @rule(path=PATHS, data=DATA)
    def append(self, path: str, data: bytes) -> None:
        def append(root: Path) -> int:
            with (root / path).open("ab", buffering=0) as file:
                return file.write(data)

        self.both(append)

    @rule(path=PATHS, data=DATA, offset=OFFSETS)
    def write_at(self, path: str, data: bytes, offset: int) -> None:
        def write(root: Path) -> int:
            with (root / path).open("r+b", buffering=0) as file:
                file.seek(offset)
                return file.write(data)

        self.both(write)

    @rule(path=PATHS)
    def read(self, path: str) -> None:
        self.both(lambda root: (root / path).read_bytes())

    @rule(path=PATHS, length=OFFSETS)
    def truncate(self, path: str, length: int) -> None:
        self.both(lambda root: os.truncate(root / path, length))

    @rule(path=PATHS)
    def mkdir(self, path: str) -> None:
        self.both(lambda root: os.mkdir(root / path))

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        self.both(lambda root: os.rmdir(root / path))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.both(lambda root: os.unlink(root / path))

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: str, new: str) -> None:
        self.both(lambda root: os.rename(root / old, root / new))

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path: str, mode: int) -> None:
        self.both(lambda root: os.chmod(root / path, mode))

    @rule(path=PATHS)
    def look(self, path: str) -> None:
        def look(root: Path) -> tuple[int, int]:
            found = os.stat(root / path)
            return found.st_mode, -1 if stat.S_ISDIR(found.st_mode) else found.st_size

        self.both(look)

    @rule(path=PATHS)
    def list_one(self, path: str) -> None:
        self.both(lambda root: sorted(os.listdir(root / path)))

    @rule()
    def list_all(self) -> None:
        self.both(lambda root: sorted(os.listdir(root)))

    # Handles

    @rule(target=handles, path=PATHS, flags=FLAGS)
    def open_file(self, path: str, flags: int) -> Any:
        opened: list[int] = []

        def open_one(root: Path) -> str:
            fd = os.open(root / path, flags, 0o644)
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                os.close(fd)
                return "a directory"
            opened.append(fd)
            return "open"

        try:
            self.both(open_one)
        except AssertionError:
            for fd in opened:
                os.close(fd)
            raise
        if len(opened) != 2:
            return multiple()
        pair = (opened[0], opened[1])
        self.open.append(pair)
        return pair

    @rule(pair=handles, data=DATA, offset=OFFSETS)
    def write_to_handle(self, pair: tuple[int, int], data: bytes, offset: int) -> None:
        def write(fd: int) -> int:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, data)

        self.both_handles(pair, write)

    @rule(pair=handles, offset=OFFSETS, size=st.sampled_from([1, 100, 5000, 200_000]))
    def read_from_handle(self, pair: tuple[int, int], offset: int, size: int) -> None:
        self.both_handles(pair, lambda fd: os.pread(fd, size, offset))

    @rule(pair=handles, length=OFFSETS)
    def truncate_handle(self, pair: tuple[int, int], length: int) -> None:
        self.both_handles(pair, lambda fd: os.ftruncate(fd, length))

    @rule(pair=handles)
    def size_of_handle(self, pair: tuple[int, int]) -> None:
        self.both_handles(pair, lambda fd: os.fstat(fd).st_size)

    @rule(pair=handles)
    def fsync(self, pair: tuple[int, int]) -> None:
        self.both_handles(pair, os.fsync)

    @rule(pair=consumes(handles))
    def close(self, pair: tuple[int, int]) -> None:
        self.open.remove(pair)
        self.both_handles(pair, os.close)

    # The end

    def teardown(self) -> None:
        for pair in self.open:
            self.both_handles(pair, os.close)
        expected = picture(self.here)
        assert picture(self.there) == expected
        self.mounted.flush()
        assert self.on_server() == {name: content for name, (_, content) in expected.items()}
        assert picture(self.there) == expected
        assert doubled(self.mounted.server) == []
        eventually(lambda: not hidden(self.mounted.server), lambda: f"hidden: {hidden(self.mounted.server)}")

    def on_server(self) -> dict[str, bytes | None]:
        prefix = self.name + "/"
        return {
            path.removeprefix(prefix): content
            for path, content in visible(self.mounted.server).items()
            if path.startswith(prefix)
        }


def test_the_switches_cover_every_value() -> None:
    used = [Behaviour().changed(**switches) for switches in SWITCHES.values()]
    for name, field in behaviour.SWITCHES.items():
        if name == "read_only":
            # What `chmod u-w` made readOnly can't be removed until `chmod u+w`.
            continue
        if field.annotation is bool or get_origin(field.annotation) is Literal:
            values = {True, False} if field.annotation is bool else set(get_args(field.annotation))
            assert {getattr(one, name) for one in used} == values, name


@pytest.mark.timeout(300, method="signal")
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_a_mount_and_a_local_directory_do_the_same(switches: dict[str, Any], tmp_path: Path) -> None:
    """vfs/semantics.md 1, 2, 4: what a user of a local disk would expect, and the server has it all at the end."""
    (tmp_path / "server").mkdir()
    (tmp_path / "local").mkdir()
    config = EmulatorConfig(behaviour=Behaviour().changed(**switches))
    with running(config, tmp_path / "server") as server:
        server.store.seed({"first.txt": "there from the start"})
        with mounting(server, tmp_path / "home", log_level="info") as mounted:
            machine = type(
                "Machine",
                (Twins,),
                {"mounted": mounted, "local": tmp_path / "local", "numbers": itertools.count()},
            )
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    phases=PHASES,
                ),
            )
            expected = picture(tmp_path / "local")
            mounted.remount()
            assert {n: c for n, c in picture(mounted.path).items() if n != "first.txt"} == expected
            mounted.umount()
            assert hidden(server) == []
