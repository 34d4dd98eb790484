"""Hidden items that no open record explains are exposed, never deleted (save-protocol.md R4)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobfs import names
from jobfs.api import Client
from jobfs.errors import NotFoundError, PathExistsError
from jobfs.nodes import Item
from jobfs.writeback.judge import Judge
from jobfs.writeback.records import Aside

log = logging.getLogger("jobfs.writeback")

_FOUND = "found under a hidden name that no journal explains"


class Strays:
    """Gives hidden items of one mount a name that people see."""

    def __init__(
        self,
        client: Client,
        judge: Judge,
        *,
        tombstone: Callable[[str], bool],
        publish: Callable[[Item], None],
        forget: Callable[[Item], None],
    ) -> None:
        """`tombstone(transaction)`: whether that one is known to be done. `publish`, `forget` tell the namespace."""
        self._client = client
        self._judge = judge
        self._tombstone = tombstone
        self._publish = publish
        self._forget = forget

    def expose(self, item: Item, explained: Callable[[Item, names.HiddenName], bool]) -> str:
        """Look at a hidden item again and give it a name; returns what was done, "" if nothing had to be. Raises ApiError.

        `explained`: whether an open record knows the item by now.
        """
        parts = names.parse_hidden(names.basename(item.path))
        if parts is None or explained(item, parts):
            return ""
        try:
            item = self._client.get(item.id)
        except NotFoundError:
            self._forget(item)
            return ""
        if names.basename(item.path) != str(parts) or explained(item, parts):
            return ""
        if parts.role is names.Role.STAGED and self._tombstone(parts.transaction):
            self._client.delete(item.id, once=True)
            self._forget(item)
            return ""
        return self._show(item, parts)

    def _show(self, item: Item, parts: names.HiddenName) -> str:
        target = names.join(names.parent(item.path), parts.name)
        if parts.role is not names.Role.STAGED and not self._client.find(target):
            try:
                self._publish(self._client.update(item.id, path=target))
            except PathExistsError:
                pass
            else:
                log.warning("%s: found under a hidden name, put back", target)
                return f"{target}: put back"
        label = "recovered" if parts.role is names.Role.STAGED else "conflict"
        aside = Aside(item.id, 0, names.basename(item.path))
        if not self._judge.keep(aside, item, target, label, _FOUND):
            return ""
        return f"{target}: kept beside it, with .{label}- in its name"
