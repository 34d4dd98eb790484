"""A client whose connections are all taken, so that a request must wait for one while other things happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jobfs.api.client import Client
from jobfs.api.deadline import UNBOUNDED, Deadline

from .waiting import eventually


class Crowd:
    """Holds every connection of a client until `disperse`."""

    def __init__(self, client: Client) -> None:
        self._line = client.connections
        self._ranks = [
            self._line.acquire(Deadline(UNBOUNDED), "the crowd") for _ in range(client.max_connections)
        ]

    def wait_until_queued(self) -> None:
        """Wait until a request is waiting for its connection."""
        eventually(lambda: self._line._waiting, "a request waits")

    def disperse(self) -> None:
        """Give all connections back."""
        while self._ranks:
            self._line.release(self._ranks.pop())


@contextmanager
def take_all_connections(client: Client) -> Iterator[Crowd]:
    """Take all connections for this block, or until they are given back."""
    found = Crowd(client)
    try:
        yield found
    finally:
        found.disperse()
