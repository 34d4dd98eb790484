from __future__ import annotations

from jobfs.emulator import RequestLog
from jobfs.emulator.log import KEPT

from .conftest import Wire


def test_an_answer_that_has_come_is_in_the_log(wire: Wire) -> None:
    item = wire.made("f", b"x")
    wire.update(item["id"], path="g")
    wire.found("g")
    wire.delete(f"/items/{item['id']}")
    wire.get("/nothing")
    log = wire.server.log
    assert [(e.method, e.operation, e.status, e.item, e.target) for e in log.entries()] == [
        ("POST", "create", 200, item["id"], "f"),
        ("POST", "update", 200, item["id"], "g"),
        ("GET", "find", 200, "", "g"),
        ("DELETE", "delete", 200, item["id"], "g"),
        ("GET", "", 404, "", ""),
    ]
    assert log.entries("find")[0].query == "path=g"
    assert [entry.operation for entry in log.changes()] == ["create", "update", "delete"]
    assert (log.count(), log.count("update")) == (5, 1)


def test_the_log_counts_all_requests_and_keeps_the_last_ones() -> None:
    log = RequestLog()
    for number in range(KEPT + 5):
        log.start("GET", "list" if number % 2 else "find", "j", f"/{number}", "")
    assert (log.count(), log.count("list")) == (KEPT + 5, KEPT // 2 + 2)
    assert [entry.path for entry in (log.entries()[0], log.entries()[-1])] == ["/5", f"/{KEPT + 4}"]
    assert log.entries()[-1].number == KEPT + 5
    log.clear()
    assert (log.count(), log.count("list")) == (0, 0)
