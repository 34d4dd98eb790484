"""A try as a document to send to whoever maintains jobfs: requests and answers, without key, contents and names."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

from jobfs.api.key import scrub
from jobfs.api.watched import Exchange
from jobfs.trial.questions import Row

#: Fields of answers whose values say how the server behaves, and nothing of anyone; of others, and those below them, the
#: kind is told.
_TOLD = frozenset((
    "total", "take", "skip", "type", "lifecycle", "permission", "createdAt", "updatedAt", "mimeType",
    "size", "code", "error",
))  # fmt: skip
#: Fields that are looked into.
_OPENED = frozenset(("data", "workspaceItem", "workspaceItems", "item", "meta"))
#: Fields whose names are told.
_NAMED = _TOLD | _OPENED | {"id", "path", "owner", "key", "reason"}
_PLAIN = re.compile(r"[A-Za-z0-9 :./_+-]{0,40}", re.ASCII)
_HEADERS = (
    "content-type", "content-length", "content-range", "content-encoding", "accept-ranges", "retry-after",
)  # fmt: skip
_ID = re.compile(r"\b[A-Za-z0-9_-]{24,128}\b")
_HIDDEN = re.compile(r"\.jobfs-[^\s\"']*")
_PARTS = re.compile(r"(?<=/expert_jobs/)[^/?]+|(?<=/items/)(?!find\b)[^/?]+|(?<=path=)[^&]*")


def document(
    base_url: str, rows: Iterable[tuple[Row, Sequence[Exchange]]], ended: str, version: str, key: str
) -> str:
    """The report as JSON text. `ended`: how the try ended; `version`: of jobfs; `key`: what must not be in it."""
    facts = {
        "schema": 2,
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
                "requests": [_exchange(exchange) for exchange in exchanges],
            }
            for row, exchanges in rows
        ],
    }
    return scrub(json.dumps(facts, indent=1, ensure_ascii=False), key) + "\n"


def _exchange(exchange: Exchange) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "method": exchange.method,
        "url": _PARTS.sub("<…>", exchange.target),
        "sent": exchange.content_type.partition(";")[0],
        "seconds": round(exchange.seconds, 4),
    }
    if exchange.status is None:
        return {**shown, "failed": exchange.failed or "broken off"}
    headers = {name: exchange.headers[name][:200] for name in _HEADERS if name in exchange.headers}
    try:
        body = _shape(json.loads(exchange.body), "")
    except (ValueError, RecursionError):
        body = None  # it may be a content
    return {**shown, "status": exchange.status, "headers": headers, "body": body}


def _shape(value: Any, field: str) -> Any:
    """JSON without what is anyone's: the names of known fields, the values of a few, the kind of the others."""
    if isinstance(value, dict) and (field in _OPENED or not field):
        return {name if name in _NAMED else "<…>": _shape(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [f"<{len(value)}>", *(_shape(entry, field) for entry in value[:1])]
    if field == "reason" and isinstance(value, str):
        return _scrubbed(value)
    if field in _TOLD and (value is None or isinstance(value, int) or _PLAIN.fullmatch(str(value))):
        return value
    return f"<{type(value).__name__}>"


def _scrubbed(text: str) -> str:
    """A sentence without ids and the paths of the try."""
    return _ID.sub("<id>", _HIDDEN.sub("<path>", text))[:200]
