from __future__ import annotations

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
