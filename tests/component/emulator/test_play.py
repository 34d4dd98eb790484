from __future__ import annotations

from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.emulator.play import Player, play_step


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
