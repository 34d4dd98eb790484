"""Saves whose set-aside and promote overlap without a stagger: the server executes the two in either order (R13).

In ordinary tests saves never overlap, because a round trip to the local server takes too little time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from jobfs.save import overlap
from jobfs.state.server import KnownServer


def force_overlap(patch: Callable[[Any, str, Any], object] = setattr, *, knows: bool = True) -> None:
    """Overlap wherever R13 allows it; `knows`: the server was seen to refuse moves onto items."""
    init = KnownServer.__init__

    def known(self: KnownServer, *arguments: Any) -> None:
        init(self, *arguments)
        self.learn(moves_refused=True)

    patch(overlap, "_WORTH", 0.0)
    patch(overlap.Stagger, "seconds", lambda self, round_trip: 0.0)
    if knows:
        patch(KnownServer, "__init__", known)


class Overlaps(Counter[str]):
    """How many promotes were sent before their set-asides were answered, by their outcomes."""


def counted_overlaps(monkeypatch: pytest.MonkeyPatch, *, knows: bool = True) -> Overlaps:
    """Force overlaps as `force_overlap` does, and count them, until the test ends."""
    overlaps, send = Overlaps(), overlap.OverlapSender.send_pair

    def counted(sender: overlap.OverlapSender, *arguments: Any) -> Any:
        outcomes = send(sender, *arguments)
        if outcomes[1] is not None:
            error = outcomes[1].exception()
            overlaps["placed" if error is None else type(error).__name__] += 1
        return outcomes

    force_overlap(monkeypatch.setattr, knows=knows)
    monkeypatch.setattr(overlap.OverlapSender, "send_pair", counted)
    return overlaps
