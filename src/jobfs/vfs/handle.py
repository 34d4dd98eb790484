"""Handles: one for each open of a file (semantics.md section 3, Open files are pinned)."""

from __future__ import annotations

from typing import Protocol

from jobfs.nodes import Item
from jobfs.state import File


class Readable(Protocol):
    """Bytes that can be read at any offset: a cached version, or a generation of local bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`, at most `size`; short only at the end. Raises ApiError."""

    def close(self) -> None:
        """No longer needed."""


class Handle:
    """One open of a File.

    `item` is the version that it opened, or follows now; `young`: its timestamp proves little (R1). `seen` is the version that
    its program was shown: what it saves is based on that. `content` holds the bytes of `item`.
    """

    __slots__ = (
        "append", "at", "at_end", "begun", "content", "edition", "epoch", "file", "item", "readable", "seen", "writable",
        "wrote", "young",
    )  # fmt: skip

    def __init__(
        self, file: File, item: Item | None, *, readable: bool, writable: bool, append: bool
    ) -> None:
        self.file = file
        self.item = self.seen = item
        self.readable = readable
        self.writable = writable
        self.append = append
        self.young = False
        #: True once this handle changed the file since its last flush.
        self.wrote = False
        #: True once this handle has read from the start.
        self.begun = False
        #: The last read came to the end of the file.
        self.at_end = False
        #: What the view's edition was when this item was looked up; 0: not known.
        self.edition = 0
        #: Where it was opened, as the kernel's pages go, and when.
        self.at, self.epoch = "", 0
        self.content: Readable | None = None

    def go_on(self, item: Item, content: Readable) -> None:
        """What was written is the version `item` now. The caller has the File's lock."""
        if self.content is not None:
            self.content.close()
        self.content = content
        self.item = self.seen = item
        self.young = True

    def moved(self, item: Item) -> None:
        """Its item got another name through this mount: the handle goes on with it as it is now."""
        if self.item is not None and self.item.id == item.id:
            if self.seen == self.item:
                self.seen = item
            self.item = item
