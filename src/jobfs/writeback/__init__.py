"""Write-back: how a save reaches the server without ever losing a byte (save-protocol.md)."""

from jobfs.writeback.engine import WriteBack
from jobfs.writeback.inodes import WHITEOUT, FileHandle, Inode, Overlay
from jobfs.writeback.recovery import restore
from jobfs.writeback.resolve import Resolver

__all__ = ["WHITEOUT", "FileHandle", "Inode", "Overlay", "Resolver", "WriteBack", "restore"]
