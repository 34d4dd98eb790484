"""One server a module; each test finds it empty, without faults, and with the default switches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from jobfs.emulator import Server, running


class Wire:
    """A small client that sends exactly what a test says."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.base = f"/api/studio/v1/expert_jobs/{server.job}/workspace_instance"
        self.http = httpx.Client(
            base_url=server.url,
            headers={"Authorization": f"Bearer {server.key}"},
            timeout=10,
            trust_env=False,
        )

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(self.base + path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.http.post(self.base + path, **more)

    def delete(self, path: str, **more: Any) -> httpx.Response:
        return self.http.delete(self.base + path, **more)

    def create(self, path: str, content: bytes | None = b"", **fields: str) -> httpx.Response:
        """A multipart create; None makes a directory."""
        kind = "workspaceItemDirectory" if content is None else "workspaceItemFile"
        values = {"type": kind, "path": path, "permission": "readWrite", **fields}
        parts: list[tuple[str, Any]] = [(name, (None, value)) for name, value in values.items()]
        if content is not None:
            parts.append(("file", ("name", content)))
        return self.post("/items/", files=parts)

    def made(self, path: str, content: bytes | None = b"", **fields: str) -> dict[str, Any]:
        """The item of a create that is answered 200."""
        answer = self.create(path, content, **fields)
        assert answer.status_code == 200, answer.text
        item: dict[str, Any] = answer.json()["data"]["workspaceItem"]
        return item

    def update(self, item_id: str, **fields: Any) -> httpx.Response:
        return self.post(f"/items/{item_id}", json=fields)

    def listed(self, **query: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.get("/items/", params=query).json()["data"]["workspaceItems"]
        return items

    def found(self, path: str) -> list[str]:
        answer = self.get("/items/find", params={"path": path})
        return [item["path"] for item in answer.json()["data"]["workspaceItems"]]

    def download(self, item_id: str, **headers: str) -> httpx.Response:
        return self.get(f"/items/{item_id}/download", headers=headers)


@pytest.fixture(scope="module")
def shared_wire() -> Iterator[Wire]:
    with running() as server, Wire(server) as wire:
        yield wire


@pytest.fixture
def wire(shared_wire: Wire) -> Wire:
    shared_wire.server.reset()
    return shared_wire


@pytest.fixture
def server(wire: Wire) -> Server:
    return wire.server
