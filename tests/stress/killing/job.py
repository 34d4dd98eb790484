"""The job: it changes the writers' files on the server, by the acts of the list."""

from __future__ import annotations

import random
import threading

from tests.support.interferences import Scene, of
from tests.support.judge import ABSENT as NOTHING
from tests.support.judge import State, is_hidden

from jobfs import names
from jobfs.emulator import Server

from .contents import ABSENT, DIRECTORY, Content, Contents
from .ledger import Ledger

#: How often the job does what; anything else of the list once.
_SHARES = {"writes": 8, "replaces": 4, "appends": 4, "deletes": 3} | dict.fromkeys(
    ("deletes the directory", "deletes the directory and makes another"), 0.2
)
#: The ledger knows contents by their bytes: it follows neither an item that the job moves, nor another with the same bytes. And a
#: file that the job protects stays so: the writers could do nothing with it.
LEFT_OUT = {
    "touches", "protects", "makes a second item", "moves away", "moves away and makes another", "moves away and back",
}  # fmt: skip
_ACTS = {act: _SHARES.get(act.name, 1.0) for act in of("job") if act.name not in LEFT_OUT}


class Job:
    """`run` in a thread of its own. A step and its note in the ledger are one: the server's lock is held."""

    def __init__(
        self, server: Server, ledger: Ledger, contents: Contents, paths: list[str], seed: int, pause: float
    ) -> None:
        """`paths`: what it works on, there or not. `pause`: mean seconds between two steps."""
        self._side, self._ledger, self._contents, self._paths = server.store, ledger, contents, paths
        self._random, self._pause = random.Random(seed), pause

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop."""
        while not stop.wait(self._random.expovariate(1 / self._pause)):
            with self._side.lock:
                self._step(self._random.choice(self._paths))

    def _step(self, path: str) -> None:
        (act,) = self._random.choices(list(_ACTS), list(_ACTS.values()))
        is_there = self._side.exists(path)
        if (is_there and self._side.item_at(path).is_dir) or not self._side.exists(
            names.parent(path) or path
        ):
            return
        after = self._side.read(path) if is_there and act.name == "appends" else b""

        def make(before: bytes) -> bytes:
            return self._contents.make(
                "job", self._random.randrange(20, 3000), after=after, by_job=True
            ).added

        hidden = self._hidden_versions()
        for effect in act.play(Scene(path, self._side, make)):
            before, now = self._known(effect.before), self._known(effect.after)
            self._ledger.job(act.name, effect.path, before, now, same=effect.same)
        # With a directory, the job deletes the versions that a save has set aside there.
        self._ledger.destroyed |= hidden - self._hidden_versions()

    def _hidden_versions(self) -> set[Content]:
        """The job's contents in hidden files."""
        items = [item for item in self._side.items() if is_hidden(item.path) and not item.is_dir]
        contents = (self._contents.known(self._side.content_of(item.id)) for item in items)
        return {content for content in contents if content.by_job}

    def _known(self, state: State) -> Content:
        if isinstance(state, bytes):
            return self._contents.known(state)
        return ABSENT if state is NOTHING else DIRECTORY
