"""The switches: everything that the API reference leaves open, and the conditions of the line.

One frozen model holds them all; the server reads the current one at each request, so that a test (or
`POST /_emulator/behaviour`) can change it while it runs. The command line has one option for each field.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Behaviour(BaseModel):
    """How the server acts where the reference is silent (wire-facts.md); immutable, see `changed`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    create_existing: Literal["reject", "overwrite", "duplicate"] = Field(
        default="reject",
        description="Create at an existing path: 400, new content in the same item, or a second item.",
    )
    path_scope: Literal["all", "lifecycle"] = Field(
        default="all",
        description="What counts as existing: any item at the path, or only one of the same lifecycle.",
    )
    bad_path_status: Literal[400, 422] = Field(
        default=400, description="Status that answers a create or a move to an impossible path."
    )
    unknown_job: Literal["documented", 404] = Field(
        default="documented",
        description="A job that does not exist: what the reference documents for each endpoint "
        "(an empty list, 404, 400 Directory not found), or 404 for all.",
    )
    find: Literal["exact", "prefix", "substring", "glob"] = Field(
        default="exact",
        description="How find compares its argument with the paths; glob: a pattern with *, **, ?, [] and {}.",
    )
    create_encodings: Literal["both", "multipart", "json"] = Field(
        default="both", description="Which forms of a create's body are accepted."
    )
    other_encoding: Literal[415, 422] = Field(
        default=422, description="Status that answers a create in the form that is not accepted."
    )
    path_style: Literal["relative", "slash"] = Field(
        default="relative", description="Paths in answers: a/b or /a/b."
    )
    type_spelling: Literal["long", "short"] = Field(
        default="long",
        description="Types in answers: workspaceItemFile/workspaceItemDirectory or file/directory.",
    )
    envelope: Literal["workspaceItem", "item"] = Field(
        default="workspaceItem", description="What an answer with one item calls it."
    )
    expert: Literal["expertDigest", "registryExpert", "studioExpert"] = Field(
        default="expertDigest", description="Which of its three kinds the job's expert is shown as."
    )
    input_spelling: Literal["both", "own"] = Field(
        default="both",
        description="Paths and types in requests: both styles accepted, or only the server's own.",
    )
    sizes: Literal["present", "omitted"] = Field(
        default="present", description="Whether files show their size."
    )
    ranges: bool = Field(default=True, description="Whether a download honours Range.")
    implicit_directories: Literal["allowed", "refused"] = Field(
        default="refused",
        description="A file whose parent directory has no item: made, or 400 Directory not found.",
    )
    page_cap: int = Field(default=100, ge=1, le=100, description="Most items on a page, whatever take says.")
    list_order: Literal["created", "path", "updated", "unstable"] = Field(
        default="created",
        description="Order of the list; unstable: neighbours change places from request to request.",
    )
    delete_body: Literal["null", "empty", "item", "nothing"] = Field(
        default="null", description="What DELETE answers: null, {}, the item, or no bytes at all."
    )
    trailing_slash: Literal["both", "slash", "bare"] = Field(
        default="both", description="Collection URLs: both forms answer, or one redirects (307) to the other."
    )
    move_touches: Literal["no", "item", "tree"] = Field(
        default="item",
        description="Whose updatedAt a move changes: nobody's, the item's, or all that moved with it.",
    )
    move_carries: bool = Field(
        default=True, description="Whether a directory that is moved takes along what is in it."
    )
    updated_resolution: Literal["microseconds", "milliseconds", "seconds"] = Field(
        default="milliseconds", description="Resolution of createdAt and updatedAt."
    )
    instance_items: Literal["empty", "partial", "complete"] = Field(
        default="empty", description="What `items` of the instance holds."
    )
    latency: float = Field(
        default=0.0, ge=0, le=600_000, description="Milliseconds that each request takes at least."
    )
    bandwidth: int = Field(
        default=0,
        ge=0,
        description="Bytes a second that all connections share, in each of the two directions; 0: no cap.",
    )
    clock_skew: float = Field(
        default=0.0, description="Seconds that the server's clock is ahead of this machine's."
    )

    def changed(self, **changes: Any) -> Behaviour:
        """This behaviour with some switches set anew; ValueError, in one sentence, for what can't be."""
        try:
            return Behaviour.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"behaviour {field}: {first['msg'].lower()}") from None
