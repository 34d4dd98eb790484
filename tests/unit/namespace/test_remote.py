"""Looking: what costs a request, what does not, and what is shown."""

from __future__ import annotations

import errno

import pytest

from jobfs.errors import FsError
from jobfs.nodes import implicit_directory

from .world import KERNEL, TTL, World


def test_the_first_lookup_reads_one_listing_that_then_answers_everything(world: World) -> None:
    """semantics 1: a fresh snapshot answers every lookup, negative ones too, without a request."""
    a = world.server.file("a.txt")
    sub = world.server.directory("sub")
    b = world.server.file("sub/b.txt")
    assert world.namespace.lookup("a.txt") == a
    assert world.server.asked() == [("list", 0)]
    assert world.namespace.lookup("sub") == sub
    assert world.namespace.lookup("sub/b.txt") == b
    assert world.namespace.lookup("nothing") is None
    assert world.namespace.children("") == {"a.txt": a, "sub": sub}
    assert world.namespace.children("sub") == {"b.txt": b}
    assert world.server.asked() == []


def test_the_root_is_always_there_without_a_request(world: World) -> None:
    """semantics 1: an empty workspace is still a directory."""
    assert world.namespace.lookup("") == implicit_directory("")
    assert world.server.asked() == []
    assert world.namespace.children("") == {}


def test_children_of_what_is_no_directory_are_refused(world: World) -> None:
    world.server.file("a.txt")
    with pytest.raises(FsError) as missing:
        world.namespace.children("nothing")
    assert missing.value.errno == errno.ENOENT
    with pytest.raises(FsError) as file:
        world.namespace.children("a.txt")
    assert file.value.errno == errno.ENOTDIR


def test_a_single_stat_after_expiry_costs_one_find(world: World) -> None:
    """semantics 1: after the snapshot expires, a single stat costs one find, not a listing."""
    a = world.server.file("a.txt")
    world.namespace.children("")
    world.server.asked()
    world.expire()
    newer = world.server.rewrite(a)
    assert world.namespace.lookup("a.txt") == newer
    assert world.server.asked() == [("find", "a.txt")]
    assert world.namespace.lookup("a.txt") == newer
    assert world.server.asked() == []


def test_freshness_counts_from_the_start_of_the_request_and_leaves_room_for_the_kernel(world: World) -> None:
    """semantics 1: a change by the job is visible within the TTL, kernel timeouts included."""
    a = world.server.file("a.txt")

    def slow(_operation: str, _argument: object) -> None:
        world.clock.advance(0.2)

    world.server.after = slow
    world.namespace.lookup("a.txt")
    newer = world.server.rewrite(a)
    world.clock.advance(TTL - KERNEL - 0.2)
    assert world.namespace.lookup("a.txt") == a
    world.clock.advance(0.001)
    assert world.namespace.lookup("a.txt") == newer
