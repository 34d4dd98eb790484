"""What is known of servers, on disk: one file for each, and a damaged one is no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobfs.api import Known
from jobfs.api.create import Form
from jobfs.errors import UsageError
from jobfs.nodes import Kind
from jobfs.state import server

URL = "https://api.example.com"
FOUND = Known(
    forms={Kind.FILE: Form("json", False), Kind.DIRECTORY: Form("multipart", True)},
    rejects={Kind.FILE: True, Kind.DIRECTORY: False},
    moves_keep_updated_at=True,
    moves_carry=False,
)


def test_what_is_remembered_is_recalled_for_that_server_only(tmp_path: Path) -> None:
    server.remember(tmp_path, URL, FOUND)
    assert server.recall(tmp_path, URL) == FOUND
    assert server.recall(tmp_path, "https://api.example.org") == Known()
    server.remember(tmp_path, URL, Known())
    assert server.recall(tmp_path, URL) == Known()


@pytest.mark.parametrize("text", [
    "", "null", "[]", "{}", '{"base_url": "https://other"}', "\x00",
    '{"base_url": "https://api.example.com", "forms": {"file": ["xml", true]}, "rejects": {}}',
    '{"base_url": "https://api.example.com", "forms": [], "rejects": {}, "moves_keep_updated_at": 1}',
])  # fmt: skip
def test_a_file_that_is_damaged_is_as_none(tmp_path: Path, text: str) -> None:
    server.remember(tmp_path, URL, FOUND)
    (file,) = (tmp_path / "servers").glob("*.json")
    file.write_text(text)
    assert server.recall(tmp_path, URL) == Known()


def test_tries_of_one_job_go_one_at_a_time_and_have_one_id(tmp_path: Path) -> None:
    with server.trying(tmp_path, URL, "a" * 24) as first:
        with pytest.raises(UsageError, match="under way"), server.trying(tmp_path, URL, "a" * 24):
            pass
        with server.trying(tmp_path, URL, "b" * 24) as other:
            assert other != first
    with server.trying(tmp_path, URL, "a" * 24) as again:
        assert again == first


def test_a_place_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "servers").write_text("a file")
    with pytest.raises(UsageError, match="--state-dir"):
        server.remember(tmp_path, URL, FOUND)
