"""What this mount knows of the versions that saves replace (save/protocol.md R1, R2)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import cast

import pytest

from jobfs.api import Client
from jobfs.nodes import Item
from jobfs.save.bases import Bases, sha256_of, with_bytes
from jobfs.state import edit
from jobfs.state.records import Base, Verb

from .world import World, sha

CONTENT = b"content"


@pytest.fixture
def bases(world: World) -> Bases:
    return world.write_back.bases


def item(world: World, seconds: float = 60.0) -> Item:
    """An item that was changed so many seconds ago."""
    return world.client.put("a", "file", CONTENT, updated_ns=int((time.time() - seconds) * 1e9))


def sent(world: World, of: Item, digest: str, version: str) -> None:
    """This machine has saved it; `version`: what it was then."""
    world.state.write(edit(world.state.open(of), version=version, sha256=digest, sent=digest))


@pytest.mark.parametrize(("seconds", "young"), [(0.5, True), (60.0, False)])
def test_a_version_is_young_by_the_servers_clock(
    world: World, bases: Bases, monkeypatch: pytest.MonkeyPatch, seconds: float, young: bool
) -> None:
    """save/protocol.md R1: unless base is younger than 2 s when it was opened (clock resolution)."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert bases.of(item(world, seconds)).young is young
    world.client.server_time_offset = 30.0
    assert not bases.of(item(world, seconds)).young
    assert bases.of(item(world, seconds), young=True).young


def test_the_bytes_are_known_that_are_here(world: World, bases: Bases) -> None:
    """save/protocol.md R1: its bytes equal base's."""
    version = item(world)
    assert bases.of(version).sha256 == ""
    world.content.cached.add("a")
    assert bases.of(version).sha256 == sha(CONTENT)


def test_what_this_mount_sent_is_known_for_the_version_that_it_made(world: World, bases: Bases) -> None:
    """save/protocol.md R2: base is H with the hash of what was sent; an `updatedAt` is adopted only from promote's own answer."""
    version = item(world)
    sent(world, version, "ff", version.updated_at)
    assert bases.of(version).sha256 == "ff"
    assert bases.of(replace(version, updated_at="later")).sha256 == ""


def test_bytes_of_ours_show_it_where_the_clock_does_not(world: World, bases: Bases) -> None:
    """save/protocol.md R1: with one writer there are no conflict copies: what this mount itself sent is always known."""
    version = item(world, 0.0)
    sent(world, version, "ff", "an earlier version")
    assert bases.of(version).sha256 == ""
    world.content.fine = False
    assert bases.of(version).sha256 == "ff"


def test_unknown_bytes_are_learned_up_to_the_size_of_the_cache(world: World, bases: Bases) -> None:
    """save/protocol.md R1: up to the size of the content cache; else keep both."""
    version = item(world)
    for shown, digest in ((replace(version, size=1 << 30), ""), (version, sha(CONTENT))):
        change = world.state.change(Verb.PUT, "file", base=Base.of(shown), base_item=shown)
        bases.learn(change)
        assert change.learning.result()[0] == digest


def test_times_go_on_to_hold_after_our_own_move_the_hash_does_not(world: World, bases: Bases) -> None:
    """save/protocol.md R2; vfs/semantics.md 2: remembered until the item changes remotely."""
    version = item(world)
    world.state.write(edit(world.state.open(version), version=version.updated_at, mtime_ns=5, sha256="ff"))
    moved = replace(version, path="other", updated_at="moved")
    bases.carry(version, moved)
    file = world.state.of(moved)
    assert file is not None
    assert (file.version, file.mtime_ns, file.sha256) == ("moved", 5, "")
    bases.carry(replace(version, updated_at="of the job"), replace(version, updated_at="later"))
    assert file.version == "moved", "what was remembered was of another version"


def test_an_item_is_known_by_its_bytes_only_if_it_was_left_alone_while_they_were_read(world: World) -> None:
    """save/protocol.md R1: download, then get, and `updatedAt` still is the same."""
    version, client = item(world), cast(Client, world.client)
    assert sha256_of(client, "a", None) == sha(CONTENT)
    assert with_bytes(client, version, sha(CONTENT)) == version
    assert with_bytes(client, version, sha(b"other")) is None
    world.client.after_download = lambda: world.client.touched("a")
    assert with_bytes(client, version, sha(CONTENT)) is None
    world.client.after_download = world.client.items.clear
    assert with_bytes(client, version, sha(CONTENT)) is None
