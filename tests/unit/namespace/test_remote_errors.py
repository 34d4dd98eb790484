""" "Not there" is not "could not ask"."""

from __future__ import annotations

import errno

import pytest

from jobfs.api.deadline import current_deadline, remaining_time
from jobfs.errors import (
    ApiError,
    ContractError,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
)
from jobfs.nodes import implicit_directory

from .world import STALE, World, nothing

NO_END = ContractError("listing the workspace: the list has no end")

FAILURES = [
    UnavailableError("no connection"),
    UnavailableError("too late", errno=errno.ETIMEDOUT),
    UnauthorizedError("key refused", status=401),
    NotFoundError("no such job", status=404),
    ContractError("not JSON"),
]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("away", [None, "refused"])
def test_known_names_are_served_until_the_server_is_back(
    world: World, caplog: pytest.LogCaptureFixture, failure: ApiError, away: str | None
) -> None:
    """vfs/semantics.md 1.13: whether a lookup or another request found the server out of reach; the status says so.

    vfs/semantics.md 6, Bounds: in an outage new files can be made where the listing is known.
    """
    a = world.server.file("d/a.txt")
    world.namespace.refresh()
    world.server.health.unreachable_reason, world.server.errors = away, {"": failure}
    world.clock.advance(STALE)
    assert world.namespace.lookup("d/a.txt") == a
    for _ in range(2):
        world.server.asked()
        assert world.namespace.children("d") == {"a.txt": a}
        assert world.namespace.lookup("d/new") is None
        assert world.server.operations() == ["answers"] * 2
        with pytest.raises(ApiError):
            world.namespace.lookup("d/new", max_age=1.0)
        with pytest.raises(ApiError):
            world.namespace.refresh()
        assert world.server.operations() == ["find", "list"]
    assert world.namespace.is_unreachable
    assert len(caplog.records) <= 2, "once for names, and once for the listing"
    assert world.namespace.status().error == (away or str(failure))
    world.server.health.unreachable_reason, world.server.errors = None, {}
    world.clock.advance(1.0)
    b = world.server.file("d/b")
    assert world.namespace.children("d") == {"a.txt": a, "b": b}
    assert not world.namespace.is_unreachable


def test_a_directory_newer_than_the_listing_has_no_known_free_names(world: World) -> None:
    """vfs/semantics.md 1: "not there" is not "could not ask"."""
    world.listed()
    world.server.directory("new")
    assert world.namespace.lookup("new", max_age=0.0) is not None
    world.server.errors = {"": UnavailableError("down")}
    for _ in range(2):
        with pytest.raises(UnavailableError):
            world.namespace.lookup("new/a.txt")
        assert world.namespace.is_unreachable
        world.expire()
    with pytest.raises(UnavailableError):
        world.namespace.children("new")


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("listed", [False, True])
def test_an_unknown_name_is_never_absent_or_empty(world: World, failure: ApiError, listed: bool) -> None:
    """vfs/semantics.md 1.14, 1.15: ENOENT only when the server said so; anything unknown is EIO, ETIMEDOUT after the deadline.

    vfs/semantics.md 5: 401 is EACCES. A job that is gone is not a file that is gone.
    """
    if listed:
        world.server.file("a.txt")
        world.namespace.refresh()
    world.server.errors = {"": failure}
    world.clock.advance(STALE + 1)
    for path in ("", "unknown") * 2:
        with pytest.raises(ApiError) as raised:
            world.namespace.lookup("unknown")
        assert raised.value.errno == (errno.EIO if isinstance(failure, NotFoundError) else failure.errno)
        with pytest.raises(ApiError):
            world.namespace.children(path)
    assert world.namespace.lookup("") is not None


def test_a_listing_without_items_of_a_job_that_is_gone_is_no_answer(world: World) -> None:
    """vfs/semantics.md 1.15: for a server that lists nothing then; a workspace that has become empty is shown as such."""
    a = world.server.file("d/a.txt")
    world.namespace.refresh()
    world.expire()
    world.server.asked()
    world.server.delete(a)
    world.server.errors = {"workspace": UnavailableError("no such job", status=404)}
    assert world.namespace.children("") == {"d": implicit_directory("d")}
    world.clock.advance(STALE + 1)
    with pytest.raises(UnavailableError, match="no such job"):
        world.namespace.children("")
    world.server.errors = {}
    world.clock.advance(1)
    assert world.namespace.children("") == {}
    world.expire()
    world.server.asked()
    assert world.namespace.children("") == {}
    assert world.server.operations() == ["list"], "it was empty before"


def test_the_age_of_a_name_counts_from_its_last_confirmation(world: World) -> None:
    """vfs/semantics.md 1.13: up to --stale-if-error seconds."""
    a = world.server.file("a.txt")
    world.namespace.refresh()
    world.clock.advance(STALE)
    assert world.namespace.lookup("a.txt") == a
    world.namespace.record_own_change(b := world.server.file("b.txt"))
    world.server.errors = {"": UnavailableError("down")}
    world.clock.advance(STALE - 1)
    assert (world.namespace.lookup("a.txt"), world.namespace.lookup("b.txt")) == (a, b)
    world.namespace.invalidate("a.txt")
    with pytest.raises(UnavailableError):
        world.namespace.children("", max_age=3 * STALE)
    world.clock.advance(2)
    with pytest.raises(UnavailableError):
        world.namespace.lookup("a.txt")


