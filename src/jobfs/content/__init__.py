"""Contents by version: an on-disk cache with progressive download (semantics.md section 3)."""

from jobfs.content.link import StaleVersionError
from jobfs.content.store import Content, ContentStore

__all__ = ["Content", "ContentStore", "StaleVersionError"]
