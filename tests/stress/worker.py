"""One of several programs that work in a tree at once: it does things at random, and checks what it reads.

Called with the tree, its number, a seed and how many operations; it prints what must be there afterwards, as JSON. Each
file names itself and bears its own checksum, so that whoever reads it sees whether it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import sys

SHARED = "shared"
#: Names in the shared directory that every worker renames files over.
SLOTS = 3


def content(label: str, size: int) -> bytes:
    """Bytes that name themselves and can be checked."""
    unit = hashlib.sha256(label.encode()).digest()
    body = f"{label}\n".encode() + (unit * (size // len(unit) + 1))[:size]
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def label_of(data: bytes) -> str:
    """The label of bytes that `content` made; ValueError if they are not whole."""
    claimed, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != claimed:
        raise ValueError(f"torn: {data[:100]!r}, {len(data)} bytes")
    return body.partition(b"\n")[0].decode()


class Worker:
    """What one program does, and what it knows of its own files."""

    def __init__(self, tree: str, number: int, seed: int) -> None:
        os.chdir(tree)
        self._number = number
        self._chance = random.Random(seed * 1000 + number)
        self._home = f"own{number}"
        #: Path to label of every file that only this worker touches.
        self.own: dict[str, str] = {}
        self.directories = {self._home}
        #: Labels that this worker has put under shared names.
        self.shared: list[str] = []
        self._count = 0
        os.mkdir(self._home)

    def step(self) -> None:
        """One random operation."""
        actions = [
            self.write,
            self.write,
            self.read,
            self.read,
            self.move,
            self.share,
            self.look,
            self.remove,
        ]
        self._chance.choice([*actions, self.rewrite, self.append_a_new_one, self.make_directory])()

    def _label(self) -> str:
        self._count += 1
        return f"{self._number}-{self._count}"

    def _name(self) -> str:
        return f"{self._chance.choice(sorted(self.directories))}/f{self._chance.randrange(12)}"

    def _put(self, path: str, *, sync: bool) -> str:
        label = self._label()
        with open(path, "wb") as file:
            file.write(content(label, self._chance.choice([0, 10, 5000, 40_000])))
            if sync:
                file.flush()
                os.fsync(file.fileno())
        return label

    def write(self) -> None:
        path = self._name()
        self.own[path] = self._put(path, sync=self._chance.random() < 0.1)

    def rewrite(self) -> None:
        """As an editor: a new file renamed over the old one."""
        path = self._name()
        label = self._put(f"{path}.new", sync=True)
        os.rename(f"{path}.new", path)
        self.own[path] = label

    def append_a_new_one(self) -> None:
        """In two pieces, with the file closed between them."""
        path, label = self._name(), self._label()
        data = content(label, 3000)
        with open(path, "wb") as file:
            file.write(data[:1000])
        with open(path, "ab") as file:
            file.write(data[1000:])
        self.own[path] = label

    def read(self) -> None:
        if self.own:
            path = self._chance.choice(sorted(self.own))
            self._check(path, self.own[path])

    @staticmethod
    def _check(path: str, label: str) -> None:
        with open(path, "rb") as file:
            found = label_of(file.read())
        if found != label:
            raise ValueError(f"{path} is {found} instead of {label}")

    def move(self) -> None:
        if self.own:
            old, new = self._chance.choice(sorted(self.own)), self._name()
            os.rename(old, new)
            self.own[new] = self.own.pop(old)

    def share(self) -> None:
        """A file of one's own renamed over a name that all use."""
        if self.own:
            path = self._chance.choice(sorted(self.own))
            self.shared.append(self.own.pop(path))
            os.rename(path, f"{SHARED}/slot{self._chance.randrange(SLOTS)}")

    def look(self) -> None:
        """Whatever is under a shared name is whole, whoever put it there."""
        slot = f"{SHARED}/slot{self._chance.randrange(SLOTS)}"
        try:
            self._look_at(slot)
        except OSError as error:
            # Two renames met it, each between the kernel's look at the name and its open: it looks again only once.
            if error.errno != errno.ESTALE:
                raise
            self._look_at(slot)

    @staticmethod
    def _look_at(slot: str) -> None:
        try:
            with open(slot, "rb") as file:
                label_of(file.read())
        except FileNotFoundError:
            return

    def remove(self) -> None:
        if self.own:
            path = self._chance.choice(sorted(self.own))
            os.unlink(path)
            del self.own[path]

    def make_directory(self) -> None:
        path = f"{self._chance.choice(sorted(self.directories))}/d{self._chance.randrange(3)}"
        if path not in self.directories and path.count("/") < 4:
            os.mkdir(path)
            self.directories.add(path)

    def check_all(self) -> None:
        """Everything of one's own is there."""
        for path, label in self.own.items():
            self._check(path, label)
        for directory in self.directories:
            names = {name for name in os.listdir(directory) if f"{directory}/{name}" not in self.directories}
            known = {os.path.basename(path) for path in self.own if os.path.dirname(path) == directory}
            if names != known:
                raise ValueError(f"{directory} has {sorted(names)} instead of {sorted(known)}")


def main(tree: str, number: int, seed: int, operations: int) -> None:
    """Work, then say what must be there."""
    worker = Worker(tree, number, seed)
    for _ in range(operations):
        worker.step()
    worker.check_all()
    print(json.dumps({"own": worker.own, "directories": sorted(worker.directories), "shared": worker.shared}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
