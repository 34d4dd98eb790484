"""Merging three versions: by git alone, which nothing else configures."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from jobfs.cli.merge import CannotMergeError, merge_three_way

LINES = [f"line {number}" for number in range(9)]
BASE = "\n".join(LINES).encode() + b"\n"
OURS, THEIRS = BASE.replace(b"line 1", b"ours"), BASE.replace(b"line 7", b"theirs")


def merged(place: Path, ours: bytes = OURS, base: bytes = BASE, theirs: bytes = THEIRS) -> tuple[bytes, int]:
    return merge_three_way(place, ("-p", ours), base, ("it's", theirs), patience=10.0)


@pytest.mark.needs_program("git")
def test_changes_that_do_not_overlap_are_merged_byte_for_byte(tmp_path: Path) -> None:
    """vfs/semantics.md 4.57: line ends, and bytes that are no text, stay as they are."""
    both = OURS.replace(b"line 7", b"theirs")
    assert merged(tmp_path) == (both, 0)
    crlf = (text.replace(b"\n", b"\r\n") for text in (OURS, BASE, THEIRS))
    assert merged(tmp_path, *crlf) == (both.replace(b"\n", b"\r\n"), 0)
    latin = (text.replace(b"line 4", b"\xff\xfe") for text in (OURS, BASE, THEIRS))
    assert merged(tmp_path, *latin) == (both.replace(b"line 4", b"\xff\xfe"), 0)
    assert merged(tmp_path, OURS, BASE, OURS) == (OURS, 0)
    assert merged(tmp_path, b"", BASE, BASE) == (b"", 0)
    assert list(tmp_path.glob("merge-*")) == []


@pytest.mark.needs_program("git")
def test_overlaps_are_counted_and_marked_with_both_names(tmp_path: Path) -> None:
    """vfs/semantics.md 4.58: `-n` shows git's marks."""
    theirs = BASE.replace(b"line 1", b"other").replace(b"line 7", b"theirs")
    data, overlaps = merged(tmp_path, OURS.replace(b"line 7", b"my own"), BASE, theirs)
    assert overlaps == 2
    assert b"<<<<<<< -p\nours\n=======\nother\n>>>>>>> it's\n" in data


@pytest.mark.parametrize("which", range(3))
@pytest.mark.needs_program("git")
def test_a_file_that_git_does_not_merge_is_reported(tmp_path: Path, which: int) -> None:
    """vfs/semantics.md 4.58: a version that is binary or too large, whichever it is."""
    versions = [OURS, BASE, THEIRS]
    versions[which] = b"\0"
    with pytest.raises(CannotMergeError, match=r"^a version is binary$"):
        merged(tmp_path, *versions)
    versions[which] = b"x" * ((16 << 20) + 1)
    with pytest.raises(CannotMergeError, match=r"^a version is larger than 16MiB"):
        merged(tmp_path, *versions)


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called git, to be written by the test."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/git"
    script.touch(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return script


def test_git_runs_alone_in_a_private_directory(
    tmp_path: Path, git: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.60: copies with fixed names, mode 0700, no `GIT_*` variables, no configuration."""
    place = tmp_path / "place"
    place.mkdir()
    for name in ("GIT_DIR", "GIT_CONFIG_COUNT", "GIT_EXTERNAL_DIFF"):
        monkeypatch.setenv(name, "0")
    git.write_text("#!/bin/sh\nenv | grep ^GIT_ | sort; pwd; ls; stat -c %a .; printf '%s ' \"$@\"\n")
    lines = merged(place)[0].decode().splitlines()
    assert lines[:3] == [
        f"GIT_CEILING_DIRECTORIES={place}",
        "GIT_CONFIG_GLOBAL=/dev/null",
        "GIT_CONFIG_NOSYSTEM=1",
    ]
    assert Path(lines[3]).parent == place
    assert lines[4:8] == ["base", "ours", "theirs", "700"]
    assert lines[8] == "merge-file -p -q -L -p -L both started from -L it's ours base theirs "
    assert stat.S_ISDIR(place.stat().st_mode)
    assert list(place.iterdir()) == []


def test_a_git_that_fails_or_hangs_is_reported_and_leaves_nothing(tmp_path: Path, git: Path) -> None:
    """vfs/semantics.md 4.58: git takes more than 30 s; or says that it can't."""
    place = tmp_path / "place"
    place.mkdir()
    git.write_text("#!/bin/sh\necho 'error: odd' >&2; exit 255\n")
    with pytest.raises(CannotMergeError, match=r"^git says: error: odd$"):
        merged(place)
    git.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(CannotMergeError, match=r"^git took more than 0 s$"):
        merge_three_way(place, ("a", OURS), BASE, ("b", THEIRS), patience=0.1)
    assert list(place.iterdir()) == []


def test_a_disk_without_space_for_a_merge_is_reported(tmp_path: Path) -> None:
    """vfs/semantics.md 4.58: the copy is named with the reason, and nothing is changed."""
    with pytest.raises(
        CannotMergeError, match=f"^git can't be run in {tmp_path}/gone: No such file or directory$"
    ):
        merged(tmp_path / "gone")
