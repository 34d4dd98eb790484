"""What is known of the kernel's sizes (fuse.sizes): unknown wherever two answers may have arrived in either order."""

from __future__ import annotations

from jobfs.fuse.sizes import KernelSizes

NODE = 11


def test_the_last_of_several_replies_counts() -> None:
    sizes = KernelSizes()
    assert sizes.get(NODE) is None
    assert not sizes.may_differ(NODE, 10), "the kernel has no size of a node that it was never sent"
    for size in (10, 20, 0):
        sizes.note_sent(NODE, size, sizes.logical_clock)
        assert sizes.get(NODE) == size
        assert (sizes.may_differ(NODE, size), sizes.may_differ(NODE, size + 1)) == (False, True)
    assert sizes.get(NODE + 1) is None


def test_overlapping_replies_with_different_sizes_are_not_trusted() -> None:
    """vfs/semantics.md 3.17: the kernel drops one of them, and this process can't see which."""
    sizes = KernelSizes()
    began = sizes.logical_clock
    sizes.note_sent(NODE, 10, began)
    sizes.note_sent(NODE, 10, began)
    assert sizes.get(NODE) == 10, "it makes no difference which one was dropped"
    sizes.note_sent(NODE, 20, began)
    assert (sizes.get(NODE), sizes.may_differ(NODE, 20)) == (None, True)
    sizes.note_sent(NODE, 20, sizes.logical_clock)
    assert sizes.get(NODE) == 20
    began = sizes.logical_clock
    sizes.note_sent(NODE, 20, sizes.logical_clock)
    sizes.note_sent(NODE, 10, began)
    assert sizes.get(NODE) is None, "the same size once more is an answer too"


def test_a_reply_about_one_node_says_nothing_about_another() -> None:
    sizes = KernelSizes()
    began = sizes.logical_clock
    sizes.note_sent(NODE, 10, began)
    sizes.note_sent(NODE + 1, 20, began)
    assert (sizes.get(NODE), sizes.get(NODE + 1)) == (10, 20)


def test_writes_raise_a_known_size() -> None:
    sizes = KernelSizes()
    sizes.note_growth(NODE, 5)
    assert sizes.get(NODE) is None
    sizes.note_sent(NODE, 10, sizes.logical_clock)
    began = sizes.logical_clock
    sizes.note_growth(NODE, 5)
    assert sizes.get(NODE) == 10
    sizes.note_growth(NODE, 15)
    assert sizes.get(NODE) == 15
    sizes.note_sent(NODE, 10, began)
    assert sizes.get(NODE) is None, "the kernel drops what it was sent while the file was written"


def test_a_short_read_can_lower_the_size() -> None:
    sizes = KernelSizes()
    sizes.note_end_read(NODE, 3)
    assert not sizes.may_differ(NODE, 3)
    sizes.note_sent(NODE, 10, sizes.logical_clock)
    sizes.note_end_read(NODE, 10)
    assert sizes.get(NODE) == 10
    sizes.note_end_read(NODE, 9)
    assert (sizes.get(NODE), sizes.may_differ(NODE, 9)) == (None, True)


def test_the_number_of_remembered_nodes_is_bounded() -> None:
    sizes = KernelSizes(max_count=2)
    for node in (1, 2, 1, 3):
        sizes.note_sent(node, node, sizes.logical_clock)
    assert [sizes.get(node) for node in (1, 2, 3)] == [None, 2, 3]
