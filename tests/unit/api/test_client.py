from __future__ import annotations

import errno
import json
import re
from typing import Any

import httpx
import pytest

from jobfs import errors
from jobfs.nodes import Lifecycle, Permission

from .conftest import ID, MakeClient, Script, many, one, wire_item


def test_find_is_filtered_to_the_exact_path_and_may_find_several(make_client: MakeClient) -> None:
    """vfs/semantics.md 1.1: a point lookup is find, its answer filtered to the exact path."""
    script = Script(many(*map(wire_item, ("a/b", "/a/b", "a/b/c", "a/bb", "x/a/b", "A/b"))))
    assert [item.path for item in make_client(script).find("a/b")] == ["a/b", "a/b"]


PATTERNS = [
    "pages/[id].tsx",
    "a{b}",
    "a\\b",
    "[*]?",
    "notes (1).md",
    "!important",
    "#draft#",
    "a b/ü&c=d?e#f%20+;.txt",
]


@pytest.mark.parametrize("path", PATTERNS)
def test_find_finds_names_that_a_server_takes_for_patterns(make_client: MakeClient, path: str) -> None:
    """vfs/semantics.md 1.13: "not there" only if the server says so of this very name;
    one client calls the argument a pattern.
    """
    pieces = {"[": "(?!)", "{": "(?!)", "(": "(?!)", "\\": "(?!)", "*": ".*", "?": "."}

    def server(request: httpx.Request) -> httpx.Response:
        asked = request.url.params["path"]
        assert len(request.url.params) == 1
        first = "(?!)" if asked.lstrip("/").startswith(("!", "#")) else ""
        pattern = first + "".join(pieces.get(char, re.escape(char)) for char in asked)
        there = ["pages/sid].tsx", path, path + "2"]
        return many(*(wire_item(name) for name in there if re.fullmatch(pattern, name)))

    client = make_client(Script(server))
    client.find(path)
    assert [item.path for item in client.find(path)] == [path]


def test_before_an_item_was_seen_a_find_asks_in_both_styles(make_client: MakeClient) -> None:
    """vfs/semantics.md 1: "not there" only when the server said so, and it must not be a matter of style."""
    script = Script(many(), many(wire_item("/a")), many())
    client = make_client(script)
    assert [item.path for item in client.find("a")] == ["a"]
    assert client.find("b") == [], "a plain name that is not there is asked for once"
    assert script.asked == ["GET items/find?path=a", "GET items/find?path=%2Fa", "GET items/find?path=%2Fb"]


@pytest.mark.parametrize(
    "sent", [{"path": "new/place"}, {"permission": "readWrite", "lifecycle": "expertJob"}]
)
def test_an_update_sends_what_is_given_and_nothing_else(
    make_client: MakeClient, sent: dict[str, Any]
) -> None:
    script = Script(one(**sent))
    make_client(script).update(ID, **sent)
    assert script.asked == [f"POST items/{ID}"]
    assert json.loads(script.bodies[0]) == sent
    assert script.requests[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("shown", "mismatch"),
    [
        ({"path": "New"}, "path is 'New', not 'new'"),
        ({"permission": "readWrite"}, "permission is 'readWrite', not 'readOnly'"),
        ({"lifecycle": "expertJob"}, "lifecycle is 'expertJob', not 'application'"),
        ({"id": "b" * 24}, "id is"),
        ({"path": "/new/", "type": "directory", "size": None}, ""),
    ],
)
def test_an_update_that_is_answered_with_something_else_is_not_believed(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, shown: dict[str, Any], mismatch: str
) -> None:
    """vfs/semantics.md 5: a reply that does not match what was asked for; how paths are written is a matter of style."""
    wire = {"path": "new", "permission": "readOnly", "lifecycle": "application"} | shown
    client = make_client(Script(one(**wire)))

    def update() -> None:
        client.update(ID, path="new", permission=Permission.READ_ONLY, lifecycle=Lifecycle.APPLICATION)

    if not mismatch:
        update()
        return
    with pytest.raises(errors.WrongAnswerError, match=mismatch) as caught:
        update()
    assert caught.value.errno == errno.EIO
    assert "update item" in caplog.text
    assert mismatch in caplog.text


def test_an_update_speaks_the_style_of_the_servers_own_items(make_client: MakeClient) -> None:
    script = Script(one("/a"), one("/b"))
    client = make_client(script)
    client.get(ID)
    assert client.update(ID, path="b").path == "b"
    assert json.loads(script.bodies[1]) == {"path": "/b"}
