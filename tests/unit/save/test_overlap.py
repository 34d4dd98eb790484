"""When a promote is sent before its set-aside is answered, and how long after it (save/protocol.md R13)."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.waiting import eventually

from jobfs import names
from jobfs.api.wire import HeldConnection
from jobfs.errors import BadRequestError, FsError, ItemChangedError, NotFoundError, UnavailableError
from jobfs.nodes import Item
from jobfs.save.context import Observation
from jobfs.save.overlap import Outcome, OverlapSender, Stagger
from jobfs.state import Change
from jobfs.state.records import Aside, Stage, Verb

from .world import World, away, begun, hidden

OLD = b"old"


def test_the_stagger_halves_until_the_first_refusal() -> None:
    """save/protocol.md R13: from a quarter of the usual round trip; then a refusal doubles it, and a success takes 3 % off."""
    stagger = Stagger()
    seen = [stagger.seconds(0.2)]
    for succeeds in (True, True, False, True, False):
        if succeeds:
            stagger.note_success(0.2)
        else:
            stagger.note_refusal(seen[-1])
        seen.append(stagger.seconds(0.2))
    assert seen == pytest.approx([0.05, 0.025, 0.0125, 0.025, 0.02425, 0.0485])


def test_simultaneous_refusals_of_promotes_count_once() -> None:
    """save/protocol.md R13: else sixteen programs that save would be back at a round trip after one moment of a busy server."""
    stagger = Stagger()
    for _ in range(16):
        stagger.note_refusal(0.01)
    assert stagger.seconds(0.2) == pytest.approx(0.02)
    stagger.note_refusal(0.004)
    assert stagger.seconds(0.2) == pytest.approx(0.02), "it was sent with an earlier stagger"


def test_the_stagger_is_between_two_milliseconds_and_a_round_trip() -> None:
    """save/protocol.md R13."""
    stagger = Stagger()
    for _ in range(20):
        stagger.note_success(0.1)
    assert stagger.seconds(0.1) == 0.002
    for _ in range(20):
        stagger.note_refusal(stagger.seconds(0.1))
    assert stagger.seconds(0.1) == 0.1
    stagger.note_success(0.1)
    assert stagger.seconds(0.1) < 0.1, "it is tried again"


@pytest.fixture
def overlap(world: World) -> OverlapSender:
    world.client.health.latency = 0.02
    world.context.server.learn(moves_refused=True)
    return OverlapSender(world.context, world.uploader)


def staged_change(world: World) -> tuple[Change, Aside]:
    """A save that is to set its first item aside."""
    _, change = begun(world)
    world.state.apply_in_memory(change, asides=[Aside("o", hidden("file"))])
    return change, change.asides[0]


def test_requests_overlap_where_nothing_is_unsure(world: World, overlap: OverlapSender) -> None:
    """save/protocol.md R13: at first after a quarter of a round trip."""
    assert overlap.choose_stagger(*staged_change(world)) == pytest.approx(0.005)


RISKS: dict[str, Callable[[World, Change, Aside], object]] = {
    "a quick server": lambda world, *_: setattr(world.client.health, "latency", 0.0079),
    "an unknown server": lambda world, *_: world.context.server.learn(moves_refused=None),
    "a server that replaces": lambda world, *_: world.context.server.learn(moves_refused=False),
    "a directory": lambda world, change, _: world.state.apply_in_memory(change, verb=Verb.MKDIR),
    "a second aside": lambda world, change, aside: world.state.apply_in_memory(
        change, asides=[Aside("p", hidden("file", tid="f" * 16)), aside]
    ),
    "an unsure save": lambda _, change, aside: setattr(change, "outcome_unknown", True),
    "an unsure aside": lambda _, change, aside: setattr(aside, "unsure_until", 1e9),
    "an unsure staged item": lambda world, change, _: world.context.mark_unanswered(change.staged_id),
}


@pytest.mark.parametrize("risk", RISKS)
def test_requests_do_not_overlap_if_risky_or_without_gain(
    world: World, overlap: OverlapSender, risk: str
) -> None:
    """save/protocol.md R13: when."""
    change, aside = staged_change(world)
    RISKS[risk](world, change, aside)
    assert overlap.choose_stagger(change, aside) is None


class Pair:
    """A set-aside of item `i` and the promote after it; `sent`: which of them have been sent, in order."""

    def __init__(self, world: World, overlap: OverlapSender) -> None:
        self._item, self._overlap, self.sent = world.client.put("i", "file", OLD), overlap, list[str]()
        self.look = Observation(self._item, time.monotonic())
        #: What happens once a request is sent, and before it is.
        self.on_first: Callable[[], object] = lambda: None
        self.before_first: Callable[[], object] = lambda: None

    def send(self, stagger: float) -> tuple[Outcome, Outcome | None]:
        return self._overlap.send_pair(self.look, self._first, self._second, stagger)

    def _first(self, look: Observation, turn: HeldConnection | None) -> Item:
        self.before_first()
        self.sent.append("first" if turn is not None else "first, on no held connection")
        if turn is not None:
            turn.sent_event.set()
        self.on_first()
        return look.item

    def _second(self, turn: HeldConnection) -> Item:
        self.sent.append("second")
        return self._item


@pytest.fixture
def pair(world: World, overlap: OverlapSender) -> Pair:
    return Pair(world, overlap)


@pytest.mark.parametrize("age", [0.0, math.inf], ids=["at once", "after another look"])
def test_the_stagger_starts_when_the_first_request_is_sent(pair: Pair, age: float) -> None:
    """save/protocol.md R13: a thread may wait for long before it gets there."""
    pair.look = pair.look._replace(observed_at=pair.look.observed_at - age)
    pair.before_first = lambda: time.sleep(0.05)
    pair.on_first = lambda: eventually(lambda: len(pair.sent) == 2)
    pair.send(0.0)
    assert pair.sent == ["first", "second"]


@pytest.mark.parametrize("error", [NotFoundError("gone"), FsError(5)])
def test_both_requests_are_awaited_if_either_fails(pair: Pair, error: Exception) -> None:
    """save/protocol.md R13: on every way out."""

    def fail() -> None:
        eventually(lambda: "second" in pair.sent)
        raise error

    pair.on_first = fail
    first, second = pair.send(0.0)
    assert second is not None
    assert (first.exception(), second.result().id) == (error, "i")


@pytest.mark.parametrize(("case", "stagger", "sent"), [
    ("it is answered before the stagger ends", 60.0, ["first"]), ("it never is sent", 0.0, []),
    # Promote must not queue for a connection while T is absent.
    ("there are no two connections", 0.0, ["first, on no held connection"]),
])  # fmt: skip
def test_the_first_request_may_be_the_only_one(
    world: World, pair: Pair, case: str, stagger: float, sent: list[str]
) -> None:
    """save/protocol.md R13: joined on every way out."""
    world.client.has_two_connections = case != "there are no two connections"
    if not sent:
        pair.before_first = away
    first, second = pair.send(stagger)
    assert (second, pair.sent) == (None, sent)
    assert type(first.exception()) is (type(None) if sent else UnavailableError)


def test_an_old_look_is_repeated_before_the_two_requests(world: World, pair: Pair) -> None:
    """save/protocol.md R8: on one of the connections; if it shows something else, neither is sent."""
    pair.look = pair.look._replace(observed_at=-math.inf)
    assert pair.send(60.0)[0].result().id == "i"
    world.client.items["i"] = replace(world.client.items["i"], path="elsewhere")
    first, second = pair.send(0.0)
    assert (type(first.exception()), second, pair.sent) == (ItemChangedError, None, ["first"])


@pytest.fixture
def old(world: World) -> Item:
    """What a save replaces, in a world where saves overlap: a promote is sent once its set-aside has reached the server."""
    world.client.health.latency = 0.02
    world.context.server.learn(moves_refused=True)
    return world.client.put("o", "dir/file.txt", OLD)


def test_a_promoted_save_is_placed_even_if_its_set_aside_failed(world: World, old: Item) -> None:
    """save/protocol.md R13: an aside whose set-aside was refused is dropped: here the job has deleted the item."""
    promoted = threading.Event()

    def delete() -> None:
        del world.client.items["o"]
        eventually(lambda: "dir/file.txt" in world.client.paths.values())
        promoted.set()

    world.client.before["update"] = [delete]
    file = world.save("dir/file.txt", b"new!", old)
    assert promoted.is_set()
    assert world.client.paths == {file.item_id: "dir/file.txt"}
    assert not world.state.changes, "nothing is left to be cleaned up"


def test_an_unanswered_aside_is_kept_after_its_save_was_promoted(world: World, old: Item) -> None:
    """save/protocol.md R13: cleanup waits as R7 says."""
    client, promoting = world.client, threading.Event()

    def lose() -> None:
        eventually(promoting.is_set)
        client.lose = 1

    def promote() -> None:
        promoting.set()
        eventually(lambda: client.paths["o"] != "dir/file.txt" and not client.lose)

    client.before["update"] = [lose, promote]
    world.save("dir/file.txt", b"new!", old)
    (change,) = world.state.changes.values()
    assert (change.stage, [aside.id for aside in change.asides]) == (Stage.PLACED, ["o"])
    assert change.asides[0].unsure_until > 0.0


@pytest.mark.parametrize("lost", [False, True])
def test_an_overlapped_promote_is_sent_once(world: World, old: Item, lost: bool) -> None:
    """save/protocol.md R13: its answer decides; if that is lost, a look at the staged item does (R6)."""
    client, promoting = world.client, threading.Event()
    promoted = lambda: old.path in [item.path for item in client.items.values() if item.id != "o"]  # noqa: E731

    def hide() -> None:
        eventually(promoting.is_set)
        (change,) = world.state.changes.values()
        client.items["o"] = replace(client.items["o"], path=change.asides[0].path)
        eventually(promoted)  # its answer comes later

    def promote() -> None:
        promoting.set()
        eventually(lambda: client.paths["o"] != old.path)
        client.lose = int(lost)

    client.before["update"] = [hide, promote]
    file = world.save(old.path, b"new!", old)
    moves = [step for step in world.changes() if step.startswith("move ")]
    assert moves == [f"move {client.paths['o']}", f"move {old.path}"]
    assert (client.paths[file.item_id], world.content.adopted == []) == (old.path, lost)
    assert client.unchecked == []


def test_a_refused_promote_does_not_refuse_the_save(world: World, old: Item) -> None:
    """save/protocol.md R13: whatever the reason."""
    client, refused = world.client, threading.Event()

    def refuse() -> None:
        refused.set()
        raise BadRequestError("no")

    client.before["update"] = [lambda: eventually(refused.is_set), refuse]
    world.save("dir/file.txt", b"new!", old)
    assert [i.path for i in client.items.values() if client.contents[i.id] == b"new!"] == ["dir/file.txt"]
    assert client.explained == [], "no request asks for the reason"


def test_a_rename_over_a_file_sends_its_promote_on_a_held_connection(world: World, old: Item) -> None:
    """save/protocol.md R13: promote must not queue for a connection while T is absent."""
    source, queued = world.client.put("s", "draft", b"new!"), list[str]()

    def delete() -> None:
        del world.client.items["o"]
        eventually(lambda: world.client.paths["s"] == old.path)

    world.client.before |= {"update": [delete], "turn": [lambda: queued.append("for a connection")] * 2}
    world.renamer.move_item_over(source, old.path, world.renamer.find_displaced(old.path, old))
    assert (world.client.paths["s"], queued) == (old.path, [])


def test_a_save_begins_again_if_neither_request_was_carried_out(world: World, old: Item) -> None:
    """save/protocol.md R13, R6: then what is at the target is set aside once more."""
    client, promoting = world.client, threading.Event()

    def promote() -> None:
        client.lose, client.carried_out = 2, False
        promoting.set()

    client.before["update"] = [lambda: eventually(promoting.is_set), promote]
    file = world.save(old.path, b"new!", old)
    assert client.paths[file.item_id] == old.path
    assert names.parse_hidden_name(names.basename(client.paths["o"])) is not None
