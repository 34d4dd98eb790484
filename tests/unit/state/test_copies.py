"""Copies of contents: within bounds at every moment, whole or absent after a kill, and never in the way of a save."""

from __future__ import annotations

import errno
import itertools
import json
import stat
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tests.support.clocks import Clock
from tests.support.files import open_below
from tests.unit.state.conftest import failing

from jobfs.state import copies
from jobfs.state.copies import LIMITS, CopyLimits, CopyStore, read_copy


class Saves:
    """A store, and what is put into it; `again` is the next mount."""

    def __init__(self, top: Path, **options: Any) -> None:
        self.top, self.directory = top, top / "saves"
        self.store = CopyStore(self.directory, **options)
        self._numbers = itertools.count()

    def again(self, **options: Any) -> CopyStore:
        self.store.close()
        self.store = CopyStore(self.directory, **options)
        return self.store

    def source(self, content: bytes) -> Path:
        path = self.top / f"bytes-{next(self._numbers)}"
        path.write_bytes(content)
        return path

    def save(self, path: str, content: bytes) -> None:
        self.store.commit(path, self.store.prepare(path, self.source(content), len(content)))

    def kept(self, *paths: str) -> list[bytes | None]:
        return [read_copy(self.directory, path) for path in paths]

    @property
    def files(self) -> int:
        """How many contents are on the disk."""
        return len(list(self.directory.glob("[0-9]*")))

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.directory.glob("[0-9]*"))


@pytest.fixture
def saves(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Saves]:
    saves = Saves(tmp_path, limits=getattr(request, "param", LIMITS))
    yield saves
    saves.store.close()


#: The limits of the store are ones that a test reaches.
small = pytest.mark.parametrize(
    "saves", [CopyLimits(total=100, largest=60, outdated=10)], indirect=True, ids=[""]
)


@pytest.mark.parametrize("links", [True, False])
def test_the_last_save_of_a_path_is_kept_in_a_private_file(saves: Saves, links: bool) -> None:
    """vfs/semantics.md 4.52: hard links where possible, mode 0600 in a directory of mode 0700."""
    saves.save("a", b"old")
    source = saves.source(b"new")
    source.chmod(0o600 if links else 0o644)
    with nullcontext() if links else failing("link", errno.EPERM):
        saves.store.commit("a", saves.store.prepare("a", source, 3))
    assert saves.kept("a", "b") == [b"new", None]
    (file,) = saves.directory.glob("[0-9]*")
    assert source.stat().st_nlink == 1 + links
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (saves.directory, saves.directory / "index", file)]
    assert modes == [0o700, 0o600, 0o600]


def test_kept_files_are_bounded_in_number_and_the_oldest_go_first(saves: Saves) -> None:
    """vfs/semantics.md 4.52: at most 1,000; what is saved again is the youngest, what is renamed keeps its age."""
    saves.again(max_files=4)
    for name in ("a", "b", "c", "d"):
        saves.save(name, name.encode())
    saves.save("c", b"again")
    assert (saves.files, saves.kept("a")) == (4, [b"a"]), "a path that is saved again needs no room"
    saves.store.rename("a", "moved")
    saves.save("e", b"e")
    assert (saves.files, saves.kept("moved", "b", "d", "c", "e")) == (4, [None, b"b", b"d", b"again", b"e"])
    assert CopyStore(saves.directory, max_files=2).paths() == ["c", "e"], "a lower bound holds at once"
    assert saves.again(max_files=0).paths() == []
    saves.save("f", b"f")
    assert saves.files == 0


