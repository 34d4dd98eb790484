"""The try's own directory: a hidden name that no mount shows, and everything in it gone at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable

from jobfs import names
from jobfs.api import Client
from jobfs.errors import ApiError, NotFoundError, UnavailableError
from jobfs.nodes import Item, Permission
from jobfs.trial.listing import everything

#: Seconds after which what a try on another machine has left is taken away: none takes that long.
_ABANDONED = 3600.0
#: Looks until everything is gone: a request that was broken off may be carried out late.
_LOOKS = 4
_BETWEEN = 0.3


class Place:
    """One directory in the root of the workspace; `own` is the id of this machine's tries, 12 hex digits."""

    def __init__(self, client: Client, own: str) -> None:
        self._client = client
        self._own = own
        name = names.HiddenName(own, names.new_transaction_id(), names.Role.TRIED, "try")
        self.path = str(name)

    def left(self) -> list[Item]:
        """What tries of this machine, or long ago of another, have in the workspace, this one's too. Raises ApiError."""
        now = time.time() + self._client.server_time_offset
        return [item for item in everything(self._client) if self._ours(item, now)]

    def clear(self) -> list[str]:
        """Take all of it away; returns the paths that are still there after some looks. Raises ApiError."""
        left = self.left()
        for look in range(_LOOKS):
            if not left:
                break
            # A directory goes with what is in it, by the reference; what stays all the same goes one by one.
            self._remove(left if look else [item for item in left if "/" not in item.path] or left)
            left = self.left()
            if left and look:
                time.sleep(_BETWEEN)
        return [item.path for item in left]

    def _ours(self, item: Item, now: float) -> bool:
        parts = names.parse_hidden(item.path.partition("/")[0])
        if parts is None or parts.role is not names.Role.TRIED:
            return False
        return parts.mount == self._own or now - item.updated_ns / 1e9 > _ABANDONED

    def _remove(self, items: Iterable[Item]) -> None:
        """Delete what lies deepest first; what is refused is left, for the next look to see. Raises UnavailableError."""
        for item in sorted(items, key=lambda item: item.path.count("/"), reverse=True):
            try:
                self._delete(item)
            except UnavailableError:
                raise
            except ApiError:
                continue

    def _delete(self, item: Item) -> None:
        try:
            self._client.delete(item.id)
        except (NotFoundError, UnavailableError):
            raise
        except ApiError:
            # It may be that it is read-only.
            self._client.update(item.id, permission=Permission.READ_WRITE)
            self._client.delete(item.id)
