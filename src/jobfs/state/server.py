"""The facts that are known of a server, shared by all its mounts: `servers/<hash of its address>.json` in the state directory.

`jobfs doctor --try` finds out all facts, a mount only those that it needs, by the same functions (`trial/`).
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from jobfs.errors import UsageError
from jobfs.nodes import Kind
from jobfs.private import open_own_directory

log = logging.getLogger("jobfs.state")


class ServerFacts(BaseModel):
    """Facts of one server, the same for every job and key. The defaults mean that nothing is known, and are the safe choice.

    `rejects`: by kind, whether a create at the path of an existing item is refused. `moves_keep_updated_at`: a move does not
    change the item's `updatedAt`. `moves_refused`: a move onto an item is refused. `moves_carry`: a move of a directory takes
    along what is in it. `ranges`: a part of a file can be downloaded. None means that the server was not asked.
    """

    model_config = ConfigDict(frozen=True)

    rejects: dict[Kind, bool] = {}
    moves_keep_updated_at: bool = False
    moves_refused: bool | None = None
    moves_carry: bool | None = None
    ranges: bool | None = None


class KnownServer:
    """The facts of the server at `base_url`, in memory and on the disk. Every method may be called from any thread."""

    def __init__(self, state_dir: Path, base_url: str) -> None:
        name = hashlib.blake2b(base_url.encode(), digest_size=12).hexdigest()
        self._path = state_dir / "servers" / f"{name}.json"
        try:
            self.facts = ServerFacts.model_validate_json(self._path.read_bytes())
        except (OSError, ValueError):
            self.facts = ServerFacts()

    def learn(self, **found: object) -> None:
        """Record facts for this mount and later ones; if the disk fails, for this mount only, with a warning in the log."""
        facts = self.facts.model_copy(update=found)
        if facts == self.facts:
            return
        self.facts = facts
        try:
            with open_own_directory(self._path.parent, "state", "--state-dir"):
                self._path.write_text(facts.model_dump_json(), encoding="utf-8")
        except (OSError, UsageError) as error:
            log.warning("facts about the server can't be recorded: %s", error)
