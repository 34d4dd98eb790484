"""Which transfer brings a byte."""

from __future__ import annotations

from typing import Any, cast

import pytest

from jobfs.content.fetch import Fetch
from jobfs.content.plan import Missing, Plan, ahead, choose, superfluous
from jobfs.content.ranges import CHUNK, KIB, MIB, IntervalSet, Run, whole_run

SIZE = 64 * MIB


def missing(
    *have: tuple[int, int],
    fetches: tuple[Fetch, ...] = (),
    ranges: bool | None = None,
    size: int | None = SIZE,
) -> Missing:
    intervals = IntervalSet()
    for start, end in have:
        intervals.add(start, end)
    return Missing(intervals, size, list(fetches), ranges)


def fetch(pos: int, end: int | None = None) -> Fetch:
    return Fetch(cast(Any, None), cast(Any, None), pos, end)


def run(start: int, end: int) -> Run:
    made = Run()
    made.note(start, end)
    return made


def test_a_read_at_the_start_streams_the_whole_file() -> None:
    assert choose(missing(), (0, 4096), run(0, 4096)) == Plan(0, None)


def test_a_run_from_the_start_is_resumed_where_bytes_end() -> None:
    assert choose(missing((0, 5 * MIB)), (5 * MIB, 6 * MIB), whole_run()) == Plan(5 * MIB, None)


def test_a_small_file_is_always_downloaded_whole() -> None:
    plan = choose(missing(size=MIB), (900 * KIB, 901 * KIB), run(900 * KIB, 901 * KIB))
    assert plan == Plan(0, None)


def test_a_read_elsewhere_asks_for_an_aligned_range() -> None:
    at = 10 * MIB + 5000
    assert choose(missing(), (at, at + 4096), run(at, at + 4096)) == Plan(10 * MIB, 10 * MIB + 2 * CHUNK)


def test_a_range_leaves_out_what_is_there_what_comes_and_what_is_behind_the_end() -> None:
    at = 10 * MIB + 5000
    here = run(at, at + 4096)
    assert choose(missing((9 * MIB, at)), (at, at + 4096), here) == Plan(at, 10 * MIB + 2 * CHUNK)
    assert choose(missing((at + 8192, SIZE)), (at, at + 4096), here) == Plan(10 * MIB, at + 8192)
    coming = fetch(at + 8192, at + MIB)
    assert choose(missing(fetches=(coming,)), (at, at + 4096), here) == Plan(10 * MIB, at + 8192)
    end = run(SIZE - 100, SIZE)
    assert choose(missing(size=SIZE - 50), (SIZE - 100, SIZE - 50), end) == Plan(SIZE - CHUNK, SIZE - 50)


def test_the_nearest_transfer_on_its_way_is_waited_for() -> None:
    far, near = fetch(0), fetch(10 * MIB, 12 * MIB)
    at = 10 * MIB + 500 * KIB
    assert choose(missing(fetches=(far, near)), (at, at + 4096), run(at, at + 4096)) is near
    near.stop = True
    assert isinstance(choose(missing(fetches=(far, near)), (at, at + 4096), run(at, at + 4096)), Plan)


def test_without_ranges_the_stream_is_waited_for_or_begun() -> None:
    stream = fetch(0)
    at = 30 * MIB
    assert choose(missing(fetches=(stream,), ranges=False), (at, at + 1), run(at, at + 1)) is stream
    stream.pos = 40 * MIB
    assert choose(missing(fetches=(stream,), ranges=False), (at, at + 1), run(at, at + 1)) == Plan(0, None)


@pytest.mark.parametrize(("covered", "begins"), [(SIZE // 2, False), (600 * KIB, True)])
def test_a_stream_is_begun_before_a_reader_comes_to_the_end_of_what_is_there(
    covered: int, begins: bool
) -> None:
    plan = ahead(missing((0, covered)), 128 * KIB, 128 * KIB, run(0, 128 * KIB))
    assert plan == (Plan(covered, None) if begins else None)


def test_a_sequential_run_in_the_middle_is_read_ahead_and_a_single_read_is_not() -> None:
    at = 10 * MIB
    going_on = run(at, at + 128 * KIB)
    assert ahead(missing((at, at + CHUNK)), at + 128 * KIB, 128 * KIB, going_on) is None
    going_on.note(at + 128 * KIB, at + CHUNK)
    have = missing((at, at + CHUNK))
    plan = ahead(have, at + CHUNK, 128 * KIB, going_on)
    assert plan == Plan(at + CHUNK, at + CHUNK + going_on.chunk())
    assert ahead(missing((at, at + CHUNK), ranges=False), at + CHUNK, 128 * KIB, going_on) is None
    coming = missing((at, at + CHUNK), fetches=(fetch(at + CHUNK, at + MIB),))
    assert ahead(coming, at + CHUNK, 128 * KIB, going_on) is None
    assert ahead(missing((0, SIZE)), at + CHUNK, 128 * KIB, going_on) is None


def test_a_stream_is_superfluous_after_some_jumps_if_it_is_long_and_nobody_waits() -> None:
    stream, waited, piece = fetch(MIB), fetch(MIB), fetch(MIB, 2 * MIB)
    waited.waiters = 1
    state = missing(fetches=(stream, waited, piece))
    assert superfluous(state, 3) == []
    assert superfluous(state, 4) == [stream]
    stream.pos = SIZE - MIB
    assert superfluous(state, 4) == []
