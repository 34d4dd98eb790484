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
    with pytest.raises(UsageError, match=r"can't read the API key from .*No such file"):
        FileKey(tmp_path / "missing")()
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(UsageError, match=r"no API key in .*empty"):
        FileKey(empty)()
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not text"):
        FileKey(binary)()


def test_no_source_shows_its_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("secret")
    key = FileKey(file)
    key()
    assert "secret" not in repr(key)
    assert "secret" not in repr(fixed_key("secret"))


def test_an_echoed_key_is_scrubbed() -> None:
    assert scrub("invalid key abc123, abc123", "abc123") == "invalid key ***, ***"
    assert scrub("nothing", "") == "nothing"
    assert scrub("workspace", "k") == "workspace"
