"""The write counter: whatever answers come late, our own changes stay, and what is called fresh is fresh."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.clocks import Clock
from tests.support.items import hidden

from jobfs import names
from jobfs.namespace.differences import DifferenceKind
from jobfs.namespace.metadata_cache import NEVER, MetadataCache, OwnChange, carry_into_listing
from jobfs.namespace.tree import ItemTree
from jobfs.nodes import Item, Kind

from .test_differences import Look, looks
from .world import Server, item

PARTS = 3
REMOVED = OwnChange(9, {"1"}, {"d"}, with_descendants=True, deleted=True)
#: Few, so that most changes and answers meet.
PATHS = ["a", "b", "a/a", "a/b", "b/a", "a/a/a"]

paths = st.sampled_from(PATHS)
changes = st.sampled_from(("rewrite", "move", "delete"))


@dataclass
class Find:
    """A find in the air: its answer is made when it starts, or when it lands."""

    ticket: int
    began: float
    path: str
    answer: list[Item] | None = None


@dataclass
class Listing:
    """A listing in the air: each part of the items is read at its own moment."""

    ticket: int
    began: float
    parts: dict[int, list[Item]] = field(default_factory=dict)


class Own(NamedTuple):
    """A change of ours: `new` is None for a delete."""

    time: float
    item_id: str
    old: str
    new: str | None
    whole: bool


class Races(RuleBasedStateMachine):
    """Random changes by the job and by us, with finds and listings that answer late and out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.server = Server()
        self.known = MetadataCache(1e9, self.clock)
        self.finds: list[Find] = []
        self.listing: Listing | None = None
        self.history: list[tuple[float, dict[str, Item]]] = []
        self.own: list[Own] = []
        self.ours: dict[str, Item | None] = {}
        #: What a program sees that saw what was there at first, hears all news, and sees our own changes as we make them.
        self.seen: dict[str, Look] = {}
        self.touched: dict[str, float] = {}
        self._note()

    # the world moves

    def _note(self) -> None:
        self.clock.advance(1.0)
        self.history.append((self.clock.now, dict(self.server.items)))

    def _pick(self, data: st.DataObject, to: str) -> Item | None:
        """An item that is there, and that can be moved to a path, if one is given."""
        there = sorted(self.server.items.values(), key=lambda one: one.path)
        there = [one for one in there if not to or (self._free(to) and not names.is_below(to, one.path))]
        return data.draw(st.sampled_from(there)) if there else None

    def _free(self, path: str) -> bool:
        taken = {one.path: one for one in self.server.items.values()}
        above = path
        while above := names.parent(above):
            if above in taken and not taken[above].is_dir:
                return False
        return path not in taken and not any(names.is_below(other, path) for other in taken)

    def _job_touched(self, path: str) -> None:
        """What the job changed is no longer ours to promise."""
        for item_id, mine in list(self.ours.items()):
            if mine is not None and (mine.path == path or names.is_below(mine.path, path)):
                del self.ours[item_id]

    @initialize(there=st.sets(paths))
    def first_listing(self, there: set[str]) -> None:
        for path in sorted(there):
            is_dir = any(names.is_below(other, path) for other in PATHS)
            (self.server.directory if is_dir else self.server.file)(path)
        self._note()
        self.start_listing()
        self.land_listing()
        assert not self.known.take_differences(), "before the first listing nothing was shown"
        self.seen = looks(self.known.tree)

    @rule(path=paths, is_dir=st.booleans(), ours=st.booleans())
    def something_is_created(self, path: str, is_dir: bool, ours: bool) -> None:
        if not self._free(path):
            return
        self.start_find(path, ours)  # its answer comes late
        made = self.server.directory(path) if is_dir else self.server.file(path)
        self._note()
        if ours:
            self._we(made, made)
            self.ours[made.id] = made

    @rule(how=changes, data=st.data(), path=paths)
    def job_changes(self, how: str, data: st.DataObject, path: str) -> None:
        one = self._pick(data, path if how == "move" else "")
        if one is not None:
            self._job_touched(one.path)
            getattr(self.server, how)(one, *[path] * (how == "move"))
            self._note()

    @rule(how=changes, data=st.data(), path=paths, ahead=st.booleans())
    def we_change(self, how: str, data: st.DataObject, path: str, ahead: bool) -> None:
        one = self._pick(data, path if how == "move" else "")
        if one is None:
            return
        for at in (one.path, *[path] * (how == "move")):
            self.start_find(at, path < one.path)
        if self.listing is None:
            self.start_listing({int(one.id) % PARTS})
        known = self.known.tree.get(one.id)
        now: Item | None = getattr(self.server, how)(one, *[path] * (how == "move"))
        self._note()
        if ahead:
            self.land_listing()  # it shows some of the change before the answer comes
        self.own.append(Own(self.clock.now, one.id, one.path, now.path if now else None, one.is_dir))
        if known is None or known.path != one.path:
            # What moved along with it, or stayed, we can only guess, and do not promise.
            for at in (one.path, *([known.path] if known else ())):
                self._job_touched(at)
        for item_id, mine in list(self.ours.items()):
            if mine is not None and names.is_below(mine.path, one.path):
                del self.ours[item_id]
                if now is not None:
                    self.ours[item_id] = self.server.items[item_id]
        self._we(one, now)
        self.ours[one.id] = now

    def _we(self, was: Item, item: Item | None) -> None:
        """Have a change of ours made known; who watches has seen it, and the directories that come and go with it."""
        known, before = self.known.tree.get(was.id) or was, looks(self.known.tree)
        if item is None:
            self.known.record_deleted(was)
        else:
            self.known.record_own_change(item, was.path)
        now = looks(self.known.tree)
        ours = {known.path, was.path, *([item.path] if item else ())}
        whole = was.is_dir and (item is None or item.path != was.path)
        for path in before.keys() | now.keys() | self.seen.keys():
            own = path in ours or (whole and any(names.is_below(path, top) for top in ours))
            if own or (before.get(path) != now.get(path) and path not in self.known._pending_differences):
                self._sees(path, now.get(path))

    def _sees(self, path: str, shown: Look | None) -> None:
        self.seen.pop(path, None)
        if shown is not None:
            self.seen[path] = shown

    @rule()
    def news_are_told(self) -> None:
        """Each difference between the seen and the shown tree is reported exactly once, and nothing else."""
        now = looks(self.known.tree)
        for happened, path, _, old, _ in self.known.take_differences():
            assert happened is DifferenceKind.DELETED or self.seen.get(path) != now[path], f"{path} is known"
            assert (path in self.seen) is (happened in (DifferenceKind.CHANGED, DifferenceKind.DELETED)), path
            self._sees(path, None if happened is DifferenceKind.DELETED else now[path])
            if old:
                self._sees(old, None)
        assert self.seen == now
        assert not self.known.take_differences()

    @rule(path=paths)
    def we_touch(self, path: str) -> None:
        self.known.invalidate(path)
        self.touched[path] = self.clock.now
        assert not self.known.is_fresh(path, 0.0)

    # answers

    @rule(path=paths, answered=st.booleans())
    def start_find(self, path: str, answered: bool) -> None:
        self.clock.advance(1.0)
        answer = self.server.find(path) if answered else None
        self.finds.append(Find(self.known.begin_request(), self.clock.now, path, answer))

    @precondition(lambda self: self.finds)
    @rule(data=st.data())
    def land_find(self, data: st.DataObject) -> None:
        self._land(self.finds.pop(data.draw(st.integers(0, len(self.finds) - 1))))

    def _land(self, find: Find) -> None:
        answer = self.server.find(find.path) if find.answer is None else find.answer
        self.known.record_find(find.ticket, find.began, find.path, answer)
        self.known.finish_request(find.ticket)

    @precondition(lambda self: self.listing is None)
    @rule(parts=st.sets(st.integers(0, PARTS - 1)))
    def start_listing(self, parts: Collection[int] = ()) -> None:
        self.clock.advance(1.0)
        self.listing = Listing(self.known.begin_request(), self.clock.now)
        for part in parts:
            self.read_part(part)

    @precondition(lambda self: self.listing is not None)
    @rule(part=st.integers(0, PARTS - 1))
    def read_part(self, part: int) -> None:
        assert self.listing is not None
        if part not in self.listing.parts:
            self.listing.parts[part] = [it for it in self.server.items.values() if int(it.id) % PARTS == part]

    @precondition(lambda self: self.listing is not None)
    @rule()
    def land_listing(self) -> None:
        assert self.listing is not None
        for part in range(PARTS):
            self.read_part(part)
        listing, self.listing = self.listing, None
        read = [one for part in listing.parts.values() for one in part]
        self.known.record_listing(listing.ticket, listing.began, ItemTree.from_items(read))
        self.known.finish_request(listing.ticket)
        throughout = set.intersection(*(set(state) for _, state in self._since(listing.began)))
        assert all(map(self.known.tree.get, throughout)), "lost an item that existed throughout"

    # what must hold

    def _since(self, began: float) -> list[tuple[float, dict[str, Item]]]:
        """The server's states from `began` until now."""
        first = max(i for i, (time, _) in enumerate(self.history) if time <= began or i == 0)
        return self.history[first:]

    def _carried(self, time: float, one: Item) -> str | None:
        """Where an item seen at `time` stands after what we ourselves changed since."""
        path: str | None = one.path
        for own in self.own:
            if own.time <= time or path is None:
                continue
            if own.item_id == one.id:
                path = own.new
            elif own.whole and names.is_below(path, own.old):
                path = None if own.new is None else names.path_after_rename(path, own.old, own.new)
        return path

    @invariant()
    def our_own_changes_are_never_overwritten(self) -> None:
        for item_id, mine in self.ours.items():
            assert self.known.tree.get(item_id) == mine
            if mine is not None and self.known.is_fresh(mine.path):
                assert self.known.tree.candidates(mine.path)[0] == mine, "another item is shown for it"

    @invariant()
    def what_is_called_fresh_is_fresh(self) -> None:
        for path in PATHS:
            for began in self._bounds(path):
                self._check(path, began)

    def _bounds(self, path: str) -> list[float]:
        stamps = [
            stamp for stamp in self.known._stamps_for(path) if stamp.ticket >= self.known.minimum_ticket(path)
        ]
        return sorted(stamp.began for stamp in stamps if stamp.began > NEVER)[-1:]

    def _check(self, path: str, began: float) -> None:
        assert self.known.is_fresh(path, began)
        assert all(began > moment for at, moment in self.touched.items() if names.is_at_or_below(path, at))
        window = self._since(began)
        shown = self.known.tree.candidates(path)
        if not shown:
            assert any(all(one.path != path for one in state.values()) for _, state in window), (
                f"{path} is missing, though it was there ever since {began}"
            )
            return
        best = shown[0]
        seen = [(max(time, began), state[best.id]) for time, state in window if best.id in state]
        assert any(path in (one.path, self._carried(time, one)) for time, one in seen), f"{best} is invented"
        assert any(one.updated_at == best.updated_at for _, one in seen), f"{best} is an old version"

    @invariant()
    def nothing_is_kept_for_nobody(self) -> None:
        if not self.finds and self.listing is None:
            assert not self.known._changes

    def teardown(self) -> None:
        """Once everything has landed, one listing shows exactly what the server has."""
        while self.finds:
            self._land(self.finds.pop())
        if self.listing is not None:
            self.land_listing()
        self.start_listing()
        self.land_listing()
        assert {one.id: one for one in self.known.tree.items()} == self.server.items
        assert all(self.known.is_fresh(path, self.known.snapshot.began) for path in PATHS)
        self.news_are_told()


