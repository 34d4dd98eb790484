"""A try as a document to send to whoever maintains jobfs: requests and answers, without key, contents and names."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from typing import Any

from jobfs.api.key import scrub
from jobfs.api.watched import Exchange
from jobfs.trial.asking import Row

#: Fields of the API reference: others' names may be anything.
_FIELDS = frozenset((
    "data", "workspaceItem", "workspaceItems", "workspaceInstance", "item", "items", "meta", "total",
    "take", "skip", "type", "id", "owner", "lifecycle", "permission", "path", "createdAt", "updatedAt",
    "key", "mimeType", "size", "code", "error", "reason", "countItems", "expertJob", "expert", "status",
    "application", "organization", "applicationId", "organizationId", "runtimeVersion", "expertKey",
    "query", "files", "model", "temperature", "maxSteps", "maxRetries", "currentStep", "totalSteps",
    "totalDuration", "usage", "envVariables", "envSecrets", "content", "message",
))  # fmt: skip
#: Fields whose values say how the server behaves, and nothing of anyone.
_TOLD = frozenset((
    "total", "take", "skip", "type", "lifecycle", "permission", "createdAt", "updatedAt", "mimeType",
    "size", "code", "error", "countItems", "status", "runtimeVersion",
))  # fmt: skip
_PLAIN = re.compile(r"[A-Za-z0-9 :./_+-]{0,40}", re.ASCII)
_HEADERS = (
    "content-type",
    "content-length",
    "content-range",
    "content-encoding",
    "accept-ranges",
    "retry-after",
    "location",
)
_ID = re.compile(r"\b[A-Za-z0-9_-]{24,128}\b")
_HIDDEN = re.compile(r"\.jobfs-[^\s\"']*")
_PARTS = re.compile(r"(/expert_jobs/)[^/?]+|(/items/)(?!find\b)[^/?]+|([?&]path=(?:%2F)?)[^&]*")
_LONGEST = 200


def document(base_url: str, rows: Iterable[Row], ended: str, version: str, key: str) -> str:
    """The report as JSON text. `ended`: how the try ended; `version`: of jobfs; `key`: what must not be in it."""
    facts = {
        "schema": 1,
        "jobfs": version,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "server": base_url,
        "ended": ended,
        "questions": [_row(row) for row in rows],
    }
    return scrub(json.dumps(facts, indent=1, ensure_ascii=False), key) + "\n"


def _row(row: Row) -> dict[str, Any]:
    finding = row.finding
    return {
        "name": row.name,
        "asked": row.asked,
        "answered": _scrubbed(finding.answered),
        "verdict": str(finding.verdict),
        "meaning": finding.meaning,
        "facts": dict(finding.facts),
        "requests": [_exchange(exchange) for exchange in row.exchanges],
    }


def _exchange(exchange: Exchange) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "method": exchange.method,
        "url": _PARTS.sub(_hide, exchange.target),
        "seconds": round(exchange.seconds, 4),
    }
    if exchange.length:
        kind = exchange.content_type.partition(";")[0]
        shown["sent"] = {"content-type": kind, "bytes": exchange.length}
        if kind == "application/json":
            shown["sent"]["body"] = _body(bytes(exchange.sent))
    if exchange.status is None:
        return {**shown, "failed": exchange.failed or "broken off"}
    headers = {name: _header(name, exchange.headers[name]) for name in _HEADERS if name in exchange.headers}
    return {
        **shown,
        "status": exchange.status,
        "headers": headers,
        "bytes": exchange.came,
        "body": _body(exchange.body),
    }


def _hide(match: re.Match[str]) -> str:
    jobs, items, path = match.groups()
    return f"{jobs}<job>" if jobs else f"{items}<id>" if items else f"{path}<path>"


def _header(name: str, value: str) -> str:
    return _PARTS.sub(_hide, _scrubbed(value)) if name == "location" else value[:_LONGEST]


def _body(body: bytes) -> Any:
    """The shape of JSON; of anything else nothing, for it may be a content."""
    try:
        return _shape(json.loads(body), "")
    except (ValueError, RecursionError):
        return None


def _shape(value: Any, field: str) -> Any:
    """JSON without what is anyone's: the names of known fields, the values of a few, how many there are of the others."""
    if isinstance(value, dict):
        return _object(value)
    if isinstance(value, list):
        first = next((entry for entry in value if isinstance(entry, dict)), None)
        return {"<count>": len(value)} | ({} if first is None else {"<first>": _object(first)})
    if isinstance(value, str):
        return _text(value, field)
    return value if value is None or isinstance(value, bool) or field in _TOLD else "<number>"


def _object(value: dict[str, Any]) -> dict[str, Any]:
    shown = {name: _shape(inner, name) for name, inner in value.items() if name in _FIELDS}
    return shown | ({"<others>": len(value) - len(shown)} if len(shown) < len(value) else {})


def _text(value: str, field: str) -> str:
    if field in ("reason", "message"):
        return _scrubbed(value)
    if field == "path":
        return "</path>" if value.startswith("/") else "<path>"
    if field in _TOLD and _PLAIN.fullmatch(value):
        return value
    return f"<{len(value)} characters>"


def _scrubbed(text: str) -> str:
    """A sentence without ids and the paths of the try."""
    return _ID.sub("<id>", _HIDDEN.sub("<path>", text))[:_LONGEST]
