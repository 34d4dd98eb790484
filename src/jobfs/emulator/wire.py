"""The JSON of answers: items, pages, the instance, errors, exactly as the API reference shows them."""

from __future__ import annotations

import json
import mimetypes
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any

from .behaviour import Behaviour
from .records import DIRECTORY, FILE, Job, StoredItem

#: Spellings of the item types (api/wire.md).
LONG = {FILE: "workspaceItemFile", DIRECTORY: "workspaceItemDirectory"}
SHORT = {FILE: "file", DIRECTORY: "directory"}

_EXPERT = "sample-expert@1.0.0"
_ERRORS = {422: "Validation Failed"}
_FRACTION = {"microseconds": (1, 6), "milliseconds": (1000, 3), "seconds": (1_000_000, 3)}


def timestamp(moment_us: int, resolution: str) -> str:
    """Format a time in ISO 8601, UTC. With `seconds`, the fraction is zero, as JavaScript writes it."""
    step, digits = _FRACTION[resolution]
    moment_us -= moment_us % step
    seconds, fraction = divmod(moment_us, 1_000_000)
    shown = f"{fraction:06d}"[:digits]
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{shown}Z"


def shown_path(path: str, behaviour: Behaviour) -> str:
    """Return a path as answers show it: with a leading slash if `path_style` says so."""
    return "/" + path if behaviour.path_style == "slash" else path


def item_json(item: StoredItem, job_id: str, behaviour: Behaviour) -> bytes:
    """Return the JSON of one workspace item."""
    spelling = LONG if behaviour.type_spelling == "long" else SHORT
    fields: dict[str, Any] = {
        "type": spelling[item.kind],
        "id": item.id,
        "owner": item.owner,
        "lifecycle": item.lifecycle,
        "permission": item.permission,
        "path": shown_path(item.path, behaviour),
        "createdAt": timestamp(item.created_us, behaviour.updated_resolution),
        "updatedAt": timestamp(item.updated_us, behaviour.updated_resolution),
    }
    if not item.is_dir:
        fields["key"] = f"expert_jobs/{job_id}/workspace/{item.id}"
        fields["mimeType"] = mimetypes.guess_type(item.path)[0] or "application/octet-stream"
        if behaviour.sizes == "present":
            fields["size"] = item.size
    return json.dumps(fields, separators=(",", ":")).encode()


def envelope_json(item: bytes, envelope: str) -> bytes:
    """Return the body with one item: `data.workspaceItem`, or `data.item`."""
    return b'{"data":{"' + envelope.encode() + b'":' + item + b"}}"


def page_json(items: Iterable[bytes], meta: dict[str, float] | None = None) -> bytes:
    """Return the body with items: `data.workspaceItems`, and `meta` for a page."""
    tail = b"" if meta is None else b',"meta":' + json.dumps(meta).encode()
    return b'{"data":{"workspaceItems":[' + b",".join(items) + b"]}" + tail + b"}"


def add_odd_items(body: bytes, pattern: str, field: str, value: str) -> bytes:
    """Set `field` to the JSON `value` in each item of an answer whose path matches `pattern`; return the new body."""
    answer = json.loads(body) if body else None
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        return body
    items = data.get("workspaceItems") or data.get("workspaceInstance", {}).get("items") or data.values()
    for item in items:
        path = item.get("path") if isinstance(item, dict) else None
        if path is not None and fnmatchcase(path.removeprefix("/"), pattern):
            item[field] = json.loads(value)
    return json.dumps(answer).encode()


def error_json(status: int, reason: Any) -> bytes:
    """Return the body of an error: code, error, reason."""
    error = _ERRORS.get(status) or HTTPStatus(status).phrase
    return json.dumps({"code": status, "error": error, "reason": reason}).encode()


def invalid_json(where: str, message: str) -> bytes:
    """Return the body of a 422: `reason` is a list with each error and its place."""
    return error_json(422, [{"path": where.split("."), "message": message}])


def instance_json(job: Job, items: list[bytes], count: int, behaviour: Behaviour) -> bytes:
    """Return `data.workspaceInstance`: the job's state, the names of its variables, and all other fields of the reference."""
    resolution = behaviour.updated_resolution
    created, updated = timestamp(job.created_us, resolution), timestamp(job.updated_us, resolution)
    times = {"createdAt": created, "updatedAt": updated}
    instance = {
        "type": "workspaceInstance",
        "id": job.instance_id,
        "applicationId": job.application_id,
        "application": _application(job, times),
        "expertJob": _expert_job(job, times, behaviour.expert),
        **times,
        "items": [],
        "countItems": count,
        "envVariables": ["REGION"],
        "envSecrets": ["SERVICE_TOKEN"],
    }
    text = json.dumps({"data": {"workspaceInstance": instance}}).encode()
    return text.replace(
        b'"items": [], "countItems"', b'"items": [' + b",".join(items) + b'], "countItems"', 1
    )


def _application(job: Job, times: dict[str, str]) -> dict[str, Any]:
    organization = {
        "type": "organization",
        "id": job.organization_id,
        **times,
        "name": "local",
        "status": "active",
        "organizationType": "personal",
        "maxApplications": 1,
        "maxApiKeys": 1,
        "maxStudioExperts": 1,
    }
    return {
        "type": "application",
        "id": job.application_id,
        "organizationId": job.organization_id,
        "organization": organization,
        **times,
        "name": "local",
        "status": "active",
    }


def _expert(job: Job, times: dict[str, str], kind: str) -> dict[str, Any]:
    """Return the job's expert, as one of the three kinds in api/wire.md."""
    name, version = _EXPERT.split("@")
    shared = {
        "type": kind,
        "id": job.instance_id,
        "key": _EXPERT,
        "name": name,
        "minRuntimeVersion": "v1.0",
        "description": "An expert of the local server",
        "owner": {
            "name": "local",
            "organizationId": job.organization_id,
            "createdAt": times["createdAt"],
        },
        **times,
    }
    if kind == "expertDigest":
        return {**shared, "version": version, "tags": []}
    whole = {**shared, "instruction": "Do what is asked.", "skills": {}, "delegates": []}
    if kind == "registryExpert":
        return {**whole, "version": version, "status": "available", "tags": []}
    return {**whole, "application": _application(job, times)}


def _expert_job(job: Job, times: dict[str, str], expert: str) -> dict[str, Any]:
    tokens = 1200 * job.current_step
    return {
        "type": "expertJob",
        "id": job.id,
        "organizationId": job.organization_id,
        **times,
        "status": job.status,
        "runtimeVersion": "v1.0",
        "expertKey": _EXPERT,
        "query": job.query,
        "files": [],
        "expert": _expert(job, times, expert),
        "model": "claude-sonnet-4-5",
        "temperature": 0.3,
        "maxSteps": job.max_steps,
        "maxRetries": 3,
        "currentStep": job.current_step,
        "totalSteps": job.current_step,
        "totalDuration": max(job.updated_us - job.created_us, 0) // 1000,
        "usage": {
            "inputTokens": tokens,
            "outputTokens": tokens // 4,
            "reasoningTokens": 0,
            "totalTokens": tokens + tokens // 4,
            "cachedInputTokens": tokens // 2,
        },
        "applicationId": job.application_id,
    }
