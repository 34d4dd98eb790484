"""A client whose server is a function, and one whose server is a real socket that follows a script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from jobfs.api import deadline
from jobfs.api.access import fixed_key
from jobfs.api.client import Client
from jobfs.api.deadline import limit_time

JOB = "test12345678901234567890"
KEY = "pk_very-secret"
ID = "item00000000000000000001"
ROOT = f"/api/studio/v1/expert_jobs/{JOB}/workspace_instance/"

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(deadline, "LONGEST_PAUSE", 0.002)


@pytest.fixture(autouse=True)
def a_program_waits() -> Iterator[None]:
    """Each test is a system call; what the background does is tested in threads."""
    with limit_time():
        yield


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


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes clients of a Script or of any function; they are closed after the test."""
    with ExitStack() as stack:

        def made(handler: Handler, **options: Any) -> Client:
            given = {"timeout": 5.0, "transport": httpx.MockTransport(handler), **options}
            key = given.pop("key", fixed_key(KEY))
            base_url = given.pop("base_url", "https://api.example.test")
            return stack.enter_context(Client(base_url, JOB, key, **given))

        yield made
