"""The report of a try: requests and answers, and nothing that is private."""

from __future__ import annotations

import json
from collections.abc import Callable

from jobfs.emulator import Server
from jobfs.trial import Finding, Row, document

from .conftest import OWN, Outcome

KEY = "sk-very-secret-key"


def test_a_report_shows_requests_and_answers_without_key_contents_and_names(
    server: Server, tried: Callable[..., Outcome]
) -> None:
    server.store.seed({"secret-plan/offer.md": "secret-content", "Ünïcode-name.txt": "x"})
    server.set(instance_items="complete", list_order="unstable")
    ids = [item.id for item in server.store.items()]
    server.log.clear()
    outcome = tried()
    text = document(server.url, outcome.values(), "asked to the end", "1.2.3", server.key)

    private = [
        server.key,
        server.job,
        "secret-plan",
        "offer.md",
        "secret-content",
        "code-name",
        OWN,
        ".jobfs-",
    ]
    ids += [entry.item for entry in server.log.entries() if entry.item]
    assert [word for word in (*private, *ids) if word in text] == []

    report = json.loads(text)
    assert (report["schema"], report["jobfs"], report["server"]) == (1, "1.2.3", server.url)
    questions = {question["name"]: question for question in report["questions"]}
    assert set(questions) == set(outcome)
    assert questions["existing_file"]["facts"] == {"create_existing_file": "reject"}
    first, second, *_ = questions["existing_file"]["requests"]
    assert first["url"] == "/api/studio/v1/expert_jobs/<job>/workspace_instance/items/"
    assert (first["method"], first["status"], first["sent"]["content-type"]) == (
        "POST",
        200,
        "multipart/form-data",
    )
    assert first["body"]["data"]["workspaceItem"]["type"] == "workspaceItemFile"
    assert first["body"]["data"]["workspaceItem"]["path"] == "<path>"
    assert (second["status"], second["body"]["reason"]) == (400, "Path already exists")
    made, range_request = questions["by_range"]["requests"]
    assert made["method"] == "POST"
    assert range_request["status"] == 206
    assert range_request["body"] is None


def test_a_key_that_a_server_echoes_is_not_in_the_report() -> None:
    row = Row("job", "Is it known?", Finding(f"refused: {KEY} is no key"))
    assert KEY not in document("https://api.example.com", [row], "given up", "1.2.3", KEY)
