from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobfs.api.key import FileKey, fixed_key, scrub
from jobfs.errors import UsageError


@pytest.mark.parametrize("key", ["", "  \n", "two words", "tab\tinside", "schlüssel", "line\nbreak"])
def test_a_text_that_could_not_stand_in_a_header_is_no_key(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        fixed_key(key)
    if key.strip():
        assert key.strip() not in str(caught.value)


def test_a_key_file_is_read_again_and_its_last_key_kept_while_the_file_is_missing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "key"
    file.write_text("first\n")
    key = FileKey(file)
    assert key() == "first"
    assert "first" not in repr(key)
    (tmp_path / "new").write_text("other\n")
    os.replace(tmp_path / "new", file)
    assert key() == "other"
    file.write_text("")
    assert key() == "other"
    file.unlink()
    assert key() == "other"
    file.write_text("third")
    assert key() == "third"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_key_file_that_never_gave_a_key_is_bad_input(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=r"no API key in .*key: "):
        FileKey(tmp_path / "key")()


def test_an_echoed_key_is_scrubbed() -> None:
    assert scrub("invalid key abc123, abc123", "abc123") == "invalid key ***, ***"
