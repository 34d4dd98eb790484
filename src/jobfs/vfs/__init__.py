"""What each file operation means (semantics.md): the Vfs and the words its callers need."""

from jobfs.vfs.calls import Caller, OpenResult
from jobfs.vfs.core import StatFs, Vfs

__all__ = ["Caller", "OpenResult", "StatFs", "Vfs"]
