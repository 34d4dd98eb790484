"""The hash that tells whether two versions have the same bytes (save-protocol.md R1)."""

from __future__ import annotations

import hashlib

from jobfs.api import Client


def sha256_of(client: Client, item_id: str) -> str:
    """The hash, in hex, of an item's bytes as the server has them now. Raises ApiError."""
    digest = hashlib.sha256()
    with client.download(item_id) as body:
        for chunk in body.chunks():
            digest.update(chunk)
    return digest.hexdigest()
