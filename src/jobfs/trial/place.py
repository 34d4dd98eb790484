"""The try's own directory: a hidden name that no mount shows, all of it gone at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

from jobfs import names
from jobfs.api.client import Client
from jobfs.errors import ApiError, NotFoundError, UnavailableError
from jobfs.namespace.listing import Lister
from jobfs.nodes import Item, Permission

#: Seconds after which what another try has left is taken away: none takes that long.
ABANDONED = 600.0
#: Looks until everything is gone, and seconds between them: a request that was broken off may be carried out late.
_LOOKS, _BETWEEN = 4, 0.3


class Place:
    """One directory in the root of the workspace."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.path = str(
            names.HiddenName(names.new_mount_id(), names.new_transaction_id(), names.Role.TRIED, "try")
        )

    def everything(self) -> list[Item]:
        """All items of the workspace. Raises ApiError."""
        with contextlib.closing(Lister(self._client)) as lister:
            return lister.read(known=list, ours=set).items

    def clear(self) -> list[str]:
        """Take all of it away, and what earlier tries have left; returns the paths that are still there. Raises ApiError."""
        left = self._left()
        for _ in range(_LOOKS):
            if not left:
                break
            self._remove(left)
            left = self._left()
            if left:
                time.sleep(_BETWEEN)
        return [item.path for item in left]

    def _left(self) -> list[Item]:
        now = time.time() + self._client.server_time_offset
        tried = [(item, names.parse_hidden(item.path.partition("/")[0])) for item in self.everything()]
        return [
            item
            for item, parts in tried
            if parts is not None
            and parts.role is names.Role.TRIED
            and (names.within(item.path, self.path) or now - item.updated_ns / 1e9 > ABANDONED)
        ]

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