TestRaces = Races.TestCase
TestRaces.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_own_changes_during_a_listing_are_known_unless_a_directory_moved() -> None:
    """vfs/semantics.md 1: a listing may lose the content of a directory that was renamed, which need not be known."""
    server, known = Server(), MetadataCache(60.0, clock := Clock())
    gone, changed, folder = server.file("gone"), server.file("changed"), server.directory("d")
    known.record_listing(known.begin_request(), 1.0, ItemTree.from_items(server.items.values()))
    known.record_deleted(server.file("before"))
    ticket = known.begin_request()
    known.record_find(known.begin_request(), 2.0, "theirs", [server.file("theirs")])
    assert known.ids_changed_since(ticket) == set()
    for remembered in (True, False):
        assert known.is_fresh("theirs", 2.0) is remembered
        clock.advance(61.0)
    known.record_deleted(gone)
    known.record_own_change(server.move(changed, "elsewhere"))
    assert known.ids_changed_since(ticket) == {gone.id, changed.id}
    known.record_own_change(server.move(folder, "e"), "d")
    assert known.ids_changed_since(ticket) == set()


@pytest.mark.parametrize(("change", "old", "new", "kept", "doubts"), [
    (OwnChange(9, {"1"}, {"x", "y"}), [item("y", "1")], [item("x", "1")], ["y"], {"x", "y"}),
    (OwnChange(9, {"1"}, {"x"}), [item("x", "1")], [item("x", "2")], ["x", "x"], {"x"}),
    (REMOVED, [], [item("d", "1"), item("d/x", "2")], ["d/x"], {"d"}),
], ids=["renamed", "taken", "new in a removed directory"])  # fmt: skip
def test_an_older_listing_does_not_revert_an_own_change(
    change: OwnChange, old: list[Item], new: list[Item], kept: list[str], doubts: set[str]
) -> None:
    """vfs/semantics.md 1.6."""
    tree = ItemTree.from_items(new)
    assert carry_into_listing(change, ItemTree.from_items(old), tree) == doubts
    assert [one.path for one in tree.items()] == kept


