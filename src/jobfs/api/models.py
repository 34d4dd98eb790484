"""Wire models: what the server answers, read leniently (wire-facts.md), as the vocabulary of nodes.py."""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from jobfs.api.address import valid_item_id
from jobfs.api.failures import MismatchError
from jobfs.nodes import Item, Kind, Lifecycle, Permission

logger = logging.getLogger("jobfs.api")

#: Both spellings of an item's type; everything else is a type we do not know.
KINDS = {
    "workspaceItemFile": Kind.FILE,
    "workspaceItemDirectory": Kind.DIRECTORY,
    "file": Kind.FILE,
    "directory": Kind.DIRECTORY,
}

_LIFECYCLES = {str(value): value for value in Lifecycle}
_PERMISSIONS = {str(value): value for value in Permission}
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d+))?\s*(?:([Zz])|([+-])(\d\d):?(\d\d)?)?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Up to this length a time has no more digits of a second than datetime keeps.
_QUICK_TIME = len("2025-01-01T00:00:00.000000Z")
_MAX_NUMBER = 2.0**63


class Page(NamedTuple):
    """One page of the item list; `unknown` are the ids of items left out: of a type or form we do not know.

    `total`, `take` and `skip` are the server's own words where it gave them. Without a total, a page that is
    not full ends the list, and a full one promises one item more.
    """

    items: list[Item]
    total: int
    take: int
    skip: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instance:
    """The workspace instance; `raw` is `data.workspaceInstance` as answered."""

    job_id: str
    job_status: str
    count_items: int | None
    raw: dict[str, Any] = field(repr=False)


@with_config(ConfigDict(extra="ignore"))
class _WireItem(TypedDict):
    type: str
    id: str
    path: str
    lifecycle: NotRequired[Any]
    permission: NotRequired[Any]
    owner: NotRequired[Any]
    createdAt: NotRequired[Any]
    updatedAt: NotRequired[Any]
    size: NotRequired[Any]
    mimeType: NotRequired[Any]
    key: NotRequired[Any]


class _ItemsData(TypedDict):
    workspaceItems: list[_WireItem]


class _ItemsReply(TypedDict):
    data: _ItemsData
    meta: NotRequired[Any]


_ITEMS: TypeAdapter[_ItemsReply] = TypeAdapter(_ItemsReply)


def parse_page(body: bytes, take: int, skip: int) -> tuple[Page, list[dict[str, Any]]]:
    """A page of items, and the items as they came; raises MismatchError. `take`, `skip`: as asked for."""
    wire, meta = _read_items(body)
    items, unknown = _to_items(wire)
    told = meta if isinstance(meta, dict) else {}
    page_take = _number(told.get("take"))
    page_skip = _number(told.get("skip"))
    total = _total(told.get("total"))
    if total is None:
        total = skip + len(wire) + (1 if len(wire) >= take else 0)
    page = Page(
        items,
        total,
        take if page_take is None else page_take,
        skip if page_skip is None else page_skip,
        unknown,
    )
    return page, wire


def parse_items(body: bytes) -> tuple[list[Item], list[dict[str, Any]]]:
    """The items of a find, and as they came; raises MismatchError."""
    wire, _ = _read_items(body)
    return _to_items(wire)[0], wire


def parse_item(body: bytes) -> tuple[Item, dict[str, Any]]:
    """The item of a get, create or update, and as it came; raises MismatchError."""
    wire = _object(_data(_load(body)), "workspaceItem", "data.workspaceItem")
    item = to_item(wire)
    if item is None:
        raise MismatchError(f"data.workspaceItem is no file or directory (type {wire.get('type')!r})")
    return item, wire


def parse_instance(body: bytes, job_id: str) -> Instance:
    """The workspace instance; raises MismatchError. `job_id`: if the reply does not name the job."""
    raw = _object(_data(_load(body)), "workspaceInstance", "data.workspaceInstance")
    job = raw.get("expertJob")
    job = job if isinstance(job, dict) else {}
    return Instance(
        _text(job.get("id")) or job_id, _text(job.get("status")), _number(raw.get("countItems")), raw
    )


