"""The switches: everything that the API reference leaves open, and the conditions of the line.

One frozen dataclass holds them all; the server reads the current one at each request, so that a test (or
`POST /_emulator/behaviour`) can change it while it runs. The command line has one option for each field. It is no model of
pydantic, which would take longer to load than all of `jobfs emulator --help`.
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
        """What a value must be, if it is not; else ""."""
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
    """How the server acts where the reference is silent (api/wire.md); immutable, see `with_changes`."""

    create_existing: Literal["reject", "overwrite", "duplicate"] = _switch(
        "reject", "Create at an existing path: 400, new content in the same item, or a second item."
    )
    path_scope: Literal["all", "lifecycle"] = _switch(
        "all", "What counts as existing: any item at the path, or only one of the same lifecycle."
    )
    bad_path_status: Literal[400, 422] = _switch(
        400, "Status that answers a create or a move to an impossible path."
    )
    unknown_job: Literal["documented", 404] = _switch(
        "documented",
        "A job that does not exist: what the reference documents for each endpoint "
        "(an empty list, 404, 400 Directory not found), or 404 for all.",
    )
    find: Literal["exact", "prefix", "substring", "glob"] = _switch(
        "exact", "How find compares its argument with the paths; glob: a pattern with *, **, ?, [] and {}."
    )
    create_encodings: Literal["both", "multipart", "json"] = _switch(
        "both", "Which forms of a create's body are accepted."
    )
    other_encoding: Literal[415, 422] = _switch(
        422, "Status that answers a create in the form that is not accepted."
    )
    path_style: Literal["relative", "slash"] = _switch("relative", "Paths in answers: a/b or /a/b.")
    name_form: Literal["as_sent", "nfc", "nfd", "lower", "trimmed"] = _switch(
        "as_sent",
        "How names are kept: as they are sent, composed (NFC), decomposed (NFD), in lower case, or without blanks at their end.",
    )
    type_spelling: Literal["long", "short"] = _switch(
        "long", "Types in answers: workspaceItemFile/workspaceItemDirectory or file/directory."
    )
    envelope: Literal["workspaceItem", "item"] = _switch(
        "workspaceItem", "What an answer with one item calls it."
    )
    expert: Literal["expertDigest", "registryExpert", "studioExpert"] = _switch(
        "expertDigest", "Which of its three kinds the job's expert is shown as."
    )
    input_spelling: Literal["both", "own"] = _switch(
        "both", "Paths and types in requests: both styles accepted, or only the server's own."
    )
    sizes: Literal["present", "omitted"] = _switch("present", "Whether files show their size.")
    ranges: bool = _switch(True, "Whether a download honours Range.")
    implicit_directories: Literal["allowed", "refused"] = _switch(
        "refused", "A file whose parent directory has no item: made, or 400 Directory not found."
    )
    page_cap: int = _switch(100, "Most items on a page, whatever take says.", 1, 100)
    list_order: Literal["created", "path", "updated", "unstable"] = _switch(
        "created", "Order of the list; unstable: neighbours change places from request to request."
    )
    delete_body: Literal["null", "empty", "item", "nothing"] = _switch(
        "null", "What DELETE answers: null, {}, the item, or no bytes at all."
    )
    trailing_slash: Literal["both", "slash", "bare"] = _switch(
        "both", "Collection URLs: both forms answer, or one redirects (307) to the other."
    )
    move_touches: Literal["no", "item", "tree"] = _switch(
        "item", "Whose updatedAt a move changes: nobody's, the item's, or all that moved with it."
    )
    move_carries: bool = _switch(True, "Whether a directory that is moved takes along what is in it.")
    move_existing: Literal["reject", "replace"] = _switch(
        "reject", "Move to an existing path: 400, or what is there is deleted."
    )
    move_work: float = _switch(
        0.0, "Milliseconds between the check that the path of a move is free, and the move.", 0, 600_000
    )
    move_locked: bool = _switch(
        True,
        "Whether moves wait for each other where move_work is set; else what takes the path is not seen.",
    )
    read_only: Literal["shown", "enforced"] = _switch(
        "shown",
        "A readOnly item: only shown as one, or 400 to moving and deleting it, and to changing its lifecycle.",
    )
    updated_resolution: Literal["microseconds", "milliseconds", "seconds"] = _switch(
        "milliseconds", "Resolution of createdAt and updatedAt."
    )
    instance_items: Literal["empty", "partial", "complete"] = _switch(
        "empty", "What `items` of the instance holds."
    )
    latency: float = _switch(0.0, "Milliseconds that each request takes at least.", 0, 600_000)
    bandwidth: int = _switch(
        0, "Bytes a second that all connections share, in each of the two directions; 0: no cap.", 0
    )
    clock_skew: float = _switch(0.0, "Seconds that the server's clock is ahead of this machine's.")

    def with_changes(self, **changes: Any) -> Behaviour:
        """This behaviour with some switches set anew; ValueError, in one sentence, for what can't be."""
        for name, value in changes.items():
            if name not in SWITCHES:
                raise ValueError(f"behaviour {name}: there is no such switch")
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
