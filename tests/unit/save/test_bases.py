"""What a conflict copy and its file both began with is kept, under the name that the copy gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from jobfs import names
from jobfs.content import ContentStore
from jobfs.errors import NotFoundError
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.save.bases import BaseKeeper
from jobfs.state import Change, edit
from jobfs.state.copies import read_copy
from jobfs.state.records import Aside, Base, Verb

from .world import World, away, hidden, sha

OLD, KEPT = b"the version that was opened", "dir/file.conflict-20261125T130501Z.txt"
BASE = Base("a", "before", len(OLD), sha(OLD))
ASIDE = Aside("a", hidden("dir/file.txt"), moved=True)


class Keeping:
    """Keeps bases; in place of the content cache, which has some `versions`, and of the namespace, which shows `listed`."""

    def __init__(self, world: World, top: Path, *versions: tuple[str, str, int | None]) -> None:
        self._versions, self._directory, self._cached = versions, top / "bases", top / "content"
        self._cached.write_bytes(OLD)
        self.listed, self.paths = set[str](), world.state.bases.paths
        self.error: Exception | None = None
        self.bases = BaseKeeper(world.state, cast(ContentStore, self), cast(Namespace, self))

    def is_cached(self, item: Item) -> bool:
        return tuple(item.version) in self._versions

    @contextmanager
    def open(self, item: Item) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(fetch_file=lambda: self._cached if self.error is None else away(self.error))

    def peek(self, path: str) -> bool:
        return path in self.listed

    def kept(self, path: str) -> bytes | None:
        return read_copy(self._directory, path)


@pytest.mark.parametrize("size", [len(OLD), None])
def test_a_cached_base_is_kept_under_the_name_of_the_copy(
    world: World, tmp_path: Path, size: int | None
) -> None:
    """vfs/semantics.md 4.61: where items have no size, too; a kill before that, or after it, loses nothing."""
    keeping = Keeping(world, tmp_path, ("a", "before", size))
    keeping.bases.keep_merge_base(ASIDE, BASE)
    assert keeping.kept(names.basename(ASIDE.path)) == OLD
    keeping.listed.add("dir/other")
    keeping.bases.forget_vanished()
    assert keeping.kept(names.basename(ASIDE.path)) == OLD, "no listing shows a hidden name"
    keeping.bases.keep_merge_base(ASIDE, BASE)
    keeping.bases.rename_base(ASIDE.path, KEPT)
    keeping.bases.drop_base_of_settled(ASIDE)
    assert (keeping.kept(KEPT), keeping.paths()) == (OLD, [KEPT])
    keeping.listed.add(KEPT)
    keeping.bases.forget_vanished()
    assert keeping.kept(KEPT) == OLD
    keeping.listed.remove(KEPT)
    keeping.bases.forget_vanished()
    assert keeping.paths() == []


def test_no_base_is_kept_if_its_bytes_are_missing_or_no_copy_results(world: World, tmp_path: Path) -> None:
    """vfs/semantics.md 4.61: as far as its bytes are on this machine."""
    keeping = Keeping(world, tmp_path, ("a", "before", len(OLD)), ("", "", None))
    for base in (Base(), replace(BASE, updated_at="other"), replace(BASE, size=65 << 20)):
        keeping.bases.keep_merge_base(ASIDE, base)
    keeping.error = NotFoundError("evicted just now")
    keeping.bases.keep_merge_base(ASIDE, BASE)
    assert keeping.paths() == []
    keeping.error = None
    keeping.bases.keep_merge_base(ASIDE, BASE)
    keeping.bases.rename_base(ASIDE.path, "dir/file.txt")  # it is given back
    keeping.bases.drop_base_of_settled(ASIDE)
    assert keeping.paths() == []


def test_the_save_before_this_one_is_the_base_of_a_conflict(world: World, tmp_path: Path) -> None:
    """vfs/semantics.md 4.61: although this save takes its place, and the cache does not have its bytes."""
    file = world.save("file", OLD)
    base, item = file.base, world.client.put(file.item_id, "file", b"of the job")
    world.state.write(edit(world.closed("file", b"new", item, of=file), base=base))
    world.write_back.wait_until_uploaded(file)
    ((aside,),) = [change.asides for change in world.state.changes.values()]
    assert read_copy(tmp_path / "bases", names.basename(aside.path)) == OLD


@pytest.mark.parametrize(
    ("base", "asides", "is_kept"),
    [(BASE, [ASIDE], True), (BASE, [], False), (replace(BASE, sha256=""), [ASIDE], False),
     (replace(BASE, sha256=sha(b"other")), [ASIDE], False)],
)  # fmt: skip
def test_a_kept_save_is_passed_on_if_only_it_has_the_bytes_of_the_base(
    world: World, tmp_path: Path, base: Base, asides: list[Aside], is_kept: bool
) -> None:
    """vfs/semantics.md 4.61: on a server with whole seconds the content cache has no bytes of a save."""
    saves = world.state.saves
    (tmp_path / "saved").write_bytes(OLD)
    saves.commit("file", saves.prepare("file", tmp_path / "saved", len(OLD), sha(OLD)))
    change = Change(1, Verb.PUT, "file", base=base, asides=asides)
    cached = Keeping(world, tmp_path, ("a", "before", len(OLD)))
    cached.bases.keep_last_save_as_base(change)
    assert cached.paths() == []
    keeping = Keeping(world, tmp_path)
    keeping.bases.keep_last_save_as_base(change)
    saves.drop("file")
    assert keeping.kept(names.basename(ASIDE.path)) == (OLD if is_kept else None)
