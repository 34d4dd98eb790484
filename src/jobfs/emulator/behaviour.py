"""The switches: everything that the API reference leaves open, and the conditions of the network.

One frozen dataclass holds them all. The server reads the current one at each request, so that a test (or `POST
/_emulator/behaviour`) can change it at run time. The command line has an option for each field. It is not a pydantic model:
importing pydantic would take longer than all of `jobfs emulator --help`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args, get_type_hints


class Switch(NamedTuple):
    """What a switch can be set to: `annotation` is bool, int, float or a Literal; numbers are from `low` to `high`."""

    default: Any
    description: str
    low: float = -math.inf
    high: float = math.inf
    annotation: Any = None

    def explain_refusal(self, value: Any) -> str:
        """Return why a value is not allowed, beginning with "must be"; "" if it is."""
        choices = get_args(self.annotation)
        if choices:
            return "" if value in choices else f"must be one of {', '.join(map(str, choices))}"
        if self.annotation is bool:
            return "" if isinstance(value, bool) else "must be true or false"
        if isinstance(value, bool) or not isinstance(value, int if self.annotation is int else int | float):
            return "must be a whole number" if self.annotation is int else "must be a number"
        return "" if self.low <= value <= self.high else f"must be from {self.low:g} to {self.high:g}"


def _switch(default: Any, description: str, low: float = -math.inf, high: float = math.inf) -> Any:
    return field(default=default, metadata={"switch": Switch(default, description, low, high)})


@dataclass(frozen=True)
class Behaviour:
    """How the server behaves where the reference leaves it open (api/wire.md). Immutable: see `with_changes`."""

    create_existing: Literal["reject", "overwrite", "duplicate"] = _switch(
        "reject", "A create at an existing path: 400, new content in the same item, or a second item."
    )
    path_scope: Literal["all", "lifecycle"] = _switch(
        "all", "Which items take a path: any at the path, or only those of the same lifecycle."
    )
    bad_path_status: Literal[400, 422] = _switch(400, "Status of a create or a move to an invalid path.")
    unknown_job: Literal["documented", 404] = _switch(
        "documented",
        "A job that does not exist: what the reference documents for each endpoint "
        "(an empty list, 404, 400 Directory not found), or 404 everywhere.",
    )
    find: Literal["exact", "prefix", "substring", "glob"] = _switch(
        "exact", "How find matches its argument with paths; glob: a pattern with *, **, ?, [] and {}."
    )
    find_missing: Literal["empty", 404] = _switch(
        "empty", "Answer of find if nothing is at the path: an empty list, or 404."
    )
    create_encodings: Literal["both", "multipart", "json"] = _switch(
        "both", "Which content types a create accepts."
    )
    other_encoding: Literal[415, 422] = _switch(422, "Status of a create with another content type.")
    path_style: Literal["relative", "slash"] = _switch("relative", "Paths in answers: a/b or /a/b.")
    name_form: Literal["as_sent", "nfc", "nfd", "lower", "trimmed"] = _switch(
        "as_sent",
        "How names are stored: as sent, composed (NFC), decomposed (NFD), in lower case, or without trailing blanks.",
    )
    type_spelling: Literal["long", "short"] = _switch(
        "long", "Types in answers: workspaceItemFile/workspaceItemDirectory or file/directory."
    )
    envelope: Literal["workspaceItem", "item"] = _switch(
        "workspaceItem", "The name of the item in answers with one item."
    )
    expert: Literal["expertDigest", "registryExpert", "studioExpert"] = _switch(
        "expertDigest", "Which of the three kinds of expert the job shows."
    )
    input_spelling: Literal["both", "own"] = _switch(
        "both", "Paths and types in requests: both styles are accepted, or only the one in answers."
    )
    sizes: Literal["present", "omitted"] = _switch("present", "Whether items of files have their size.")
    ranges: bool = _switch(True, "Whether a download honours Range.")
    implicit_directories: Literal["allowed", "refused"] = _switch(
        "refused", "A file whose parent directory has no item: created, or 400 Directory not found."
    )
    page_cap: int = _switch(100, "The maximum number of items on a page, whatever take says.", 1, 100)
    list_order: Literal["created", "path", "updated", "unstable"] = _switch(
        "created", "Order of the list; unstable: neighbours swap places between requests."
    )
    delete_body: Literal["null", "empty", "item", "nothing"] = _switch(
        "null", "The body of the answer to DELETE: null, {}, the item, or nothing."
    )
    trailing_slash: Literal["both", "slash", "bare"] = _switch(
        "both", "Collection URLs: both forms answer, or one redirects (307) to the other."
    )
    move_touches: Literal["no", "item", "tree"] = _switch(
        "item", "Whose updatedAt a move changes: none, the item's, or also that of all items moved with it."
    )
    move_carries: bool = _switch(True, "Whether a directory is moved with its contents.")
    move_existing: Literal["reject", "replace"] = _switch(
        "reject", "A move to an existing path: 400, or the item there is deleted."
    )
    move_work: float = _switch(
        0.0, "Milliseconds between the check that a move's target is free, and the move.", 0, 600_000
    )
    move_locked: bool = _switch(
        True,
        "Whether moves with move_work wait for each other; otherwise two can move to the same path.",
    )
    read_only: Literal["shown", "enforced"] = _switch(
        "shown",
        "A readOnly item: only shown as such, or 400 for moving or deleting it, or changing its lifecycle.",
    )
    updated_resolution: Literal["microseconds", "milliseconds", "seconds"] = _switch(
        "milliseconds", "Resolution of createdAt and updatedAt."
    )
    instance_items: Literal["empty", "partial", "complete"] = _switch(
        "empty", "Which items the instance includes."
    )
    latency: float = _switch(0.0, "Milliseconds that each request takes at least.", 0, 600_000)
    bandwidth: int = _switch(
        0, "Bytes per second in each direction, shared by all connections; 0: no limit.", 0
    )
    clock_skew: float = _switch(0.0, "Seconds that the server's clock is ahead of this machine's.")

    def with_changes(self, **changes: Any) -> Behaviour:
        """Return this behaviour with some switches changed. Raises ValueError for an unknown switch or a bad value."""
        for name, value in changes.items():
            if name not in SWITCHES:
                raise ValueError(f"behaviour {name}: no such switch")
            refusal = SWITCHES[name].explain_refusal(value)
            if refusal:
                raise ValueError(f"behaviour {name}: {refusal}")
        return replace(self, **changes)


_HINTS = get_type_hints(Behaviour)

#: Every switch by its name.
SWITCHES: dict[str, Switch] = {
    switch.name: switch.metadata["switch"]._replace(annotation=_HINTS[switch.name])
    for switch in fields(Behaviour)
}
