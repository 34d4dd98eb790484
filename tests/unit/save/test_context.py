"""Requests that may still be carried out (save/protocol.md R1, R7)."""

from __future__ import annotations

import time

from .world import World, hidden


def test_an_item_is_waited_for_as_long_as_a_request_may_live(world: World) -> None:
    context, before = world.context, time.monotonic()
    first = context.unanswered("a")
    assert before + 30.0 <= first <= time.monotonic() + 30.0
    assert (context.unsure_until("a"), context.unsure_until("b")) == (first, 0.0)
    assert context.unanswered("a") >= first, "a second request begins the wait again"
    context.lifetime = 0.0
    context.unanswered("a")
    context.unanswered("b")
    assert context.unsure_until("a") == 0.0, "what is over is forgotten"


def test_an_item_that_was_renamed_beside_a_request_without_an_answer_belongs_at_its_newest_name(
    world: World,
) -> None:
    """save/protocol.md, What the API does not allow: a name may flip; no content is lost."""
    context = world.context
    context.renamed("a", "file")
    assert not context.is_elsewhere("a", "other"), "the job may have moved it"
    context.unanswered("a")
    context.renamed("a", "second")
    assert (context.is_elsewhere("a", "file"), context.is_elsewhere("a", "second")) == (True, False)
    context.lifetime = 0.0
    context.unanswered("a")
    context.renamed("a", "third")
    assert (context.is_elsewhere("a", "second"), context.is_elsewhere("a", "third")) == (True, False)
    context.renamed("b", "other")
    assert not context.is_elsewhere("b", "file"), "no request on it went unanswered"


def test_an_item_whose_directory_was_renamed_beside_a_request_without_an_answer_belongs_in_there(
    world: World,
) -> None:
    """save/protocol.md R1: what this mount has renamed meanwhile is never deleted as a base."""
    context = world.context
    for item_id, path in (("a", "dir/file"), ("b", "other/file")):
        context.unanswered(item_id)
        context.renamed(item_id, path)
        world.client.put(item_id, path.replace("dir", "done"))
    world.client.put("c", "done/another")
    world.client.put("d", hidden("done/file"))
    context.unanswered("c")
    context.unanswered("d")
    context.renamed_directory("done")
    for item_id, here, back in (("a", "done/file", "dir/file"), ("c", "done/another", "dir/another")):
        assert (context.is_elsewhere(item_id, here), context.is_elsewhere(item_id, back)) == (False, True)
    assert not context.is_elsewhere("b", "other/file")
    assert not context.is_elsewhere("d", "done/file"), "it is set aside, and has no name"
