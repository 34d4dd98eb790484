"""How a change reaches the server without ever losing a byte (save/protocol.md)."""

from jobfs.save.recovery import restore
from jobfs.save.rename import Victim
from jobfs.save.retry import discard, retry
from jobfs.save.writeback import WriteBack

__all__ = ["Victim", "WriteBack", "discard", "restore", "retry"]
