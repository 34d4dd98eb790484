from __future__ import annotations

import pytest

from jobfs.emulator import Server
from jobfs.emulator.play import play_step


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
