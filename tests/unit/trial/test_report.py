"""The report of a try: questions, answers and requests, and nothing that is private."""

from __future__ import annotations

import json
from pathlib import Path

from jobfs.cli.trial import _logged
from jobfs.emulator import Server
from jobfs.trial.questions import Row, bad, clear, run
from jobfs.trial.report import document

from .conftest import trying

KEY = "sk-very-secret-key"


def test_a_report_shows_requests_and_answers_without_key_contents_and_names(
    server: Server, tmp_path: Path
) -> None:
    server.store.seed({"secret-plan/offer.md": "secret-content", "Ünïcode-name.txt": "x"})
    ids = [item.id for item in server.store.items()]
    server.log.clear()
    rows = []
    with trying(server, tmp_path) as trial, _logged() as log:
        for row in run(trial):
            rows.append((row, [record.getMessage() for record in log.buffer]))
            log.flush()
        clear(trial)
    text = document(server.url, rows, "asked to the end", "1.2.3", server.key)

    private = [server.key, server.job, "secret-plan", "offer.md", "secret-content", "code-name", ".jobfs-"]
    ids += [entry.item for entry in server.log.entries() if entry.item]
    assert [word for word in (*private, *ids) if word in text] == []

    report = json.loads(text)
    assert (report["jobfs"], report["server"]) == ("1.2.3", server.url)
    first, second, told, *_ = {question["name"]: question for question in report["questions"]}["existing"][
        "requests"
    ]
    assert first.startswith("POST create file '<path> ': 200, ")
    assert second.startswith("POST create file '<path> ': 400, ")
    assert told.endswith("400 Bad Request: Path already exists")


def test_a_key_that_a_server_echoes_is_not_in_the_report() -> None:
    row = Row("directory", "May a directory be made?", bad(f"refused: {KEY} is no key", ""))
    assert KEY not in document("https://api.example.com", [(row, [KEY])], "given up", "1.2.3", KEY)
