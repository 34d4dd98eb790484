"""Items, versions, inode numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobfs.nodes import clamp_ns, inode_number


@given(st.text(max_size=40))
def test_inode_numbers_are_stable_and_fit_in_63_bits(item_id: str) -> None:
    number = inode_number(item_id)
    assert number == inode_number(item_id)
    assert 2 <= number < 1 << 63


@given(st.integers())
def test_every_time_is_clamped_to_64_bits(time_ns: int) -> None:
    held = clamp_ns(time_ns)
    held.to_bytes(8, "little", signed=True)
    assert held == time_ns or abs(time_ns) > 2**63 - 1
    assert (held > 0) == (time_ns > 0)
