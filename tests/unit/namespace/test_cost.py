"""When a listing pays."""

from __future__ import annotations

import pytest

from jobfs.namespace.cost import Cost


def made(seconds: float = 0.0, pages: int = 1) -> Cost:
    cost = Cost(5.0, 1.0)
    cost.listed(seconds, pages)
    return cost


def test_the_effective_ttl_grows_with_the_time_that_a_listing_takes() -> None:
    """semantics 1: listing may take at most a small share of wall time: the effective TTL grows."""
    assert made(0.1).effective_ttl == 4.0
    assert made(3.0).effective_ttl == pytest.approx(30.0)


def test_one_slow_listing_does_not_count_as_a_huge_workspace() -> None:
    cost = made(0.1)
    cost.listed(20.0, 1)
    assert cost.effective_ttl == 4.0
    assert cost.listing_seconds == 20.0
    cost.listed(20.0, 1)
    cost.listed(20.0, 1)
    assert cost.effective_ttl == 200.0


@pytest.mark.parametrize(("pages", "finds"), [(1, 3), (3, 3), (10, 10)])
def test_more_finds_in_a_ttl_than_a_listing_has_requests_are_a_storm(pages: int, finds: int) -> None:
    """semantics 1: decide by cost, not by a fixed rule."""
    cost = made(0.1, pages)
    for number in range(finds):
        assert not cost.storm(10.0 + number / 100)
        cost.asked(10.0 + number / 100)
    assert cost.storm(10.5)
    assert not cost.storm(16.0)


def test_a_listing_ends_the_storm() -> None:
    cost = made()
    for _ in range(4):
        cost.asked(1.0)
    cost.listed(0.1, 1)
    assert not cost.storm(1.0)


def test_an_unknown_name_is_worth_a_listing_by_what_it_costs() -> None:
    """semantics 1: decide by cost, not by a fixed rule (an implicit directory can't be seen by find)."""
    one_page, many = made(0.1, 1), made(0.1, 20)
    assert one_page.suspicious(4.1, implicit_seen=False)
    assert not one_page.suspicious(3.9, implicit_seen=False)
    assert many.suspicious(4.1, implicit_seen=True)
    assert not many.suspicious(9.0, implicit_seen=False)
    assert many.suspicious(10.1, implicit_seen=False)


def test_a_kernel_timeout_longer_than_the_ttl_leaves_nothing_to_keep() -> None:
    assert Cost(0.5, 1.0).bound == 0.0


def test_finds_that_took_longer_than_a_listing_are_a_storm_however_few() -> None:
    """semantics 1: decide by cost, not by a fixed rule."""
    cost = made(0.12, 11)
    for number in range(3):
        assert not cost.storm(10.0 + number / 20)
        cost.asked(10.0 + number / 20)
        cost.answered(0.05)
    assert cost.storm(10.2)
    cost.listed(0.12, 11)
    assert not cost.storm(10.3)


def test_finds_that_are_far_apart_are_no_storm_however_long_they_took() -> None:
    cost = made(0.12, 11)
    for number in range(20):
        assert not cost.storm(10.0 + number * 3)
        cost.asked(10.0 + number * 3)
        cost.answered(1.0)
