"""Which transfer brings the bytes that a reader waits for (semantics.md section 3: progressive, ranges).

A file read from its beginning is streamed whole. A read elsewhere asks for a range, whose length grows while
the reads go on in order. A read a little ahead of a running transfer waits for it. Where the server has no
ranges, everybody waits for the stream.
"""

from __future__ import annotations

from typing import NamedTuple

from jobfs.content.fetch import Fetch
from jobfs.content.ranges import MIB, NEAR, IntervalSet, Run, align_down, align_up

#: Files up to this size are always downloaded whole.
SMALL = NEAR
#: Jumps in a row after which a stream that nobody waits for is not worth going on with…
JUMPS = 4
#: …if it has more than this to go.
LONG = 16 * MIB


class Missing(NamedTuple):
    """What a version has, as far as a plan needs it."""

    have: IntervalSet
    size: int | None
    fetches: list[Fetch]
    ranges: bool | None

    def nearest(self, position: int) -> Fetch | None:
        """Of the transfers on their way to a position the one that is closest; None if there is none."""
        coming = (fetch for fetch in self.fetches if fetch.heads_for(position))
        return max(coming, key=lambda fetch: fetch.pos, default=None)


class Plan(NamedTuple):
    """A transfer to begin: [start, end), or to the end of the file."""

    start: int
    end: int | None


def choose(missing: Missing, gap: tuple[int, int], run: Run) -> Fetch | Plan:
    """The running transfer to wait for, or the one to begin, for the first byte of `gap`."""
    position = gap[0]
    nearest = missing.nearest(position)
    if missing.ranges is False:
        return nearest or Plan(0, None)
    whole = run.from_start or position == 0 or (missing.size is not None and missing.size <= SMALL)
    if nearest is not None and _is_worth_waiting(nearest, position, whole=whole):
        return nearest
    if whole:
        return Plan(position if run.from_start else missing.have.covered_until(0), None)
    return _range(missing, position, max(gap[1], position + run.chunk()))


def _is_worth_waiting(fetch: Fetch, position: int, *, whole: bool) -> bool:
    """True if a running transfer brings a position soon, or the whole file that is wanted anyway."""
    return position - fetch.pos <= fetch.reach() or (whole and fetch.end is None)


def ahead(missing: Missing, end: int, asked: int, run: Run) -> Plan | None:
    """What to begin before anybody waits for it: a run of reads of `asked` bytes has come to `end`."""
    covered = missing.have.covered_until(end - 1) if end else 0
    if missing.size is not None and covered >= missing.size:
        return None
    if missing.ranges is False or missing.nearest(covered) is not None:
        return None
    if run.from_start:
        return Plan(covered, None) if covered - end < NEAR else None
    if not run.sequential(asked) or covered - end >= max(run.chunk() // 2, NEAR // 2):
        return None
    return _range(missing, covered, covered + run.chunk())


def superfluous(missing: Missing, jumps: int) -> list[Fetch]:
    """Streams that reads here and there have made pointless."""
    if jumps < JUMPS or missing.size is None:
        return []
    return [
        fetch
        for fetch in missing.fetches
        if fetch.end is None and not fetch.waiters and missing.size - fetch.pos > LONG
    ]


def _range(missing: Missing, start: int, end: int) -> Plan:
    """A range in whole pieces, without what is there and what is on its way."""
    first = max(align_down(start), missing.have.covered_before(start))
    last = align_up(end)
    following = missing.have.next_start(start)
    coming = [fetch.pos for fetch in missing.fetches if not fetch.stop and fetch.pos > start]
    bounds = [last, *coming, *(bound for bound in (missing.size, following) if bound is not None)]
    return Plan(first, max(min(bounds), start + 1))
