"""A world for these tests: replies in the form of the reference, and a server that follows a script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from jobfs.api.client import Client
from jobfs.nodes import Item

JOB = "test12345678901234567890"
KEY = "pk_very-secret"
ID = "item00000000000000000001"
ROOT = f"/api/studio/v1/expert_jobs/{JOB}/workspace_instance/"

Handler = Callable[[httpx.Request], httpx.Response]


def wire_item(path: str = "a.txt", **fields: Any) -> dict[str, Any]:
    """An item as the reference shows it."""
    return {
        "type": "workspaceItemFile", "id": ID, "owner": "expert", "lifecycle": "expertJob",
        "permission": "readWrite", "path": path, "createdAt": "2025-11-01T10:00:00.000Z",
        "updatedAt": "2025-11-02T10:00:00.250Z", "key": "store/1", "mimeType": "text/plain", "size": 5,
        **fields,
    }  # fmt: skip


def one(path: str = "a.txt", **fields: Any) -> httpx.Response:
    """The answer to a get, create or update."""
    return httpx.Response(200, json={"data": {"workspaceItem": wire_item(path, **fields)}})


def many(*items: dict[str, Any], **meta: Any) -> httpx.Response:
    """The answer to a list or find."""
    return httpx.Response(200, json={"data": {"workspaceItems": list(items)}, "meta": meta})


def failure(status: int, reason: Any = "because", headers: dict[str, str] | None = None) -> httpx.Response:
    """An error's answer in the reference's form."""
    return httpx.Response(status, json={"code": status, "error": "X", "reason": reason}, headers=headers)


class Chunks(httpx.SyncByteStream):
    """A body in pieces, the last of which may be how it breaks off."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self.chunks = chunks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed = True


class Script:
    """Gives prepared answers in turn, the last one for ever, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception | Handler) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        with self._lock:
            self.requests.append(request)
            self.bodies.append(body)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            # A response can be consumed once; a script's last one is given again and again.
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return answer(request)

    @property
    def asked(self) -> list[str]:
        """Method and target of each request, without the part that all have in common."""
        urls = [(request.method, request.url.raw_path.decode()) for request in self.requests]
        return [f"{method} {url.removeprefix(ROOT)}" for method, url in urls]


Make = Callable[..., Client]

#: Creates a.txt, a file of five bytes.
Create = Callable[[Client], Item]
