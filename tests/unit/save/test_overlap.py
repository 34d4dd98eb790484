"""When a promote is sent before its set-aside is answered, and how long after it (save/protocol.md R13)."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.support.waiting import eventually

from jobfs.api.wire import HeldConnection
from jobfs.errors import BadRequestError, FsError, ItemChangedError, NotFoundError, UnavailableError
from jobfs.nodes import Item
from jobfs.save.context import Observation
from jobfs.save.overlap import OverlapSender, Stagger
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


@pytest.mark.parametrize(
    "why",
    ["quick", "unknown", "replaces", "directory", "second", "unsure save", "unsure item", "unsure staged"],
)
def test_requests_do_not_overlap_if_risky_or_without_gain(
    world: World, overlap: OverlapSender, why: str
) -> None:
    """save/protocol.md R13: when."""
    change, aside = staged_change(world)
    match why:
        case "quick":
            world.client.health.latency = 0.0079
        case "unknown":
            world.context.server.learn(moves_refused=None)
        case "replaces":
            world.context.server.learn(moves_refused=False)
        case "directory":
            world.state.apply_in_memory(change, verb=Verb.MKDIR)
        case "second":
            world.state.apply_in_memory(change, asides=[Aside("p", hidden("file", tid="f" * 16)), aside])
        case "unsure save":
            change.outcome_unknown = True
        case "unsure item":
            aside.unsure_until = 1e9
        case "unsure staged":
            world.context.mark_unanswered(change.staged_id)
    assert overlap.choose_stagger(change, aside) is None


def unreachable(turn: HeldConnection) -> Item:
    away()
    raise AssertionError


def look_of(world: World) -> Observation:
    return Observation(world.client.put("i", "file", OLD), time.monotonic())


def test_the_second_request_is_not_sent_once_the_first_was_answered(
    world: World, overlap: OverlapSender
) -> None:
    """save/protocol.md R13: it is at most today's way."""
    sent, following = overlap.send_pair(look_of(world), lambda look, turn: look.item, unreachable, 60.0)
    assert (sent.result().id, following) == ("i", None)


def test_the_stagger_starts_when_the_first_request_is_sent(world: World, overlap: OverlapSender) -> None:
    """save/protocol.md R13: a thread may wait for long before it gets there."""
    order = []

    def first(look: Observation, turn: HeldConnection | None) -> Item:
        assert turn is not None
        order.append("first")
        turn.sent_event.set()
        eventually(lambda: len(order) == 2)
        return look.item

    def second(turn: HeldConnection) -> Item:
        order.append("second")
        return world.client.items["i"]

    look = look_of(world)
    overlap.send_pair(look, first, second, 0.0)
    assert order == ["first", "second"]


@pytest.mark.parametrize("error", [NotFoundError("gone"), FsError(5)])
def test_both_requests_are_awaited_if_either_fails(
    world: World, overlap: OverlapSender, error: Exception
) -> None:
    """save/protocol.md R13: on every way out."""
    begins, ended = threading.Event(), threading.Event()

    def first(look: Observation, turn: HeldConnection | None) -> Item:
        assert turn is not None
        turn.sent_event.set()
        eventually(begins.is_set)
        raise error

    def second(turn: HeldConnection) -> Item:
        begins.set()
        ended.set()
        return world.client.items["i"]

    sent, following = overlap.send_pair(look_of(world), first, second, 0.0)
    assert ended.is_set()
    assert following is not None
    assert (sent.exception(), following.result().id) == (error, "i")


def test_the_second_request_is_not_sent_if_the_first_never_was(world: World, overlap: OverlapSender) -> None:
    """save/protocol.md R13: joined on every way out."""

    def first(look: Observation, turn: HeldConnection | None) -> Item:
        raise UnavailableError("no way")

    sent, following = overlap.send_pair(look_of(world), first, unreachable, 0.0)
    assert (type(sent.exception()), following) == (UnavailableError, None)


