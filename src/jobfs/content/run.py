"""What one handle has been reading: one thing after another, or here and there."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

#: Ranges are aligned to this, and no smaller: 4 KiB in the middle of a file cost one such piece.
CHUNK = 256 * KIB
#: The longest range that a sequential run in the middle of a file asks for at once.
CHUNK_MAX = 16 * MIB
#: A read that waits for less than this much of a running download is not worth a request of its own.
NEAR = MIB
#: The kernel's own readahead keeps two reads of 128 KiB in flight, and they arrive in any order.
_SLACK = 256 * KIB


class Run:
    """The stretch [start, end) that a handle has read in order. Races between its readers are harmless."""

    __slots__ = ("end", "start")

    def __init__(self) -> None:
        self.start = -1
        self.end = -1

    def note(self, offset: int, end: int) -> None:
        """A read of [offset, end) came: it goes on with the run, or begins a new one."""
        if self.end >= 0 and self.end - _SLACK <= offset <= self.end + _SLACK:
            self.start = min(self.start, offset)
            self.end = max(self.end, end)
        else:
            self.start, self.end = offset, end

    @property
    def from_start(self) -> bool:
        """True if the file is being read from its beginning: the whole of it is wanted."""
        return self.start == 0

    def chunk(self) -> int:
        """How many bytes to ask for at once: twice the length of the run, within bounds."""
        length = max(self.end - self.start, 0)
        return min(max(2 * length // CHUNK * CHUNK, CHUNK), CHUNK_MAX)

    def sequential(self, asked: int) -> bool:
        """True if this is a run of more than one read of `asked` bytes."""
        return self.end - self.start > asked


def whole_run() -> Run:
    """The run of somebody who wants everything."""
    run = Run()
    run.start, run.end = 0, 0
    return run


def align_down(position: int) -> int:
    """The piece boundary at or before `position`; `position` itself in the very first piece, where a range
    from 0 would be the whole file."""
    return position // CHUNK * CHUNK or position


def align_up(position: int) -> int:
    """The piece boundary at or after `position`."""
    return -(-position // CHUNK) * CHUNK
