""" "Not there" is not "could not ask"."""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import Any

import pytest

from jobfs.errors import (
    ApiError,
    ContractError,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
)
from jobfs.nodes import Item, implicit_directory

from .world import STALE, World, nothing

FAILURES = [
    UnavailableError("no connection"),
    UnavailableError("too late", errno=errno.ETIMEDOUT),
    UnauthorizedError("key refused", status=401),
    NotFoundError("no such job", status=404),
    ContractError("not JSON"),
]


def fail_with(world: World, error: ApiError | None) -> None:
    def fail(_operation: str, _argument: Any) -> None:
        if error is not None:
            raise error

    world.server.before = fail


def fail_once(world: World, known: Item) -> None:
    """A look-up of what is known fails; from then on the server answers."""
    fail_with(world, UnavailableError("busy", status=503))
    world.expire()
    assert world.namespace.lookup(known.path) == known
    fail_with(world, None)


@pytest.mark.parametrize("failure", FAILURES)
def test_known_names_go_on_being_served_while_the_server_cannot_be_asked(
    world: World, failure: ApiError
) -> None:
    """vfs/semantics.md 1: if the server cannot be reached, what is known is served, and the status says so.

    vfs/semantics.md 6, Bounds: in an outage new files can be made where the listing is known.
    """
    a = world.server.file("d/a.txt")
    world.namespace.refresh()
    assert world.namespace.status().error is None
    fail_with(world, failure)
    world.clock.advance(STALE - 1)
    assert world.namespace.lookup("d/a.txt") == a
    assert world.namespace.children("d") == {"a.txt": a}
    assert world.namespace.status().error == str(failure)
    for _ in range(2):
        assert world.namespace.lookup("d/new") is None
        with pytest.raises(ApiError):
            world.namespace.lookup("d/new", max_age=1.0)


def test_in_a_directory_that_came_after_the_listing_no_name_is_known_to_be_free(world: World) -> None:
    """vfs/semantics.md 1: "not there" is not "could not ask"."""
    world.listed()
    world.server.directory("new")
    assert world.namespace.lookup("new", max_age=0.0) is not None
    fail_with(world, UnavailableError("down"))
    world.expire()
    with pytest.raises(UnavailableError):
        world.namespace.lookup("new/a.txt")
    with pytest.raises(UnavailableError):
        world.namespace.children("new")


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("listed", [False, True])
def test_an_unknown_name_is_an_error_and_never_absent_or_empty(
    world: World, failure: ApiError, listed: bool
) -> None:
    """vfs/semantics.md 1.14, 1.15: ENOENT only when the server said so; anything unknown is EIO, ETIMEDOUT after the deadline.

    vfs/semantics.md 5: 401 is EACCES. A job that is gone is not a file that is gone.
    """
    if listed:
        world.server.file("a.txt")
        world.namespace.refresh()
    fail_with(world, failure)
    world.clock.advance(STALE + 1)
    for path in ("", "unknown") * 2:
        with pytest.raises(ApiError) as raised:
            world.namespace.lookup("unknown")
        assert raised.value.errno == (errno.EIO if isinstance(failure, NotFoundError) else failure.errno)
        with pytest.raises(ApiError):
            world.namespace.children(path)
    assert world.namespace.lookup("") is not None


@pytest.mark.parametrize("away", [None, "refused"])
def test_known_names_are_served_until_the_server_is_found_to_be_back(world: World, away: str | None) -> None:
    """vfs/semantics.md 1: whether a lookup or another request found the server out of reach; the status says so."""
    a = world.server.file("a.txt")
    world.listed()
    world.server.health.away = away
    fail_with(world, UnavailableError("down"))
    assert world.namespace.lookup("a.txt") == a
    for _ in range(3):
        world.server.asked()
        assert world.namespace.children("") == {"a.txt": a}
        assert world.server.asked() == [("answers", "")]
        assert world.namespace.lookup("a.txt") == a
        assert world.namespace.lookup("new") is None
        assert {asked[0] for asked in world.server.asked()} == {"answers"}
        assert world.namespace.unreachable
    assert world.namespace.status().error == (away or "down")
    fail_with(world, None)
    world.server.health.away = None
    world.clock.advance(1.0)
    b = world.server.file("b")
    assert world.namespace.children("") == {"a.txt": a, "b": b}
    assert not world.namespace.unreachable


def test_a_name_counts_from_when_it_was_last_confirmed(world: World) -> None:
    """vfs/semantics.md 1.13: up to --stale-if-error seconds."""
    a = world.server.file("a.txt")
    world.namespace.refresh()
    world.clock.advance(STALE)
    assert world.namespace.lookup("a.txt") == a
    b = world.server.file("b.txt")
    world.namespace.publish(b)
    fail_with(world, UnavailableError("down"))
    world.clock.advance(STALE - 1)
    assert world.namespace.lookup("a.txt") == a
    assert world.namespace.lookup("b.txt") == b
    world.clock.advance(2)
    with pytest.raises(UnavailableError):
        world.namespace.lookup("a.txt")


