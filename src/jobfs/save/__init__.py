"""The save protocol: brings changes to the server without losing a byte (save/protocol.md)."""

from jobfs.save.recovery import restore_journal
from jobfs.save.rename import Displaced
from jobfs.save.retry import discard, retry
from jobfs.save.writeback import WriteBack

__all__ = ["Displaced", "WriteBack", "discard", "restore_journal", "retry"]
