"""What is known of servers, on disk: one file for each, and a damaged one is no harm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobfs.nodes import Kind
from jobfs.state.server import KnownServer, ServerFacts

URL = "https://api.example.com"


def test_learned_facts_apply_only_to_their_server(tmp_path: Path) -> None:
    KnownServer(tmp_path, URL).learn(rejects={Kind.FILE: True, Kind.DIRECTORY: False})
    KnownServer(tmp_path, URL).learn(moves_keep_updated_at=True, ranges=False)
    assert KnownServer(tmp_path, URL).facts == ServerFacts(
        rejects={Kind.FILE: True, Kind.DIRECTORY: False}, moves_keep_updated_at=True, ranges=False
    )
    assert KnownServer(tmp_path, "https://api.example.org").facts == ServerFacts()


@pytest.mark.parametrize("text", ["", "null", "[]", "\x00", '{"rejects": {"file": "perhaps"}}'])
def test_a_damaged_file_is_treated_as_missing(tmp_path: Path, text: str) -> None:
    KnownServer(tmp_path, URL).learn(ranges=True)
    next((tmp_path / "servers").glob("*.json")).write_text(text)
    assert KnownServer(tmp_path, URL).facts == ServerFacts()


@pytest.mark.parametrize("why", ["Not a directory", "the state directory .* --state-dir"])
def test_facts_that_cannot_be_stored_apply_to_this_mount(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    if why == "Not a directory":
        (tmp_path / "servers").write_text("a file")
    else:
        tmp_path.chmod(0o777)
    known = KnownServer(tmp_path, URL)
    known.learn(ranges=True)
    assert known.facts.ranges
    assert re.match(f"facts about the server can't be recorded: .*{why}", caplog.messages[0])
