"""A wrong answer of a server or a gateway affects only what it is about: everything else is shown and saved."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.files import errno_from
from tests.support.gateway import Asked, Gateway, Reply, gateway
from tests.support.waiting import eventually
from tests.support.workspaces import Start, wait_until_settled, workspace

from jobfs.emulator import Server


@pytest.fixture
def before(server: Server) -> Iterator[Gateway]:
    with gateway(server) as made:
        yield made


@pytest.fixture
def start(before: Gateway, tmp_path: Path) -> Iterator[Start]:
    """Starts a workspace behind the gateway."""
    with ExitStack() as stack:
        homes = iter(tmp_path / f"home{number}" for number in range(100))
        yield lambda **options: stack.enter_context(workspace(before, next(homes), **options))  # type: ignore[arg-type]
        before.answer = lambda asked: None
        before.closed.set()


def test_the_valid_fields_of_a_malformed_job_description_are_shown(before: Gateway, start: Start) -> None:
    """vfs/semantics.md 6: `jobfs status` and `.jobfs/job.json` continue to work."""
    for job in (b"[]", b'"x"', b'{"status": [[]], "id": {}}', b"[" * 150 + b"]" * 150):
        body = (
            b'{"data": {"workspaceInstance": {"countItems": "many", "expertJob": %b, "x": "\\ud800"}}}' % job
        )
        before.answer = lambda asked, body=body: Reply([body]) if asked.target == "" else None  # type: ignore[misc]
        work = start()
        json.dumps(work.vfs.status()).encode()
        assert json.loads(work.read(".jobfs/job.json"))["countItems"] == "many"


def test_a_404_of_a_gateway_is_not_a_missing_file(before: Gateway, server: Server, start: Start) -> None:
    """vfs/semantics.md 1.12, 5.14: 404 only if the API said it; known names are still served."""
    server.store.write("known.txt", b"known")
    work = start(ttl=0.1, timeout=2.0, stale_if_error=60)
    before.answer = lambda asked: Reply([b'{"message": "no Route matched"}'], 404) if asked.download else None
    assert errno_from(work.read, "known.txt") in (errno.EIO, errno.ETIMEDOUT)
    before.answer = lambda asked: None
    assert work.read("known.txt") == b"known"
    before.answer = lambda asked: Reply([b"no healthy upstream"], 404, (("Content-Type", "text/plain"),))
    eventually(lambda: work.vfs.getattr("known.txt").size == 5 and work.vfs.status()["server"]["stale"])
    work.write("known.txt", b"saved later")
    # A name that the last listing lacks is free for a while; after that nothing is known of it.
    work.write_back.namespace._stale_if_error = 0.1
    eventually(lambda: errno_from(work.vfs.getattr, "unknown.txt") in (errno.EIO, errno.ETIMEDOUT))
    before.answer = lambda asked: None
    wait_until_settled(work, {"known.txt": b"saved later"})


@pytest.mark.parametrize(("sizes", "has_length"), [("omitted", False), ("omitted", True), ("present", True)])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_open_shows_the_jobs_latest_bytes_whole_where_items_have_no_size(
    before: Gateway, server: Server, start: Start, flags: int, sizes: Any, has_length: bool
) -> None:
    """vfs/semantics.md 4, Keep both: a program that read as far as the old size has not seen what the job appended."""
    server.set(sizes=sizes, updated_resolution="seconds")
    content, more = b"0" * 10, b"the job's"

    def answer(asked: Asked) -> Reply | None:
        now = server.store.read("file")
        headers = (("Content-Length", str(len(now))),) if has_length else ()
        return Reply([now], 200, headers) if asked.download else None

    before.answer = answer
    work = start()
    server.store.seed({"file": content})
    assert work.vfs.getattr("file").size == len(content)
    server.store.append("file", more)
    opened = work.vfs.open("file", flags)
    assert work.vfs.fgetattr(opened.fh).size == len(content + more)
    assert sum(asked.download for asked in before.asked) <= 3 + bool(flags), "two measure, one is in vain"
    assert work.vfs.read(opened.fh, 100, len(content)) == more
    work.vfs.release(opened.fh)
