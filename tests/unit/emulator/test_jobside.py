from __future__ import annotations

import pytest

from jobfs.emulator import Server


def test_a_seed_makes_the_directories_on_the_way(server: Server) -> None:
    server.store.seed({"a/b/c.txt": "text", "a/empty": None})
    assert server.store.tree() == {"a": None, "a/b": None, "a/b/c.txt": b"text", "a/empty": None}


def test_a_seed_without_directories_leaves_them_implicit(server: Server) -> None:
    server.store.seed({"a/b": "x"}, directories=False)
    assert server.store.tree() == {"a/b": b"x"}


def test_a_seed_is_unchecked_and_always_new(server: Server) -> None:
    server.store.seed({"../up": "x", "f": "1"})
    server.store.seed({"f": "2"}, lifecycle="application", owner="user", permission="readOnly", age=60)
    assert [(item.lifecycle, item.permission) for item in server.store.at("f")] == [
        ("expertJob", "readWrite"),
        ("application", "readOnly"),
    ]
    assert server.store.read("f") == b"1"
    assert server.store.exists("../up")


def test_a_write_keeps_the_id_and_a_replace_does_not(server: Server) -> None:
    first = server.store.write("d/f", "1")
    second = server.store.write("d/f", "22")
    third = server.store.replace("d/f", "3")
    assert first.id == second.id != third.id
    assert first.updated_us < second.updated_us < third.updated_us
    assert server.store.append("d/f", "+").size == 2
    assert server.store.read("d/f") == b"3+"


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


def test_a_permission_changes_the_item_that_is_shown(server: Server) -> None:
    before = server.store.write("f", "")
    after = server.store.set_permission("f", "readOnly")
    assert (after.permission, after.id) == ("readOnly", before.id)


def test_a_directory_is_made_once(server: Server) -> None:
    assert server.store.mkdir("a/b").id == server.store.mkdir("a/b").id
    with pytest.raises(KeyError):
        server.store.read("a")


def test_a_client_sees_what_the_job_does_at_once(server: Server) -> None:
    with pytest.raises(TypeError):
        server.store.set_job(no_such=1)
    assert server.store.set_job(status="failed").status == "failed"
    server.store.set_job(status="processing")
