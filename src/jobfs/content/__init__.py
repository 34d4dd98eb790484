"""Contents by version: an on-disk cache with progressive download (vfs/semantics.md 3)."""

from jobfs.content.proof import StaleVersionError
from jobfs.content.store import ContentHandle, ContentStore

__all__ = ["ContentHandle", "ContentStore", "StaleVersionError"]