def test_a_refused_name_says_nothing_about_other_names(world: World) -> None:
    """vfs/semantics.md 1: ENOENT (or EINVAL) only when the server said so of that name, and not of the listing."""
    a = world.server.file("a.txt")
    world.server.errors = {"": InvalidRequestError("take", status=422)}
    for _ in range(3):
        with pytest.raises(UnavailableError) as raised:
            world.namespace.lookup("a.txt")
        assert raised.value.errno == errno.EIO
    assert len(world.server.asked()) == 1
    world.server.errors = {}
    world.listed(120)
    world.server.errors = {"find": InvalidRequestError("path", status=422)}
    with pytest.raises(InvalidRequestError):
        world.namespace.lookup("bad", max_age=0)
    world.server.errors = {}
    assert world.namespace.lookup("a.txt") == a
    assert not world.namespace.is_unreachable


@pytest.mark.parametrize("error", [NO_END, UnavailableError("has no end", status=504)])
def test_names_are_found_one_by_one_where_the_listing_is_unusable(world: World, error: ApiError) -> None:
    """vfs/semantics.md 1: good items are still shown; a directory that can't be listed is EIO, never empty."""

    a = world.server.file("a.txt")
    d = world.server.directory("d")
    b = world.server.file("d/b.txt")
    world.server.errors = {"list": error}
    for path, found in (("a.txt", a), ("d", d), ("d/b.txt", b), ("nothing", None)):
        assert world.namespace.lookup(path) == found
    asked = world.server.operations()
    assert (asked.count("list"), asked.count("find")) == (1, 4), "the listing is not tried for every name"
    for path, found in (("a.txt", a), ("nothing", None)):
        assert world.namespace.lookup(path, max_age=0.0) == found
    with pytest.raises(type(error), match="has no end"):
        world.namespace.children("")
    assert "has no end" in (world.namespace.status().error or "")
    world.server.errors = {}
    world.clock.advance(60)
    assert world.namespace.children("") == {"a.txt": a, "d": d}
    assert world.namespace.status().error is None
    world.server.errors = {"list": error}
    world.expire()
    new = world.server.file("d/new")
    world.namespace.invalidate("d")
    assert world.namespace.children("d") == {"b.txt": b}, "known directories are served as they were"
    assert world.namespace.lookup("d/new") == new
    world.clock.advance(STALE)
    with pytest.raises(type(error)):
        world.namespace.children("d")
    assert world.namespace.peek_children("d") == {"b.txt": b, "new": new}, "however long ago"
    assert world.namespace.peek_children("nothing") is None


def test_a_failure_older_than_the_last_success_does_not_count(world: World) -> None:
    """vfs/semantics.md 1.13: one slow request that fails does not make the names of a server that answers old."""
    b = world.server.file("b")
    world.listed(120)

    def fail_late(_operation: str, path: str) -> None:
        if path == "a":
            world.clock.advance(0.1)
            assert world.namespace.lookup("b") == b
            raise UnavailableError("too late")

    world.server.before = fail_late
    with pytest.raises(UnavailableError):
        world.namespace.lookup("a", max_age=0.0)
    assert not world.namespace.is_unreachable


def test_a_listing_that_only_confirms_known_names_gets_little_time(world: World) -> None:
    """vfs/semantics.md 1.13: `ls` of a known directory does not wait as long as a call may for a server that hangs."""
    world.server.directory("d")
    world.listed(3)
    times: list[float] = []
    world.server.before = lambda *_: times.append(remaining_time())
    for path, max_age in (("d", None), ("d", 1.0)):
        world.expire()
        world.namespace.children(path, max_age)
    confirming, needed = times
    assert confirming <= 2.0
    assert needed > STALE, "but a change requests its item for as long as it takes"


def let_time_pass(*_: object) -> None:
    """Let the time of the call that makes this request be over."""
    deadline = current_deadline()
    assert deadline is not None
    deadline.extend(-deadline.signed_remaining())


def test_one_slow_reply_blocks_no_other_request(world: World) -> None:
    """vfs/semantics.md 1.13: a call that confirms a known name has a moment only; that it passes says nothing of the server."""
    a, _ = world.server.file("a"), world.server.directory("d")
    world.listed(120)
    b = world.server.file("b")
    world.server.errors = {"find": UnavailableError("too late", errno=errno.ETIMEDOUT)}
    world.server.before = let_time_pass
    assert world.namespace.lookup("a") == a
    world.server.errors, world.server.before = {}, nothing
    assert world.namespace.lookup("b") == b
    assert world.server.operations() == ["find", "answers", "find"]
    times: list[float] = []
    world.server.before = lambda *_: times.append(remaining_time())
    world.namespace.refresh()
    for doubted, look in (("other", world.namespace.lookup), ("d", world.namespace.children)):
        world.namespace.invalidate(doubted)
        look(doubted)
    for ask in (world.namespace.children, world.namespace.lookup):
        world.clock.advance(2 * STALE)
        ask("" if ask == world.namespace.children else "nothing")
    assert len(times) >= 5
    assert min(times) > STALE, "a new snapshot, and what is not known, have all the time that they take"
