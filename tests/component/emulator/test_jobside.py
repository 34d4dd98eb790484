from __future__ import annotations

import pytest
from tests.support.waiting import eventually

from jobfs.emulator import JobSide, Server
from jobfs.emulator.play import Player, play_step
from jobfs.emulator.sample import seed_sample


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


def test_a_job_that_plays_appends_rewrites_makes_and_replaces(server: Server) -> None:
    server.store.set_job(current_step=0, status="queued")
    for step in range(1, 8):
        play_step(server.store, step)
    log, report = server.store.item("logs/run.log"), server.store.item("reports/progress.md")
    latest = server.store.item("results/latest.txt")
    for step in range(8, 15):
        play_step(server.store, step, last=step == 14)
    assert server.store.item("logs/run.log").id == log.id
    assert server.store.item("logs/run.log").size > log.size
    assert server.store.item("reports/progress.md").id == report.id
    assert server.store.item("results/latest.txt").id != latest.id
    assert [path for path in server.store.tree() if "step-" in path] == [
        f"results/step-{step:05d}.json" for step in (4, 8, 12)
    ]
    assert (server.store.job().status, server.store.job().current_step) == ("completed", 14)


def test_a_player_plays_its_steps_and_completes(server: Server) -> None:
    server.store.set_job(current_step=0, status="queued")
    player = Player(server.store, interval=0.01, steps=5)
    player.start()
    eventually(lambda: server.store.job().status == "completed")
    player.stop()
    assert server.store.read("logs/run.log").count(b"\n") == 5


def test_a_player_that_never_completes_stops_when_told(server: Server) -> None:
    player = Player(server.store, interval=3600)
    player.start()
    player.stop()
    assert server.store.items() == []


def test_the_sample_has_what_a_client_must_cope_with(server: Server) -> None:
    count = seed_sample(server.store)
    items = server.store.items()
    tree = server.store.tree()
    assert (count, len(items)) == (len(items), count)
    assert 40 < len(tree) < 99
    assert any(item.permission == "readOnly" for item in items)
    assert {item.lifecycle for item in items} == {"application", "expertJob"}
    assert [item.lifecycle for item in server.store.at("config/settings.json")] == [
        "application",
        "expertJob",
    ]
    assert any(1 << 20 < len(content) < 2 << 20 for content in tree.values() if content)
    assert any(not path.isascii() for path in tree)
    assert b"" in tree.values()
    assert tree["scratch/empty directory"] is None


def test_a_workspace_with_items_is_left_alone(server: Server) -> None:
    side: JobSide = server.store
    side.write("mine", "")
    assert seed_sample(side) == 1
