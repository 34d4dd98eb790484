"""Saves whose set-aside and promote overlap without a stagger: the server executes the two in either order (R13).

In ordinary tests saves never overlap, because a round trip to the local server takes too little time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
