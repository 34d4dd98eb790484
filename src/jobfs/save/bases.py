"""Which version a save replaces, and what is known of its bytes (save/protocol.md R1, R2)."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

from jobfs.api.client import Client
from jobfs.errors import ApiError, NotFoundError, UnavailableError
from jobfs.nodes import Item, shows_fraction
from jobfs.save.context import Context
from jobfs.state import Change
from jobfs.state.records import Base

log = logging.getLogger("jobfs.save")

#: Seconds after its `updatedAt` in which a version may be written to again without another `updatedAt` (R1).
YOUNG = 2.0


def sha256_of(client: Client, item_id: str, size: int | None) -> str:
    """The hash, in hex, of an item's bytes as the server has them now; `size` as far as it is known. Raises ApiError."""
    digest = hashlib.sha256()
    with client.download(item_id, size=size) as body:
        for chunk in body.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def with_bytes(client: Client, item: Item, digest: str) -> Item | None:
    """The item as it is now, if it has these bytes and was neither written to nor moved while they were read. Raises ApiError."""
    try:
        if sha256_of(client, item.id, item.size) != digest:
            return None
        now = client.get(item.id)
    except NotFoundError:
        return None
    return now if (now.version, now.path) == (item.version, item.path) else None


class Bases:
    """One for a mount. Every method may be called from any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client = context.client
        self._content = context.content
        self._state = context.state

    def of(self, item: Item | None, *, young: bool | None = None) -> Base:
        """The base that a version shown by this mount makes for a save."""
        if item is None or item.implicit:
            return Base()
        young = self.young(item) if young is None else young
        return Base.of(item, sha256=self._known_hash(item), young=young)

    def young(self, item: Item) -> bool:
        """True if the item's timestamp is too recent to prove that its bytes did not change (R1)."""
        return self._context.age(item) < YOUNG

    def _known_hash(self, item: Item) -> str:
        """The hash of a version that was placed here, or whose bytes are on this machine, else ""."""
        file = self._state.of(item)
        if file is not None and file.sha256 and file.version == item.updated_at:
            return file.sha256
        if item.is_dir or not self._content.whole(item):
            return ""
        with self._content.open(item) as content:
            return content.sha256() or ""

    def needs_bytes(self, base: Base, there: Item) -> bool:
        """True if only its bytes will tell the base once it is set aside, and they are not known yet."""
        if base.sha256 or there.is_dir or not base.is_version(there):
            return False
        if base.young and not shows_fraction(there.updated_ns):
            return False  # the job may have written others in that second
        if not base.young and self._context.known.moves_keep_updated_at:
            return False  # its timestamp tells
        return (there.size or 0) <= self._context.cache_limit

    def learn(self, change: Change, there: Item) -> None:
        """Fetch the bytes of the base, if need be. Raises UnavailableError."""
        base = change.base
        if not self.needs_bytes(base, there):
            return
        try:
            digest = sha256_of(self._client, there.id, there.size)
            if base.is_version(self._client.get(there.id)):
                change.base = replace(base, sha256=digest)
        except UnavailableError:
            raise  # that says nothing of it, and the save is tried again
        except ApiError as error:
            log.info("%s: the bytes that are replaced can't be read: %s", change.target, error)