def test_an_older_reply_below_a_changed_path_is_rejected_if_all_changed() -> None:
    alone = OwnChange(9, {"1"}, {"d"}, deleted=True)
    for change, refused in (REMOVED, [True, False]), (alone, [False, False]):
        assert [change.invalidates(path, {"2"}) for path in ("d/x", "e")] == refused


def reported(known: MetadataCache) -> list[str]:
    """Take the reported differences: kind, path, old path."""
    return [" ".join((one.kind, one.path, *filter(None, [one.old]))) for one in known.take_differences()]


def differences_of_listing(known: MetadataCache, *items: Item) -> list[str]:
    """Take the differences reported after a listing of these items."""
    ticket = known.begin_request()
    known.record_listing(ticket, 1.0, ItemTree.from_items(items))
    known.finish_request(ticket)
    return reported(known)


def cache_with(*items: Item) -> MetadataCache:
    """What is known after a first listing, of which there are no news."""
    known = MetadataCache(60.0, Clock())
    assert (differences_of_listing(known, *items), known.is_directory_listed_since("", 1.0)) == ([], True)
    return known


def test_the_set_aside_of_an_own_save_is_not_a_difference() -> None:
    """vfs/semantics.md 7.2: at no step, whatever a listing shows; nor is a listing that began before it."""
    old, new = item("x", "1"), item("x", "2")
    aside = replace(old, path=hidden("x"))
    known = cache_with(old)
    early = known.begin_request()
    known.record_own_change(aside)
    assert differences_of_listing(known, aside) == []
    known.record_own_change(new)
    known.record_deleted(aside)
    known.record_listing(early, 1.0, ItemTree.from_items([old]))
    known.finish_request(early)
    assert reported(known) == []
    assert differences_of_listing(known, new) == []
    known.begin_request()
    known.record_own_change(new)
    assert differences_of_listing(known, replace(new, size=5)) == ["changed x"], (
        "a listing that began after it is newer"
    )


