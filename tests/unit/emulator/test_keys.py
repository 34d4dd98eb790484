from __future__ import annotations

from pathlib import Path

import pytest

from jobfs.emulator.keys import find_key, keep_key
from jobfs.errors import UsageError


def test_a_new_key_is_shown_once_and_found_again(tmp_path: Path) -> None:
    new = find_key(tmp_path, None, None)
    assert new.key in new.source
    assert not list(tmp_path.iterdir())
    keep_key(new)
    assert (tmp_path / "api-key").stat().st_mode & 0o777 == 0o600
    again = find_key(tmp_path, None, None)
    assert again.key == new.key
    assert again.key not in again.source


def test_a_given_key_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("from-a-file\n")
    assert find_key(tmp_path, "given", None) == ("given", "as given", None)
    found = find_key(tmp_path, None, tmp_path / "k")
    assert (found.key, "from-a-file" in found.source) == ("from-a-file", False)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
def test_a_key_file_without_a_key_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "k").write_bytes(content)
    with pytest.raises(UsageError, match="key file"):
        find_key(tmp_path, None, tmp_path / "k")
