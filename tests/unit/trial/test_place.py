"""A client that sees one directory of the workspace as the whole."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from jobfs.api import Client, fixed_key
from jobfs.emulator import Server
from jobfs.errors import NotFoundError
from jobfs.nodes import Permission
from jobfs.trial import rooted
from jobfs.trial.place import _Rooted


def test_only_what_lies_below_the_root_is_seen_and_changed(server: Server, tmp_path: Path) -> None:
    server.store.seed({f"a/b/{number}": "x" for number in range(5)} | {"a/bb": "x", "other": "x"})
    (tmp_path / "source").write_bytes(b"new")
    with Client(server.url, server.job, fixed_key(server.key)) as whole:
        client = rooted(whole, "a/b")
        pages = [client.list_page(2, skip) for skip in (0, 2, 4)]
        assert [item.path for page in pages for item in page.items] == list("01234")
        assert {page.total for page in pages} == {5}
        assert [item.path for item in client.find("0")] == ["0"]
        assert client.find("bb") == client.find("other") == []
        with pytest.raises(NotFoundError):
            client.get(server.store.item("other").id)
        made = client.create_directory("sub", Permission.READ_WRITE)
        parts: list[float] = []
        file = client.create_file("sub/file", tmp_path / "source", 3, Permission.READ_WRITE, parts.append)
        assert parts
        assert (made.path, file.path, client.get(file.id)) == ("sub", "sub/file", file)
        assert client.update(file.id, path="moved").path == "moved"
        assert client.update(file.id, permission=Permission.READ_ONLY).read_only
        client.delete(made.id)
    assert server.store.read("a/b/moved") == b"new"


def test_whatever_is_about_a_path_is_seen_from_the_root() -> None:
    """A request of the client that is not mapped would reach out of the directory."""
    about_paths = {
        name
        for name, method in inspect.getmembers(Client, inspect.isfunction)
        if not name.startswith("_") and "path" in inspect.signature(method).parameters
    }
    assert about_paths | {"list_page", "get"} <= set(vars(_Rooted))