@small
def test_kept_files_never_exceed_the_bound_on_bytes(saves: Saves) -> None:
    """vfs/semantics.md 4.52: counted before each save is kept; a file that is not kept takes away what was kept of its path."""
    saves.save("a", b"a" * 50)
    saves.save("b", b"b" * 40)
    first = saves.store.prepare("c", saves.source(b"c" * 30), 30)
    assert (saves.bytes, saves.kept("a", "b", "c")) == (70, [None, b"b" * 40, None])
    second = saves.store.prepare("d", saves.source(b"d" * 50), 50)
    assert saves.bytes == 80, "what was taken counts before it is kept"
    saves.store.commit("c", first)
    saves.store.commit("d", second)
    assert (saves.bytes, sorted(saves.store.paths())) == (80, ["c", "d"])
    saves.save("d", b"x" * 61)
    assert (saves.kept("c", "d"), saves.files) == ([b"c" * 30, None], 1)
    saves.save("e", b"e" * 60)
    assert saves.bytes == 90


def test_a_kept_save_that_is_too_old_is_removed_and_not_found(saves: Saves) -> None:
    """vfs/semantics.md 4.52: for 30 days."""
    clock = Clock(time.time() - 101)
    saves.again(lifetime=100.0, clock=clock)
    saves.save("a", b"bytes")
    clock.advance(49)
    saves.save("b", b"bytes")
    clock.advance(52)
    assert (saves.store.find("a"), read_copy(saves.directory, "a", lifetime=100.0)) == (None, None)
    assert read_copy(saves.directory, "b", lifetime=100.0) == b"bytes"
    assert saves.files == 2
    saves.save("c", b"bytes")
    assert (saves.files, sorted(saves.store.paths())) == (2, ["b", "c"])
    clock.advance(58)
    assert saves.again(lifetime=100.0, clock=clock).paths() == ["c"]


def test_renames_and_removals_survive_as_they_are_at_each_moment(saves: Saves) -> None:
    """vfs/semantics.md 4.53: a kill at any moment; nothing has to be closed."""
    for name in ("dir/a", "dir/b", "dir.c", "other"):
        saves.save(name, name.encode())
    saves.store.rename("dir", "to", directory=True)
    saves.store.rename("none", "dir.c")
    saves.store.rename("other", "to/b")
    assert saves.store.drop("to/a")
    assert not saves.store.drop("to/a")
    for store in (saves.store, CopyStore(saves.directory)):
        assert sorted(store.paths()) == ["dir.c", "to/b"]
    assert saves.kept("to/b", "dir.c", "other", "dir/b") == [b"other", b"dir.c", None, None]
    assert saves.files == 2


def test_a_kill_while_a_copy_is_made_leaves_the_one_before(saves: Saves) -> None:
    """vfs/semantics.md 4.53: what was taken and not kept is removed by the next mount."""
    saves.save("a", b"old")
    saves.store.prepare("a", saves.source(b"new"), 3)
    assert saves.files == 2
    saves.again()
    assert (saves.kept("a"), saves.files) == ([b"old"], 1)
    saves.save("a", b"newest")
    assert saves.kept("a") == [b"newest"]


def test_discarding_a_prepared_copy_removes_only_that_copy(saves: Saves) -> None:
    first, second = (saves.store.prepare("a", saves.source(b"new"), 3) for _ in range(2))
    saves.store.discard(first)
    assert (saves.files, saves.store.paths()) == (1, [])
    saves.store.commit("a", second)
    saves.store.discard(second)
    assert saves.kept("a") == [b"new"]


@small
def test_the_bound_holds_if_a_copy_is_removed_while_it_is_kept(saves: Saves) -> None:
    """vfs/semantics.md 4.52: counted at every moment; a program removes the file before its save has returned."""
    for _ in range(5):
        taken = saves.store.prepare("a", saves.source(b"a" * 60), 60)
        saves.store.commit("a", taken)
        saves.store.drop("a")
        saves.store.discard(taken)
    for name in ("b", "c", "d"):
        saves.save(name, name.encode() * 40)
        assert saves.bytes <= 100
    assert saves.store.paths() == ["c", "d"]


