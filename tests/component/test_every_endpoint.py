"""The client against the local server, under settings of its switches that together cover what is left open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobfs import errors
from jobfs.api.access import fixed_key
from jobfs.api.client import Client
from jobfs.emulator import Server
from jobfs.nodes import Permission

RW = Permission.READ_WRITE

SETTINGS: list[dict[str, Any]] = [
    {},
    {"path_style": "slash", "type_spelling": "short", "input_spelling": "own", "create_encodings": "json"},
    {"path_style": "slash", "input_spelling": "own", "trailing_slash": "bare", "delete_body": "nothing"},
    {"create_encodings": "json", "other_encoding": 415, "find": "glob", "bad_path_status": 422},
    {"unknown_job": 404, "expert": "studioExpert", "instance_items": "partial"},
    {"type_spelling": "short", "input_spelling": "own", "create_encodings": "multipart", "find": "substring"},
    {"create_encodings": "json", "other_encoding": 422, "trailing_slash": "slash", "delete_body": "item"},
    {"find": "prefix", "sizes": "omitted", "ranges": False, "page_cap": 2, "delete_body": "empty"},
    {"updated_resolution": "seconds", "instance_items": "complete", "create_encodings": "multipart"},
]


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, server.job, fixed_key(server.key), timeout=10) as client:
        yield client


@pytest.mark.parametrize("switches", SETTINGS)
def test_every_endpoint_works_under_every_switch(
    server: Server, client: Client, tmp_path: Path, switches: dict[str, Any]
) -> None:
    server.set(**switches)
    source = tmp_path / "source"
    source.write_bytes(content := bytes(range(256)) * 40)

    directory = client.create_directory("dir", RW)
    item = client.create_file("dir/ü b.txt", source, len(content), RW)
    client.create_file("dir/ü b.txt.more", source, 0, RW)
    assert (directory.path, directory.is_dir, item.path, item.is_dir) == ("dir", True, "dir/ü b.txt", False)
    assert item.size in (len(content), None)
    assert item.updated_ns > 0
    assert server.store.tree() == {"dir": None, "dir/ü b.txt": content, "dir/ü b.txt.more": b""}

    assert client.instance().count_items == 3
    assert client.get(item.id) == item
    assert client.find("dir/ü b.txt") == [item]
    assert client.find("ü b.txt") == []
    pages = [client.list_page(2, skip) for skip in (0, 2)]
    assert sorted(found.path for page in pages for found in page.items) == sorted(server.store.tree())
    assert {page.total for page in pages} == {3}

    with client.download(item.id) as download:
        assert b"".join(download.chunks()) == content
    with client.download(item.id, 100, 300) as download:
        assert content[download.start :].startswith(b"".join(download.chunks()))

    moved = client.update(item.id, path="c.txt", permission=Permission.READ_ONLY)
    assert (moved.id, moved.path, moved.read_only) == (item.id, "c.txt", True)
    with pytest.raises(errors.PathExistsError):
        client.update(directory.id, path="c.txt")
    with pytest.raises(errors.NoDirectoryError):
        client.create_file("none/x", source, 1, RW)
    client.delete(directory.id)
    with pytest.raises(errors.NotFoundError):
        client.get(directory.id)
    assert set(server.store.tree()) == {"c.txt"}
