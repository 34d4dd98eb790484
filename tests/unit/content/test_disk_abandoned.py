"""Caches that no mount will read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobfs.content.parts import claim, remove_abandoned

CONTENT = f"ab/{'ab' * 24}"


def make(directory: Path, *files: str) -> None:
    for name in files:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The cache of the mount that starts, with something in it."""
    directory = tmp_path / "cache" / "job" / "0123456789ab"
    make(directory, CONTENT, "tmp/0.part", "boot")
    (tmp_path / "state").mkdir()
    claim(directory, tmp_path / "state")
    return directory


def remove(own: Path) -> None:
    remove_abandoned(own)


def test_a_cache_goes_with_its_state_directory_and_not_before(own: Path, tmp_path: Path) -> None:
    state = tmp_path / "state" / "other"
    state.mkdir()
    other = tmp_path / "cache" / "another job" / "fedcba987654"
    make(other, CONTENT, "tmp/0.part", "boot")
    claim(other, state)
    remove(own)
    assert (other / CONTENT).exists()
    state.rmdir()
    remove(own)
    assert not other.exists()
    assert {path.name for path in own.iterdir()} == {"ab", "tmp", "boot", "owner"}
    assert (own / CONTENT).exists()
