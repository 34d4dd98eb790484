"""The hidden paths of items that a save has renamed."""

from __future__ import annotations

from jobfs.names import Role, hidden_path

#: A mount, and a transaction of it.
MOUNT, TID = "0123456789ab", "0123456789abcdef"


def hidden(target: str, role: Role = Role.ASIDE, tid: str = TID, mount: str = MOUNT) -> str:
    """Return the hidden path of an item that a save of `target` has renamed."""
    return hidden_path(target, mount, tid, role)