@pytest.mark.parametrize("ahead", [True, False])
def test_hidden_items_do_not_make_a_removed_directory_visible(ahead: bool) -> None:
    """save/protocol.md R12: a listing that shows half of the removal lands before its answer, or after it."""
    folder = item("d", "1", kind=Kind.DIRECTORY)
    known, aside = cache_with(folder), replace(folder, path=hidden("d"))
    steps = [partial(known.record_own_change, aside, "d"), partial(known.record_deleted, folder)]
    landing = partial(
        known.record_listing,
        known.begin_request(),
        1.0,
        ItemTree.from_items([aside, item(hidden("d/e"), "2")]),
    )
    for step in [landing, *steps] if ahead else [*steps, landing]:
        step()
    assert known.tree.shown_at("d") is None


def test_a_path_where_a_listing_shows_a_second_item_is_requested() -> None:
    """vfs/semantics.md 1.6: it has read the other item before that went, and ours before the answer about it came."""
    known = cache_with(item("x", "1"), moved := item("x", "2"))
    known.record_own_change(moved, "y")
    assert not known.is_fresh("x")


def test_a_directory_moves_with_its_content_and_nothing_else() -> None:
    """vfs/semantics.md 1.4, 7.2: it is no news, and as fresh as before, not as what was at the new path; a doubt moves too."""
    folder = item("d", "1", kind=Kind.DIRECTORY)
    known = cache_with(folder, item("d/x", "2"), item("y", "3"))
    known.record_listing(
        known.begin_request(), 1.0, ItemTree.from_items([folder, item("d/x", "4"), item("y", "5")])
    )
    known.record_find(known.begin_request(), 2.0, "e/x", [])
    known.invalidate("y")
    known.record_own_change(replace(folder, path="e"), "d")
    assert reported(known) == ["changed y"]
    assert [known.is_fresh("e/x", since) for since in (1.0, 2.0)] == [True, False]
    known.invalidate("e/x")
    known.record_own_change(folder, "e")
    assert not known.is_fresh("d/x")


