"""A try as a document to send to the maintainers of jobfs: questions, answers and requests, without key, ids and names."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence

from jobfs.api.key import scrub
from jobfs.trial.questions import Row

_ID = re.compile(r"\b[A-Za-z0-9_-]{24,128}\b")
_HIDDEN = re.compile(r"\.jobfs-[^\s\"']*")


def document(
    base_url: str, rows: Iterable[tuple[Row, Sequence[str]]], ended: str, version: str, key: str
) -> str:
    """The report as JSON text, with what the client logged of each question's requests.

    `ended`: how the try ended; `version`: of jobfs; `key`: what must not be in it.
    """
    facts = {
        "schema": 3,
        "jobfs": version,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "server": base_url,
        "ended": ended,
        "questions": [
            {
                "name": row.name,
                "asked": row.asked,
                "answered": _scrubbed(row.finding.answered),
                "verdict": str(row.finding.verdict),
                "requests": [_scrubbed(line) for line in lines],
            }
            for row, lines in rows
        ],
    }
    return scrub(json.dumps(facts, indent=1, ensure_ascii=False), key) + "\n"


def _scrubbed(text: str) -> str:
    """A sentence without ids and the paths of the try."""
    return _ID.sub("<id>", _HIDDEN.sub("<path>", text))[:200]
