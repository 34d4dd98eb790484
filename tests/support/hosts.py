"""The machine of a mount in this process: it ends the mount, and has what survives that for the next one.

A loss of power leaves everything synced, and a random part of the rest. At each (S) of the protocol the journal is copied. When
the power is lost, only that copy is left of the journal, and of the local bytes those that were synced; a file that was not
synced may be gone, empty, full of zeros, or whole.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import pytest

from jobfs.state import localbytes
from jobfs.state.journal import ReservedSpace

from .boots import reboot
from .boundaries import Mortal, watch

#: What became of bytes that were not synced.
Fate = Literal["gone", "empty", "zeros", "whole"]
FATES: tuple[Fate, ...] = ("gone", "empty", "zeros", "whole")


class SyncedState:
    """The synced part of a started workspace's slot, kept up to date in a copy."""

    def __init__(self, work: Mortal) -> None:
        self._slot: Path = work._slot.path
        self._copy = self._slot.parent.parent.parent / f"synced-{self._slot.name}"
        self._work = work
        #: By name: how many bytes of a file are on the disk.
        self._safe: dict[str, int] = {}
        self._take()

        def observe(event: str) -> None:
            if event == "synced" and not work.boundaries.dead:
                self._take()

        watch(work.state.journal, observe)

    def _take(self) -> None:
        """Copy what the disk has now. Sizes of files say nothing about names, which are synced with the directory."""
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.mkdir()
        for path in self._slot.glob("journal.db*"):
            if not path.name.endswith("-shm"):
                shutil.copyfile(path, self._copy / path.name)
        state = self._work.state
        unsynced = {state.bytes.generation_path(*key) for key in state.bytes._unsynced}
        for path in state.bytes.directory.iterdir():
            file = state.index.file_by_number(int(path.name.split(".")[0], 16))
            named = file is not None and state.bytes.generation_path(file.ino, file.generation) == path
            if file is not None and named and path not in unsynced:
                self._safe[path.name] = file.size

    def lose_power(self, fate: Fate) -> None:
        """Replace the slot's state with what survives; the process is dead already."""
        for path in self._slot.glob("journal.db*"):
            path.unlink()
        for path in self._copy.iterdir():
            shutil.copyfile(path, self._slot / path.name)
        for path in (self._slot / "bytes").iterdir():
            safe, size = self._safe.get(path.name), path.stat().st_size
            if fate == "gone" and safe is None:
                path.unlink()
            elif fate != "whole" and size > (safe or 0):
                os.truncate(path, safe or 0)
                os.truncate(path, size if fate == "zeros" else safe or 0)


class _NoRoom(ReservedSpace):
    """The reserved space of a state directory whose disk has no room besides."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.refusals = 0

    def try_refill(self, extra: int = 0) -> bool:
        self.refusals += 1
        return False


class Host:
    """Plays the machine's acts of the list. After all but a full disk the mount is dead: `restart` once it has been buried."""

    def __init__(self, work: Mortal, fate: Fate | None = None) -> None:
        """`fate`: of bytes that were not synced; without it, the power can't be cut."""
        self._work = work
        self._synced = (SyncedState(work), fate) if fate else None
        self.power_lost = self.state_lost = False
        self._no_room = _NoRoom(work.state.journal.path.with_name("spare"))

    def kill(self) -> None:
        """Do as kill -9."""
        self._work.boundaries.dead = True

    def cut_power(self) -> None:
        """Lose what was not synced."""
        self.power_lost = True
        self.kill()

    def lose_state(self) -> None:
        """Lose the state directory for good."""
        self.state_lost = True
        self.kill()

    def fill_disk(self) -> None:
        """Leave the state directory no room but the reserved space, until `free_disk`: nothing new is recorded there."""
        self._work.state.journal.spare = self._no_room

    def free_disk(self) -> None:
        """Make room again."""
        journal = self._work.state.journal
        journal.spare = ReservedSpace(journal.path.with_name("spare"))

    @property
    def refusals(self) -> int:
        """Return how often something new found the disk full."""
        return self._no_room.refusals

    def restart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leave what has survived."""
        if self.power_lost:
            assert self._synced is not None
            synced, fate = self._synced
            synced.lose_power(fate)
            reboot(self._work.home, localbytes.BOOT + "-next", monkeypatch.setattr)
        if self.state_lost:
            shutil.rmtree(self._work.home / "state")