@pytest.mark.parametrize("look", ["changed", "new", "listed"])
def test_a_failure_of_long_ago_makes_no_answer_old(world: World, look: str) -> None:
    """vfs/semantics.md 1, TTL: what the job changes is visible to a new `stat`, `open` or `readdir`, whatever failed before."""
    a = world.server.file("d/a.txt")
    world.namespace.refresh()
    fail_once(world, a)
    world.clock.advance(60)
    a, new = world.server.rewrite(a), world.server.file("d/new.txt")
    if look == "changed":
        assert world.namespace.lookup("d/a.txt") == a
    elif look == "new":
        assert world.namespace.lookup("d/new.txt") == new
    else:
        assert world.namespace.children("d") == {"a.txt": a, "new.txt": new}


def test_a_call_that_changes_something_asks_though_others_have_just_failed(world: World) -> None:
    """vfs/semantics.md 5: 429 and 503 are tried again within the call's time; no call fails for the errors of other calls."""
    a = world.server.file("a.txt")
    world.namespace.refresh()
    fail_once(world, a)
    assert world.namespace.lookup("a.txt", max_age=1.0) == a
    fail_once(world, a)
    assert world.namespace.children("", max_age=1.0) == {"a.txt": a}
    fail_once(world, a)
    world.namespace.refresh()
    assert not world.namespace.unreachable


def test_a_storm_on_a_dead_server_asks_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """vfs/semantics.md 5: no retry storm, only the question whether the server is back; one line in the log says so."""
    world.listed(20)
    fail_with(world, UnauthorizedError("key refused"))
    with caplog.at_level(logging.WARNING, "jobfs.namespace"):
        for number in range(20):
            assert world.namespace.lookup(f"f{number:04d}") is not None
            assert len(world.namespace.children("")) == 20
    assert len([asked for asked in world.server.asked() if asked[0] != "answers"]) == 1
    assert len(caplog.records) == 1


def test_a_path_that_the_server_refuses_is_no_reason_not_to_ask_for_others(world: World) -> None:
    """vfs/semantics.md 5: 422 is EINVAL."""
    a = world.server.file("a.txt")
    world.listed(120)

    def refuse(_operation: str, argument: Any) -> None:
        if argument == "bad":
            raise InvalidRequestError("path", status=422)

    world.server.before = refuse
    with pytest.raises(InvalidRequestError):
        world.namespace.lookup("bad", max_age=0)
    assert world.namespace.lookup("a.txt") == a
    assert world.namespace.status().error is None


def test_a_listing_that_the_server_refuses_says_nothing_of_a_name(world: World) -> None:
    """vfs/semantics.md 1: ENOENT (or EINVAL) only when the server said so of that name."""
    fail_with(world, InvalidRequestError("take", status=422))
    for _ in range(3):
        with pytest.raises(UnavailableError) as raised:
            world.namespace.lookup("a")
        assert raised.value.errno == errno.EIO
    assert len(world.server.asked()) == 1


NO_END = ContractError("list items: the list has no end")


def no_listing(operation: str, _argument: Any, error: ApiError = NO_END) -> None:
    if operation == "list":
        raise error


@pytest.mark.parametrize("error", [NO_END, UnavailableError("has no end", status=504)])
def test_names_are_found_one_by_one_where_the_listing_is_no_good(world: World, error: ApiError) -> None:
    """vfs/semantics.md 1: good items go on being shown; a directory that can't be listed is EIO, never empty."""

    a = world.server.file("a.txt")
    d = world.server.directory("d")
    b = world.server.file("d/b.txt")
    world.server.before = partial(no_listing, error=error)
    for path, found in (("a.txt", a), ("d", d), ("d/b.txt", b), ("nothing", None)):
        assert world.namespace.lookup(path) == found
    asked = [operation for operation, _ in world.server.asked()]
    assert (asked.count("list"), asked.count("find")) == (1, 4), "the listing is not tried for every name"
    for path, found in (("a.txt", a), ("nothing", None)):
        assert world.namespace.lookup(path, max_age=0.0) == found
    with pytest.raises(type(error), match="has no end"):
        world.namespace.children("")
    assert "has no end" in (world.namespace.status().error or "")
    world.server.before = nothing
    world.clock.advance(60)
    assert world.namespace.children("") == {"a.txt": a, "d": d}
    assert world.namespace.status().error is None


def test_a_listing_that_became_no_good_leaves_known_directories_as_they_were(world: World) -> None:
    """vfs/semantics.md 1: names that are already known go on being served, up to `--stale-if-error`."""
    a = world.server.file("x/a.txt")
    world.namespace.refresh()
    world.server.before = no_listing
    world.expire()
    b = world.server.file("x/b.txt")
    assert world.namespace.children("x") == {"a.txt": a}
    assert world.namespace.lookup("x/b.txt") == b
    assert world.namespace.lookup("x") == implicit_directory("x")
    world.clock.advance(STALE)
    with pytest.raises(ContractError):
        world.namespace.children("x")


def test_a_failure_that_is_older_than_the_last_success_is_none(world: World) -> None:
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
    assert not world.namespace.unreachable
