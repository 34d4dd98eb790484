"""The rule of racy versions."""

from __future__ import annotations

import pytest

from jobfs.content.disk import racy, shows_fractions

SECOND = 1_000_000_000
CHANGED = 1_700_000_000


@pytest.mark.parametrize(
    ("updated_at", "fine"),
    [
        ("2024-05-01T12:00:00.125Z", True),
        ("2024-05-01T12:00:00.001+00:00", True),
        ("2024-05-01T12:00:00.100000Z", True),
        ("2024-05-01T12:00:00.000Z", False),
        ("2024-05-01T12:00:00Z", False),
        ("", False),
    ],
)
def test_a_fraction_other_than_zero_proves_a_fine_clock(updated_at: str, fine: bool) -> None:
    assert shows_fractions(updated_at) is fine


@pytest.mark.parametrize(
    ("after", "fine", "expected"),
    [
        (0.0, False, True),
        (1.9, False, True),
        (2.1, False, False),
        (0.01, True, True),
        (0.1, True, False),
        (-5, True, True),
    ],
)
def test_a_download_soon_after_the_change_is_racy(after: float, fine: bool, expected: bool) -> None:
    assert racy(CHANGED * SECOND, CHANGED + after, fine=fine) is expected


def test_a_time_that_cannot_be_read_is_always_racy() -> None:
    assert racy(0, CHANGED, fine=True)
