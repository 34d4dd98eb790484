"""A client whose server is a function; its pauses are short, and each test is a system call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobfs.api.access import fixed_key
from jobfs.api.client import Client
from jobfs.api.deadline import Pace, limit_time
from jobfs.nodes import Permission

from .world import JOB, KEY, Create, Handler, Make


@pytest.fixture(autouse=True)
def a_program_waits() -> Iterator[None]:
    """Each test is a system call; what the background does is tested in threads."""
    with limit_time():
        yield


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes clients of a Script or of any function; they are closed after the test."""
    with ExitStack() as stack:

        def made(handler: Handler, **options: Any) -> Client:
            given = {"timeout": 5.0, "transport": httpx.MockTransport(handler), **options}
            key, clock = given.pop("key", fixed_key(KEY)), given.pop("clock", time.monotonic)
            given["pace"] = Pace(clock, first_pause=0.001, longest_pause=0.002)
            base_url = given.pop("base_url", "https://api.example.test")
            return stack.enter_context(Client(base_url, JOB, key, **given))

        yield made


@pytest.fixture
def create(tmp_path: Path) -> Create:
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    return lambda client: client.create_file("a.txt", source, 5, Permission.READ_WRITE)