def test_an_old_look_is_repeated_before_the_two_requests(world: World, overlap: OverlapSender) -> None:
    """save/protocol.md R8: on one of the connections; if it shows something else, neither is sent."""
    look = look_of(world)._replace(observed_at=-math.inf)
    sent, _ = overlap.send_pair(look, lambda look, turn: look.item, unreachable, 60.0)
    assert sent.result().id == "i"
    world.client.items["i"] = replace(world.client.items["i"], path="elsewhere")
    sent, following = overlap.send_pair(look, lambda look, turn: look.item, unreachable, 0.0)
    assert (type(sent.exception()), following) == (ItemChangedError, None)


def test_without_two_connections_only_the_first_request_is_sent(
    world: World, overlap: OverlapSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md R13: promote must not queue for a connection while T is absent."""

    @contextmanager
    def none(subject: object) -> Iterator[None]:
        yield None

    monkeypatch.setattr(world.client, "hold_two_connections", none)
    held_by = []

    def first(look: Observation, turn: HeldConnection | None) -> Item:
        held_by.append(turn)
        return look.item

    sent, following = overlap.send_pair(look_of(world), first, unreachable, 0.0)
    assert (sent.result().id, following, held_by) == ("i", None, [None])


def overlapping_world(world: World) -> World:
    """A world in which saves overlap, and promotes are sent once the set-asides have reached the server."""
    world.client.health.latency = 0.02
    world.context.server.learn(moves_refused=True)
    return world


def test_a_promoted_save_is_placed_even_if_its_set_aside_failed(world: World) -> None:
    """save/protocol.md R13: an aside whose set-aside was refused is dropped: here the job has deleted the item."""
    item, client = world.client.put("o", "dir/file.txt", OLD), overlapping_world(world).client
    promoted = threading.Event()

    def delete() -> None:
        del client.items["o"]
        eventually(lambda: any(i.path == "dir/file.txt" for i in client.items.values()))
        promoted.set()

    client.before["update"] = [delete]
    file = world.save("dir/file.txt", b"new!", item)
    assert promoted.is_set()
    assert client.paths == {file.item_id: "dir/file.txt"}
    assert not world.state.changes, "nothing is left to be cleaned up"


def test_an_unanswered_aside_is_kept_after_its_save_was_promoted(world: World) -> None:
    """save/protocol.md R13: cleanup waits as R7 says."""
    item, client = world.client.put("o", "dir/file.txt", OLD), overlapping_world(world).client
    promoting = threading.Event()

    def lose() -> None:
        eventually(promoting.is_set)
        client.lose = 1

    def promote() -> None:
        promoting.set()
        eventually(lambda: client.paths["o"] != "dir/file.txt" and not client.lose)

    client.before["update"] = [lose, promote]
    world.save("dir/file.txt", b"new!", item)
    (change,) = world.state.changes.values()
    assert change.stage is Stage.PLACED
    assert [aside.id for aside in change.asides] == ["o"]
    assert change.asides[0].unsure_until > 0.0


def test_a_refused_promote_does_not_refuse_the_save(world: World) -> None:
    """save/protocol.md R13: whatever the reason."""
    item, client = world.client.put("o", "dir/file.txt", OLD), overlapping_world(world).client
    refused = threading.Event()

    def refuse() -> None:
        refused.set()
        raise BadRequestError("no")

    client.before["update"] = [lambda: eventually(refused.is_set), refuse]
    world.save("dir/file.txt", b"new!", item)
    assert [i.path for i in client.items.values() if client.contents[i.id] == b"new!"] == ["dir/file.txt"]
    assert client.explained == [], "no request asks for the reason"


def test_a_rename_over_a_file_sends_its_promote_on_a_held_connection(world: World) -> None:
    """save/protocol.md R13: promote must not queue for a connection while T is absent."""
    source = world.client.put("s", "draft", b"new!")
    over, client = world.client.put("o", "file", OLD), overlapping_world(world).client
    queued = list[str]()

    def delete() -> None:
        del client.items["o"]
        eventually(lambda: client.paths["s"] == "file")

    client.before |= {"update": [delete], "turn": [lambda: queued.append("for a connection")] * 2}
    renamer = world.renamer
    renamer.move_item_over(source, "file", renamer.find_displaced("file", over))
    assert (client.paths["s"], queued) == ("file", [])
