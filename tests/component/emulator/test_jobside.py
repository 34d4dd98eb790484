from __future__ import annotations

import pytest

from jobfs.emulator import Server


def test_a_seed_is_unchecked_and_always_new(server: Server) -> None:
    server.store.seed({"../up": "x", "f": "1"})
    server.store.seed({"f": "2"}, lifecycle="application", owner="user", permission="readOnly", age=60)
    assert [(item.lifecycle, item.permission) for item in server.store.at("f")] == [
        ("expertJob", "readWrite"),
        ("application", "readOnly"),
    ]
    assert server.store.read("f") == b"1"
    assert server.store.exists("../up")


def test_a_delete_takes_all_below_and_a_missing_path_is_a_key_error(server: Server) -> None:
    server.store.seed({"d/e/f": "", "do": ""})
    server.store.delete("d")
    assert list(server.store.tree()) == ["do"]
    for missing in (server.store.delete, server.store.read, server.store.item):
        with pytest.raises(KeyError):
            missing("d")


def test_a_move_takes_all_below_and_replaces_what_is_there(server: Server) -> None:
    server.store.seed({"a/x": "1", "b/y": "2"})
    server.store.move("a", "b")
    assert server.store.tree() == {"b": None, "b/x": b"1"}
    server.store.write("f", "new")
    server.store.move("f", "b/x")
    assert server.store.tree() == {"b": None, "b/x": b"new"}