def test_a_torn_or_foreign_index_loses_only_its_own_entries(saves: Saves) -> None:
    """A full disk may cut off a line; a file may be lost or changed."""
    for name in ("a", "b", "c"):
        saves.save(name, name.encode())
    saves.store.close()
    index = saves.directory / "index"
    first, second, third = index.read_text().splitlines()
    index.write_text(f'{first}\n{second[:20]}\n[1]\n{{"moved": ["x", "y"]}}\n{{"other": 1}}\n{third}\n')
    (saves.directory / str(json.loads(third)["number"])).write_bytes(b"longer")
    assert saves.again().paths() == ["a"]
    assert saves.files == 1
    assert saves.kept("a", "c") == [b"a", None]


def test_bytes_with_a_wrong_hash_are_not_returned(saves: Saves) -> None:
    """After a loss of power a file of the right length may hold zeros."""
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    saves.store.commit("a", saves.store.prepare("a", saves.source(b"abc"), 3, digest))
    assert saves.kept("a") == [b"abc"]
    (file,) = saves.directory.glob("[0-9]*")
    file.write_bytes(bytes(3))
    assert saves.kept("a") == [None]


def test_a_save_that_the_disk_refuses_is_not_kept(saves: Saves) -> None:
    """vfs/semantics.md 4.56: nothing raises; an older save is not taken for the last one."""
    saves.save("a", b"old")
    with failing("_link_or_copy", errno.ENOSPC, copies):
        saves.save("a", b"new")
    assert saves.kept("a") == [None]
    with failing("write", errno.ENOSPC), failing("_open_new", errno.ENOSPC, copies):
        saves.save("b", b"unwritten")
        saves.save("c", b"c")
        saves.store.drop("c")
    assert saves.kept("b") == [None], "the disk has no line of it"
    saves.save("d", b"d")
    assert saves.kept("b", "c", "d") == [b"unwritten", None, b"d"], "the next line that it takes brings all"
    assert sorted(saves.again().paths()) == ["b", "d"]


def test_the_oldest_kept_saves_give_way_to_unsent_bytes(saves: Saves) -> None:
    """vfs/semantics.md 4.56: as much as is needed, until nothing is left."""
    for name in ("a", "b", "c"):
        saves.save(name, bytes(10))
    assert saves.store.drop_oldest(11)
    assert saves.store.paths() == ["c"]
    assert saves.store.drop_oldest(0)
    assert not saves.store.drop_oldest(1)
    assert saves.files == 0


@small
def test_an_index_does_not_grow_with_the_number_of_saves(saves: Saves) -> None:
    """vfs/semantics.md 6.15: nor do descriptors; and it is read by others while it is rewritten."""
    descriptors = open_below(saves.top)
    for number in range(50):
        saves.save("a", b"%d" % number)
        assert saves.kept("a") == [b"%d" % number]
        assert len((saves.directory / "index").read_text().splitlines()) <= 12
    assert open_below(saves.top) == descriptors
    assert saves.again().paths() == ["a"]


@small
def test_an_interrupted_rewrite_leaves_nothing_in_the_next(saves: Saves) -> None:
    """vfs/semantics.md 4.53: the full disk that has cut it off leaves its lines, which are older."""
    older = json.dumps({"path": "gone", "number": 99, "size": 3, "made": time.time()}) + "\n"
    (saves.directory / "index.new").write_text(older * 50)
    for number in range(20):
        saves.save("a", b"%d" % number)
    assert "gone" not in (saves.directory / "index").read_text()


def test_an_empty_save_is_not_kept(saves: Saves) -> None:
    """vfs/semantics.md 4.52."""
    saves.save("a", b"")
    assert (saves.kept("a"), saves.files) == ([None], 0)


def test_a_directory_that_cannot_be_used_keeps_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 4.56: a mount starts all the same."""
    (tmp_path / "saves").write_text("a file")
    store = CopyStore(tmp_path / "saves")
    assert caplog.messages[0].startswith(f"{tmp_path / 'saves'} can't be used, so no copies are kept there: ")
    (tmp_path / "bytes").write_bytes(b"x")
    assert store.prepare("a", tmp_path / "bytes", 1) is None
    store.commit("a", None)
    assert (store.find("a"), store.paths(), store.drop_oldest(1)) == (None, [], False)
    store.close()
