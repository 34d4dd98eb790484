"""What is known of a server: one record for all mounts of it, `servers/<hash of its address>.json` below the state directory.

`jobfs doctor --try` asks for all of it, a mount for what it needs, by the same functions (`trial/`).
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
    """Facts of one server, the same for every job and key; the defaults say that nothing is known, which is the careful case.

    `rejects`: whether a create at the path of an existing item of that kind is refused. `moves_keep_updated_at`: a move leaves
    the item's `updatedAt` alone. `moves_refused`: a move onto an item is refused, None if nobody has asked. `moves_carry`: a
    directory that is moved takes along what is in it. `ranges`: a part of a file can be downloaded.
    """

    model_config = ConfigDict(frozen=True)

    rejects: dict[Kind, bool] = {}
    moves_keep_updated_at: bool = False
    moves_refused: bool | None = None
    moves_carry: bool | None = None
    ranges: bool | None = None


class KnownServer:
    """The facts of the server at `base_url`, in memory and on disk. Every method may be called from any thread."""

    def __init__(self, state_dir: Path, base_url: str) -> None:
        name = hashlib.blake2b(base_url.encode(), digest_size=12).hexdigest()
        self._path = state_dir / "servers" / f"{name}.json"
        try:
            self.facts = ServerFacts.model_validate_json(self._path.read_bytes())
        except (OSError, ValueError):
            self.facts = ServerFacts()

    def learn(self, **found: object) -> None:
        """Note facts for this mount and for those to come; where the disk refuses, for this mount only."""
        facts = self.facts.model_copy(update=found)
        if facts == self.facts:
            return
        self.facts = facts
        try:
            with open_own_directory(self._path.parent, "state", "--state-dir"):
                self._path.write_text(facts.model_dump_json(), encoding="utf-8")
        except (OSError, UsageError) as error:
            log.warning("what was found out about the server can't be kept: %s", error)
