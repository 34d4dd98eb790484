"""How a change reaches the server without ever losing a byte (save/protocol.md)."""

from jobfs.save.recovery import restore
from jobfs.save.writeback import Victim, WriteBack

__all__ = ["Victim", "WriteBack", "restore"]
