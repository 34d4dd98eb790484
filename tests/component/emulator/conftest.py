"""One server a module; each test finds it empty, without faults, and with the default switches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from jobfs.emulator import Server, running


class Wire(httpx.Client):
    """A small client that sends exactly what a test says; paths are below the job's `workspace_instance`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        base = f"{server.url}/api/studio/v1/expert_jobs/{server.job}/workspace_instance"
        key = {"Authorization": f"Bearer {server.key}"}
        super().__init__(base_url=base, headers=key, timeout=10, trust_env=False)

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
        return dict(answer.json()["data"]["workspaceItem"])

    def update(self, item_id: str, **fields: Any) -> httpx.Response:
        return self.post(f"/items/{item_id}", json=fields)

    def listed(self, **query: Any) -> list[dict[str, Any]]:
        return list(self.get("/items/", params=query).json()["data"]["workspaceItems"])

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
