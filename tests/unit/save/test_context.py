"""Requests that may still be carried out (save-protocol R7)."""

from __future__ import annotations

import time

from .world import World


def test_an_item_is_waited_for_as_long_as_a_request_may_live(world: World) -> None:
    context, before = world.context, time.time()
    first = context.unanswered("a")
    assert before + 30.0 <= first <= time.time() + 30.0
    assert (context.unsure_until("a"), context.unsure_until("b")) == (first, 0.0)
    assert context.unanswered("a") >= first, "a second request begins the wait again"
    context.lifetime = 0.0
    context.unanswered("a")
    context.unanswered("b")
    assert context.unsure_until("a") == 0.0, "what is over is forgotten"