def test_a_directory_that_the_job_moved_takes_nothing_along() -> None:
    """vfs/semantics.md 1.12: what the job has made at its old path is there still, though our change shows the move first."""
    folder = item("b", "1", kind=Kind.DIRECTORY)
    known = cache_with(folder)
    known.record_find(known.begin_request(), 2.0, "b/a", [item("b/a", "2")])
    known.record_own_change(replace(folder, path="a"))
    assert [path for path in ("a", "a/a", "b", "b/a") if known.tree.shown_at(path)] == ["a", "b", "b/a"]
    assert not any(known.is_fresh(path) for path in ("a/a", "b", "b/a"))


def test_what_is_below_a_directory_in_doubt_stays_in_doubt_elsewhere() -> None:
    """vfs/semantics.md 1.4, 4.28: a rename of the mount does not make an old answer a new one."""
    folder = item("a/d", "1", kind=Kind.DIRECTORY)
    known = cache_with(folder, item("a/d/x", "2"))
    known.invalidate("a")
    known.record_own_change(replace(folder, path="b"), "a/d")
    assert not known.is_fresh("b/x")


def test_an_own_conflict_copy_is_a_difference_and_a_save_of_it_is_not() -> None:
    """vfs/semantics.md 7.2."""
    path = names.second_version_path("x.txt", "conflict")
    staged = item(hidden("x.txt", names.Role.STAGED), "2")
    known = cache_with(item("x.txt", "1"))
    known.record_own_change(staged)
    known.record_own_change(kept := replace(staged, path=path), is_reported=True)
    assert reported(known) == [f"created {path}"]
    known.record_own_change(replace(kept, size=5))
    assert reported(known) == []
    known.record_deleted(kept)
    assert reported(known) == []
