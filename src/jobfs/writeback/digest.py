"""The hash that tells whether two versions have the same bytes (save-protocol.md R1)."""

from __future__ import annotations

import hashlib

from jobfs.api import Client
from jobfs.errors import NotFoundError
from jobfs.nodes import Item


def sha256_of(client: Client, item_id: str) -> str:
    """The hash, in hex, of an item's bytes as the server has them now. Raises ApiError."""
    digest = hashlib.sha256()
    with client.download(item_id) as body:
        for chunk in body.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def with_bytes(client: Client, item: Item, digest: str) -> Item | None:
    """The item as it is now, if it has these bytes and was neither written to nor moved while they were read. Raises ApiError."""
    try:
        if sha256_of(client, item.id) != digest:
            return None
        now = client.get(item.id)
    except NotFoundError:
        return None
    return now if (now.version, now.path) == (item.version, item.path) else None