def to_item(wire: dict[str, Any]) -> Item | None:
    """One item from the wire, or None if its type, id or path is not one we can use."""
    kind = KINDS.get(_text(wire.get("type")))
    item_id, path = wire.get("id"), wire.get("path")
    if kind is None or not isinstance(path, str) or not valid_item_id(item_id):
        return None
    created, updated = _text(wire.get("createdAt")), _text(wire.get("updatedAt"))
    return Item(
        id=_text(item_id),
        kind=kind,
        path=normal_path(path),
        lifecycle=_LIFECYCLES.get(_text(wire.get("lifecycle")), Lifecycle.EXPERT_JOB),
        permission=_PERMISSIONS.get(_text(wire.get("permission")), Permission.READ_WRITE),
        owner=sys.intern(_text(wire.get("owner"))),
        created_at=updated if created == updated else created,
        updated_at=updated,
        updated_ns=parse_time(updated),
        size=_number(wire.get("size")) if kind is Kind.FILE else None,
        mime_type=sys.intern(_text(wire.get("mimeType"))),
        key=_text(wire.get("key")),
    )


def normal_path(path: str) -> str:
    """A server's path without its one leading and one trailing slash; what else is odd stays to be seen."""
    return path.removeprefix("/").removesuffix("/")


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of an ISO 8601 time (any fraction; UTC without offset); 0 if it is none."""
    if len(text) <= _QUICK_TIME and text.endswith("Z"):
        try:
            since = datetime.fromisoformat(text) - _EPOCH
            return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
        except ValueError:
            pass
    match = _TIME.fullmatch(text)
    if match is None:
        return 0
    date, clock, fraction, _, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}+00:00")
    except ValueError:
        return 0
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    if sign:
        offset = int(hours) * 3600 + int(minutes or 0) * 60
        seconds += offset if sign == "-" else -offset
    return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])


def _read_items(body: bytes) -> tuple[list[dict[str, Any]], object]:
    """The list and the meta of a reply; the quick way, and where one item is odd the tolerant one."""
    try:
        reply = _ITEMS.validate_json(body)
        return reply["data"]["workspaceItems"], reply.get("meta")  # type: ignore[return-value]
    except ValidationError:
        whole = _load(body)
    items = _data(whole).get("workspaceItems")
    if not isinstance(items, list):
        raise MismatchError("data.workspaceItems is missing or not a list")
    return [entry if isinstance(entry, dict) else {} for entry in items], whole.get("meta")


def _to_items(wire: list[dict[str, Any]]) -> tuple[list[Item], tuple[str, ...]]:
    made = [to_item(entry) for entry in wire]
    items = [item for item in made if item is not None]
    if len(items) == len(made):
        return items, ()
    left_out = [entry for entry, item in zip(wire, made, strict=True) if item is None]
    logger.debug("items left out, of a type or form not known: %d", len(left_out))
    return items, tuple(_text(entry.get("id")) for entry in left_out)


def _load(body: bytes) -> dict[str, Any]:
    # The standard library's parser takes what pydantic's refuses (a lone surrogate in one hostile path must
    # not hide every other item).
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise MismatchError("the body is not JSON") from None
    if not isinstance(value, dict):
        raise MismatchError("the body is not a JSON object")
    return value


def _data(reply: dict[str, Any]) -> dict[str, Any]:
    return _object(reply, "data", "data")


def _object(parent: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise MismatchError(f"{where} is missing or not an object")
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _total(value: object) -> int | None:
    """A number, in quotes too: without it a short page would end the list, on a server that gives less than was asked for."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,15}", value, re.ASCII):
        return int(value)
    return _number(value)


def _number(value: object) -> int | None:
    """A count or size, whether the server writes 12 or 12.0; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX_NUMBER:
        return int(value)
    return None
