"""Wire models: pydantic reads the server's replies as leniently as api/wire.md says; they become the types of nodes.py.

Fields that are not read are skipped, and no objects are made for them, so the size of a reply bounds the memory it takes.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    StringConstraints,
    ValidationError,
)
from pydantic_core import CoreSchema, core_schema

from jobfs.api.failures import MismatchError
from jobfs.nodes import Item, Kind, Lifecycle, Permission, clamp_ns

logger = logging.getLogger("jobfs.api")

_Model = TypeVar("_Model", bound=BaseModel)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: The most items that a workspace may have; a greater total is ignored.
MOST_ITEMS = 1_000_000
#: The most items accepted in a page: 100 in the reference, but some servers send all they have.
_MOST_IN_A_PAGE = 20_000
#: Prefix of the position that stands for an item without an id; no id contains this character.
NAMELESS = "#"


class OrDefault:
    """Replaces a field that can't be read as its type with this `value`, as if the server had left the field out."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default=self._value, on_error="default")


# The reference allows 1,024 characters. A longer text is dropped; an item with a much longer path is unknown.
_Text = Annotated[str, StringConstraints(max_length=1024), OrDefault("")]
_Path = Annotated[str, StringConstraints(max_length=4096)]
# Ids that need no quoting in a URL: wider than the reference's pattern, but never a path.
_Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
#: A number, whether the server writes 12, 12.0 or "12".
_Number = Annotated[int | None, Field(ge=0, lt=2**63), OrDefault(None)]
_Count = Annotated[int | None, Field(ge=0, le=MOST_ITEMS), OrDefault(None)]


def _nested_field(*place: str, default: object = ...) -> Any:
    """Return a field that is nested in other objects of the reply; without a `default`, the field is required."""
    return Field(default, validation_alias=AliasPath(*place))


class _WireItem(BaseModel):
    """A file or directory, in either spelling of its type."""

    type: Literal["workspaceItemFile", "workspaceItemDirectory", "file", "directory"]
    id: _Id
    path: _Path
    lifecycle: Annotated[Lifecycle, OrDefault(Lifecycle.EXPERT_JOB)] = Lifecycle.EXPERT_JOB
    permission: Annotated[Permission, OrDefault(Permission.READ_WRITE)] = Permission.READ_WRITE
    owner: _Text = ""
    created_at: _Text = Field("", alias="createdAt")
    updated_at: _Text = Field("", alias="updatedAt")
    size: _Number = None
    mime_type: _Text = Field("", alias="mimeType")
    key: _Text = ""

    def to_item(self) -> Item:
        """Return the Item that this wire form describes: with either name of its type, and no outer slashes in its path."""
        kind = Kind.FILE if self.type in ("workspaceItemFile", "file") else Kind.DIRECTORY
        return Item(
            id=self.id,
            kind=kind,
            # One slash at each end is a matter of style; any other oddity stays visible.
            path=self.path.removeprefix("/").removesuffix("/"),
            lifecycle=self.lifecycle,
            permission=self.permission,
            owner=sys.intern(self.owner),
            created_at=self.updated_at if self.created_at == self.updated_at else self.created_at,
            updated_at=self.updated_at,
            updated_ns=parse_time(self.updated_at),
            size=self.size if kind is Kind.FILE else None,
            mime_type=sys.intern(self.mime_type),
            key=self.key,
        )

    def read_spelling(self) -> ItemStyle:
        """Return how the server spells this item's path and type."""
        return ItemStyle("/" if self.path.startswith("/") else "", self.type.startswith("workspaceItem"))


class _UnknownItem(BaseModel):
    """An item of an unknown type or form."""

    id: Annotated[_Id, OrDefault("")] = ""


_Entry = Annotated[_WireItem | _UnknownItem, Field(union_mode="left_to_right"), OrDefault(_UnknownItem())]


class _ItemsReply(BaseModel):
    items: Annotated[list[_Entry] | None, Field(max_length=_MOST_IN_A_PAGE)] = _nested_field(
        "data", "workspaceItems"
    )
    total: _Count = _nested_field("meta", "total", default=None)
    take: _Count = _nested_field("meta", "take", default=None)


class _ItemReply(BaseModel):
    item: _WireItem = Field(
        validation_alias=AliasChoices(AliasPath("data", "workspaceItem"), AliasPath("data", "item"))
    )


class ItemStyle(NamedTuple):
    """How a server writes its items: paths begin with `slash` ("" or "/"), and types are long (`workspaceItemFile`) or short."""

    slash: str
    long_type: bool


class Page(NamedTuple):
    """One page of the item list (api/wire.md, List).

    `unknown`: the ids of items that were left out because of their type or form; for an item without an id, NAMELESS and its
    position.
    """

    items: list[Item]
    total: int
    take: int
    unknown: tuple[str, ...] = ()


class Instance(BaseModel):
    """The workspace instance; `raw` is `data.workspaceInstance` as received."""

    raw: dict[str, Any] = _nested_field("data", "workspaceInstance")
    count_items: _Number = _nested_field("data", "workspaceInstance", "countItems", default=None)


def parse_page(body: bytes, take: int, skip: int) -> tuple[Page, ItemStyle | None]:
    """Parse the reply to a list or a find for `take` items from position `skip` on; raises MismatchError."""
    reply = _parse_model(_ItemsReply, body)
    entries = reply.items or []  # Go writes null for an empty list
    items, unknown = [], []
    for place, entry in enumerate(entries):
        if isinstance(entry, _WireItem):
            items.append(entry.to_item())
        else:
            # An item without an id is identified by its position in the list: it counts once if two pages overlap, and two on a
            # page count twice.
            unknown.append(entry.id or f"{NAMELESS}{skip + place}")
    if unknown:
        logger.debug("items left out because their type or form is unknown: %d", len(unknown))
    page = Page(
        items,
        total=skip + len(entries) + (len(entries) >= take) if reply.total is None else reply.total,
        take=take if reply.take is None else reply.take,
        unknown=tuple(unknown),
    )
    first = next(iter(entries), None)
    return page, first.read_spelling() if isinstance(first, _WireItem) else None


def parse_item(body: bytes) -> tuple[Item, ItemStyle]:
    """Parse the reply to a get, create or update, under either name of the item; raises MismatchError."""
    wire = _parse_model(_ItemReply, body).item
    return wire.to_item(), wire.read_spelling()


def parse_instance(body: bytes) -> tuple[Instance, None]:
    """Parse the workspace instance; raises MismatchError."""
    return _parse_model(Instance, body), None


def parse_time(text: str) -> int:
    """Return an ISO 8601 time as nanoseconds since the epoch; 0 if the text is not a time.

    The time is exact to the microsecond, and UTC if it has no offset. A time that does not fit into 64 bits (year 1, which is
    Go's zero, or 9999) becomes the nearest that does.
    """
    try:
        moment = datetime.fromisoformat(text.upper())  # RFC 3339 allows "t" and "z"
    except ValueError:
        return 0
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return clamp_ns((since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000)


def _parse_model(model: type[_Model], body: bytes) -> _Model:
    """Parse a reply as `model`; raises MismatchError, which says where the two differ."""
    try:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            if error.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid":
                raise
        # Half a surrogate pair (JavaScript cuts strings so), or bytes that are not UTF-8, spoil only their own item.
        return model.model_validate(json.loads(body.decode("utf-8-sig", "surrogateescape"), strict=False))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise MismatchError(f"{place}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise MismatchError("the body is not JSON") from None
