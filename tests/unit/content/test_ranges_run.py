"""What a handle's reads look like."""

from __future__ import annotations

from jobfs.content.ranges import CHUNK, CHUNK_MAX, KIB, MIB, Run, align_down, align_up, whole_run


def test_reads_in_order_are_one_run_that_asks_for_more_and_more() -> None:
    run = Run()
    lengths = []
    for index in range(400):
        run.note(10 * MIB + index * 128 * KIB, 10 * MIB + (index + 1) * 128 * KIB)
        lengths.append(run.chunk())
    assert run.start == 10 * MIB
    assert lengths[0] == CHUNK
    assert lengths == sorted(lengths)
    assert lengths[-1] == CHUNK_MAX
    assert run.sequential(128 * KIB)


def test_the_kernels_readahead_in_any_order_is_one_run() -> None:
    run = Run()
    run.note(128 * KIB, 256 * KIB)
    run.note(0, 128 * KIB)
    run.note(256 * KIB, 384 * KIB)
    assert (run.start, run.end) == (0, 384 * KIB)
    assert run.from_start


def test_a_jump_begins_a_new_run() -> None:
    run = Run()
    run.note(0, 4096)
    run.note(30 * MIB, 30 * MIB + 4096)
    assert not run.from_start
    assert not run.sequential(4096)
    assert run.chunk() == CHUNK


def test_a_run_from_the_start_wants_everything() -> None:
    assert whole_run().from_start
    assert not Run().from_start


def test_ranges_are_aligned_but_never_from_zero_where_that_was_not_asked() -> None:
    assert align_down(3 * CHUNK + 5) == 3 * CHUNK
    assert align_down(5000) == 5000
    assert align_up(1) == CHUNK
    assert align_up(CHUNK) == CHUNK
