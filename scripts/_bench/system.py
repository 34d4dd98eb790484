"""The interface of a file system under test: how to mount a data set, what it costs, when the server has the bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .lab import Lab, Relay, cpu_seconds
from .tree import Tree


@dataclass
class Mounted:
    """A mounted data set; `pids` are the processes whose CPU time is the driver's."""

    path: Path
    pids: list[int] = field(default_factory=list)

    def cpu(self) -> float:
        """Return the CPU seconds that the driver has used so far."""
        return sum(cpu_seconds(pid) for pid in self.pids)


@dataclass
class Cost:
    """The cost of a piece of work: requests to the server and bytes from it (None: unknown), CPU seconds.

    `cpu` is the driver's; `served` is that of the server and the relay, which use the same machine.
    """

    requests: float | None = None
    moved: float | None = None
    cpu: float = 0.0
    served: float = 0.0


class System(ABC):
    """One file system. Data sets: `tree`, `big`, `git`, `saved`, and those that `writable` makes."""

    name: str
    relay: Relay | None = None

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @abstractmethod
    def mount(self, dataset: str, **options: Any) -> AbstractContextManager[Mounted]:
        """Mount a data set with empty caches; afterwards unmount it, and end its processes."""

    def writable(self, dataset: str) -> str:
        """Return a new copy of a data set that a run may change, so that the next run does not find these changes."""
        raise NotImplementedError

    def arrival(self, dataset: str, tree: Tree, since: float) -> float:
        """Wait until the server has all of `tree`; return when that was, in seconds since the epoch."""
        raise NotImplementedError

    def set_rtt(self, rtt: float) -> None:
        """Set the network's round trip, in seconds."""
        if self.relay is not None:
            self.relay.ask(rtt=rtt)

    def settle(self) -> None:
        """Wait until the background has nothing left to do."""
        if self.relay is not None:
            self.relay.quiet(for_seconds=0.5)

    @contextmanager
    def metered(self, mounted: Mounted) -> Iterator[Cost]:
        """Measure the cost of the block, including its work in the background; counted once the network is quiet."""
        cost = Cost()
        self._forget()
        before = self.relay.ask() if self.relay else {}
        cpu, served = mounted.cpu(), self._served_cpu()
        yield cost
        if self.relay is not None:
            after = self.relay.quiet()
            cost.moved = after["down"] - before["down"]
            cost.requests = self._count(after["requests"] - before["requests"])
        cost.cpu, cost.served = mounted.cpu() - cpu, self._served_cpu() - served

    def _forget(self) -> None:  # noqa: B027 - most count at the relay, by differences
        """Start to count requests from zero."""

    def _served_cpu(self) -> float:
        return cpu_seconds(self.relay.pid) if self.relay is not None else 0.0

    def _count(self, through_relay: int) -> float | None:
        return through_relay
