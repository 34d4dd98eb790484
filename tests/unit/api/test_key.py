from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobfs.api.key import FileKey, fixed_key, scrub
from jobfs.errors import UsageError


@pytest.mark.parametrize("key", ["", "  \n", "two words", "tab\tinside", "schlüssel", "line\nbreak"])
def test_what_could_not_stand_in_a_header_is_no_key(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        fixed_key(key)
    if key.strip():
        assert key.strip() not in str(caught.value)


def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first\n")
    key = FileKey(file)
    assert key() == "first"
    assert "first" not in repr(key)
    (tmp_path / "new").write_text("other\n")
    os.replace(tmp_path / "new", file)
    assert key() == "other"
    (tmp_path / "new").write_text("third\n")
    stat = file.stat()
    os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(tmp_path / "new", file)
    assert key() == "third", "of the same size and time, and another file"


def test_a_key_file_that_is_missing_for_a_moment_leaves_the_last_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first")
    key = FileKey(file)
    key()
    file.write_text("")
    assert key() == "first"
    file.unlink()
    assert key() == "first"
    file.write_text("second")
    assert key() == "second"


def test_a_key_file_that_never_gave_a_key_is_bad_input(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for content, told in (
        (None, "can't read the API key from .*No such file"),
        (b"", "no API key in .*key"),
        (b"\xff\xfe\x00", "not text"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UsageError, match=told):
            FileKey(file)()


def test_an_echoed_key_is_scrubbed() -> None:
    assert scrub("invalid key abc123, abc123", "abc123") == "invalid key ***, ***"
    assert scrub("nothing", "") == "nothing"
    assert scrub("workspace", "k") == "workspace"
