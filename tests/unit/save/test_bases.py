"""What a conflict copy and its file both began with is kept, under the name that the copy gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobfs import names
from jobfs.content import ContentStore
from jobfs.errors import NotFoundError
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.save.bases import BaseKeeper
from jobfs.state import Change
from jobfs.state.copies import read_copy
from jobfs.state.records import Aside, Base, Verb

from .world import World, hidden, sha

OLD, KEPT = b"the version that was opened", "dir/file.conflict-20261125T130501Z.txt"
BASE = Base("a", "before", len(OLD), sha(OLD))
ASIDE = Aside("a", hidden("dir/file.txt"), moved=True)


class Cache:
    """A content cache that has some versions."""

    def __init__(self, directory: Path, *versions: tuple[str, str, int | None]) -> None:
        self._path, self._versions = directory / "content", versions
        self._path.write_bytes(OLD)
        self.error: Exception | None = None

    def is_cached(self, item: Item) -> bool:
        return tuple(item.version) in self._versions

    def open(self, item: Item) -> Any:
        cache = self

        class Open(SimpleNamespace):
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def fetch_file(self) -> Path:
                if cache.error is not None:
                    raise cache.error
                return cache._path

        return Open()


class Keeping:
    def __init__(self, world: World, top: Path, *versions: tuple[str, str, int | None]) -> None:
        self.cache, self.state, self.listed = Cache(top, *versions), world.state, set[str]()
        namespace = SimpleNamespace(peek=lambda path: path in self.listed or None)
        self.bases = BaseKeeper(world.state, cast(ContentStore, self.cache), cast(Namespace, namespace))
        self._directory = top / "bases"

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
    keeping.bases.keep_merge_base(ASIDE, BASE)
    keeping.bases.rename_base(ASIDE.path, KEPT)
    keeping.bases.drop_base_of_settled(ASIDE)
    assert (keeping.kept(KEPT), keeping.state.bases.paths()) == (OLD, [KEPT])
    keeping.listed.add(KEPT)
    keeping.bases.forget_vanished()
    assert keeping.kept(KEPT) == OLD
    keeping.listed.remove(KEPT)
    keeping.bases.forget_vanished()
    assert keeping.state.bases.paths() == []


def test_no_base_is_kept_if_its_bytes_are_missing_or_no_copy_results(world: World, tmp_path: Path) -> None:
    """vfs/semantics.md 4.61: as far as its bytes are on this machine."""
    keeping = Keeping(world, tmp_path, ("a", "before", len(OLD)), ("", "", None))
    for base in (Base(), replace(BASE, updated_at="other"), replace(BASE, size=65 << 20)):
        keeping.bases.keep_merge_base(ASIDE, base)
    keeping.cache.error = NotFoundError("evicted just now")
    keeping.bases.keep_merge_base(ASIDE, BASE)
    assert keeping.state.bases.paths() == []
    keeping.cache.error = None
    keeping.bases.keep_merge_base(ASIDE, BASE)
    keeping.bases.rename_base(ASIDE.path, "dir/file.txt")  # it is given back
    keeping.bases.drop_base_of_settled(ASIDE)
    assert keeping.state.bases.paths() == []


@pytest.mark.parametrize(
    ("base", "asides", "is_kept"),
    [
        (BASE, [ASIDE], True),
        (BASE, [], False),
        (replace(BASE, sha256=sha(b"other")), [ASIDE], False),
        (replace(BASE, sha256=""), [ASIDE], False),
    ],
)
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
    assert cached.state.bases.paths() == []
    keeping = Keeping(world, tmp_path)
    keeping.bases.keep_last_save_as_base(change)
    saves.drop("file")
    assert keeping.kept(names.basename(ASIDE.path)) == (OLD if is_kept else None)
