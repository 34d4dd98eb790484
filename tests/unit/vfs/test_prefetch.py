"""Which file a program reads next, told from the ones before; no network, no threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from jobfs import names
from jobfs.nodes import Item, Kind, inode_number
from jobfs.vfs.prefetch import LARGE, WINDOW, Prefetch


class World:
    """A tree in memory, and what of it is on disk."""

    def __init__(self, paths: Iterable[str], size: int = 1000) -> None:
        self.items: dict[str, Item] = {}
        numbers = itertools.count(1)
        for path in paths:
            *above, _ = itertools.accumulate(path.split("/"), names.join)
            for directory in above:
                self.items.setdefault(directory, Item(f"i{next(numbers):05}", Kind.DIRECTORY, directory))
            self.items[path] = Item(f"i{next(numbers):05}", Kind.FILE, path, size=size)
        self.snapshot_number = 1
        self.on_disk: set[str] = set()
        self.young: set[str] = set()
        self.fetched: list[str] = []
        world: Any = self  # it is namespace, content store, state and its index in one
        self.index = self
        self.ahead = Prefetch(world, world, world)

    def needs_download(self, item: Item) -> bool:
        return item.path not in self.on_disk

    def may_share_download(self, item: Item) -> bool:
        return item.path not in self.young

    def known_size(self, item: Item) -> int | None:
        return item.size

    def inode_of(self, item: Item) -> int:
        return inode_number(item.id)

    def peek_children(self, directory: str) -> dict[str, Item]:
        return {
            names.basename(p): item for p, item in self.items.items() if p and names.parent(p) == directory
        }

    def prefetch_items(self, next_item: Callable[[], Item | None], count: int) -> None:
        while (item := next_item()) is not None:
            self.fetched.append(item.path)

    def order(self, by_name: bool = False) -> list[str]:
        """All files, as a program that takes them in this order reads them."""
        return [item.path for item in self.ahead.files_below("", by_name)]

    def read(self, path: str) -> list[str]:
        """A program reads a file; returns the files that are then fetched ahead, which are on disk from then on."""
        self.fetched = []
        self.ahead.note_open(self.items[path], is_cached=False)
        self.on_disk |= {path, *self.fetched}
        return self.fetched

    def read_all(self, paths: Iterable[str]) -> tuple[list[str], list[str]]:
        """The files that were fetched ahead in all, and those that the program had to wait for."""
        fetched, missed = list[str](), list[str]()
        for path in paths:
            missed += {path} - self.on_disk
            fetched += self.read(path)
        return fetched, missed


def flat(count: int, *directories: str) -> list[str]:
    return [f"{directory}/f{number:04}.txt" for directory in directories or ("d",) for number in range(count)]


@pytest.mark.parametrize("by_name", [False, True])
def test_a_program_that_reads_everything_waits_for_a_handful_of_files(by_name: bool) -> None:
    """vfs/semantics.md 3: files of one directory read one after another are fetched ahead."""
    world = World(
        [*flat(15, *"bcdefghijklmnopqrstu"), *flat(5, "c/deeper", "c/deeper/still"), "top.txt", "a.txt"]
    )
    order = world.order(by_name)
    fetched, missed = world.read_all(order)
    assert set(fetched) | set(missed) == set(order)
    assert len(missed) <= 6, missed
    assert len(fetched) == len(set(fetched)), "each once"


def test_the_second_file_in_a_row_starts_a_prefetch() -> None:
    world = World(flat(100))
    order = world.order()
    assert not world.read(order[0])
    assert world.read(order[1])[:3] == order[2:5]


def test_a_cached_file_starts_no_prefetch_and_is_not_fetched() -> None:
    world = World(flat(50))
    order = world.order()
    world.on_disk |= set(order[:20]) | {order[30]}
    fetched, missed = world.read_all(order)
    assert missed == order[20:22]
    assert order[30] not in fetched


@pytest.mark.parametrize(("size", "most"), [(1000, WINDOW), (1 << 20, 33)])
def test_the_number_of_prefetched_files_is_bounded(size: int, most: int) -> None:
    """vfs/semantics.md 3.8: prefetch is bounded in bytes and in number."""
    world = World(flat(1000), size)
    ahead, unread = list[int](), set[str]()
    for path in world.order()[:200]:
        unread = (unread | set(world.read(path))) - {path}
        ahead.append(len(unread))
    assert most - 1 <= max(ahead) <= most


def test_large_files_and_racy_versions_are_not_prefetched() -> None:
    """vfs/semantics.md 3.8, 3.2: what is too young to be kept would be downloaded twice."""
    world = World(flat(40))
    order = world.order()
    world.items[order[10]] = replace(world.items[order[10]], size=LARGE + 1)
    world.young = {order[20]}
    world.snapshot_number += 1
    fetched, missed = world.read_all(order)
    assert missed == [*order[:2], order[10], order[20]]
    assert not {order[10], order[20]}.intersection(fetched)


def test_no_file_outside_the_directory_of_a_walk_is_prefetched() -> None:
    world = World([*flat(12, "src/a", "src/b", "src/c"), *flat(90, "zoo/x", "abc")])
    order = [path for path in world.order(by_name=True) if path.startswith("src/")]
    fetched, missed = world.read_all(order)
    assert all(path.startswith("src/") for path in fetched)
    assert len(missed) <= 3


def test_a_program_that_reads_every_third_file_is_a_walk() -> None:
    world = World(f"d/f{number:03}{suffix}" for number in range(120) for suffix in (".c", ".h", ".o"))
    order = [path for path in world.order(by_name=True) if path.endswith(".c")]
    _, missed = world.read_all(order)
    assert len(missed) <= 6


def test_reads_out_of_order_end_a_walk() -> None:
    """vfs/semantics.md 3: stopped when the pattern breaks."""
    world = World(flat(2000))
    order = world.order()
    world.read_all(order[:3])
    fetched, _ = world.read_all(order[start] for start in range(60, 2000, 61))
    assert len(fetched) < 100


def test_the_walks_of_two_programs_are_both_followed() -> None:
    world = World(flat(60, "a", "b"))
    one, other = ([path for path in world.order() if path.startswith(top)] for top in ("a/", "b/"))
    _, missed = world.read_all(itertools.chain.from_iterable(zip(one, other, strict=True)))
    assert len(missed) <= 6
