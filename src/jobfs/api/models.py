"""Wire models: what the server answers, read leniently (wire-facts.md), as the vocabulary of nodes.py."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple, NotRequired

from pydantic import (
    ConfigDict,
    FailFast,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from jobfs.api.address import valid_item_id
from jobfs.api.failures import MismatchError
from jobfs.nodes import Item, Kind, Lifecycle, Permission, held_ns

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
_DIGITS = re.compile(r"(\d{1,19})(?:\.0+)?", re.ASCII)

#: The most items that a workspace is believed to have; a greater total is none.
MOST_ITEMS = 1_000_000
#: Commas and brackets in a reply: 100 items whose paths and keys are nothing else have fewer, and each may be a Python object.
_MOST_VALUES = 250_000
#: The same of the description of a job, which may have all items in it.
_MOST_INSTANCE_VALUES = 1_000_000
#: Bytes of a reply up to which many may be parsed at once, each in the quick way.
_QUICK = 128 << 10
#: A page has at most 100 items; some servers send all they have.
_MOST_IN_A_PAGE = 20_000
#: Texts and paths of an item that are longer are not what the reference says (1,024 at most) and not kept.
_LONGEST_TEXT, _LONGEST_PATH = 1024, 4096
#: What is nested deeper in a reply is left out: nothing that is read lies there, and parsers give up.
_DEEPEST = 64
#: A string, finished or not, or a bracket; possessive, so that no text makes it look twice.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[\]{}]', re.DOTALL)
#: Held while there is a reply as Python objects: of a hostile body they take many times its bytes.
_TOLERANT = threading.Lock()


class Page(NamedTuple):
    """One page of the item list; `unknown` stands for items left out: of a type or form we do not know.

    `total`, `take` and `skip` are the server's own words where it gave them. Without a total, or with one that can't
    be, a page that is not full ends the list, and a full one promises one item more.
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
    count_items: int | None
    raw: dict[str, Any] = field(repr=False)


#: Nothing that nests: a reply is never more objects than it has items.
_Number = StrictInt | StrictFloat | StrictStr | None


@with_config(ConfigDict(extra="ignore"))
class _WireItem(TypedDict):
    type: str
    id: str
    path: str
    lifecycle: NotRequired[str | None]
    permission: NotRequired[str | None]
    owner: NotRequired[str | None]
    createdAt: NotRequired[str | None]
    updatedAt: NotRequired[str | None]
    size: NotRequired[_Number]
    mimeType: NotRequired[str | None]
    key: NotRequired[str | None]


@with_config(ConfigDict(extra="ignore"))
class _Meta(TypedDict):
    total: NotRequired[_Number]
    take: NotRequired[_Number]
    skip: NotRequired[_Number]


class _ItemsData(TypedDict):
    workspaceItems: Annotated[list[_WireItem], FailFast()]


class _ItemsReply(TypedDict):
    data: _ItemsData
    meta: NotRequired[_Meta | None]


#: All that is read of an item or of the meta of a list.
_FIELDS = (*_WireItem.__annotations__, *_Meta.__annotations__)
_ITEMS: TypeAdapter[_ItemsReply] = TypeAdapter(_ItemsReply)


def parse_page(body: bytes, take: int, skip: int) -> tuple[Page, list[dict[str, Any]]]:
    """A page of items, and the items as they came; raises MismatchError. `take`, `skip`: as asked for."""
    wire, meta = _read_items(body)
    items, unknown = _to_items(wire, skip)
    told = meta if isinstance(meta, dict) else {}
    page_take = _number(told.get("take"))
    page_skip = _number(told.get("skip"))
    total = _number(told.get("total"))
    if total is None or total > MOST_ITEMS:
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
    _check_values(body)
    with _TOLERANT:
        data = _data(_load(body))
        name = "item" if data.get("workspaceItem") is None and "item" in data else "workspaceItem"
        wire = _flat(_object(data, name, f"data.{name}"))
        del data
    item = to_item(wire)
    if item is None:
        raise MismatchError(f"data.{name} is no file or directory (type {_text(wire.get('type'))!r})")
    return item, wire


def parse_instance(body: bytes, job_id: str) -> Instance:
    """The workspace instance; raises MismatchError. `job_id`: if the reply does not name the job."""
    _check_values(body, _MOST_INSTANCE_VALUES)
    # Never deeper than others can write it again, hence not by the quick way.
    with _TOLERANT:
        raw = _object(_data(_as_object(_load_odd(body))), "workspaceInstance", "data.workspaceInstance")
    job = raw.get("expertJob")
    job = job if isinstance(job, dict) else {}
    return Instance(_text(job.get("id")) or job_id, _number(raw.get("countItems")), raw)


def to_item(wire: dict[str, Any]) -> Item | None:
    """One item from the wire, or None if its type, id or path is not one we can use."""
    kind = KINDS.get(_text(wire.get("type")))
    item_id, path = wire.get("id"), wire.get("path")
    if kind is None or not isinstance(path, str) or not valid_item_id(item_id) or len(path) > _LONGEST_PATH:
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
    """Nanoseconds since the epoch of an ISO 8601 time (any fraction; UTC without offset); 0 if it is none.

    A time that 64 bits don't hold (year 1, which is Go's zero, or 9999) becomes the nearest that they do.
    """
    return held_ns(_exact_time(text))


def _exact_time(text: str) -> int:
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
    _check_values(body)
    reply: _ItemsReply | None = None
    if len(body) <= _QUICK:
        with contextlib.suppress(ValidationError):
            reply = _ITEMS.validate_json(body)
    # Here the error is gone, and with it the whole reply that it holds.
    items, meta = (
        _read_odd_items(body) if reply is None else (reply["data"]["workspaceItems"], reply.get("meta"))
    )
    if len(items) > _MOST_IN_A_PAGE:
        raise MismatchError(f"more than {_MOST_IN_A_PAGE} items in a page")
    return items, meta  # type: ignore[return-value]


def _read_odd_items(body: bytes) -> tuple[list[Any], object]:
    with _TOLERANT:
        whole = _load(body)
        items = _data(whole).get("workspaceItems")
        if not isinstance(items, list):
            raise MismatchError("data.workspaceItems is missing or not a list")
        meta = whole.get("meta")
        nothing: dict[str, Any] = {}
        return (
            [_flat(entry) if isinstance(entry, dict) and entry else nothing for entry in items],
            _flat(meta) if isinstance(meta, dict) else None,
        )


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """What is read of an object: the texts and numbers among its known fields."""
    return {name: entry[name] for name in _FIELDS if isinstance(entry.get(name), (str, int, float))}


def _to_items(wire: list[dict[str, Any]], skip: int = 0) -> tuple[list[Item], tuple[str, ...]]:
    """The items, and for each that is left out its id, or its place in the list where that is none."""
    made = [to_item(entry) for entry in wire]
    items = [item for item in made if item is not None]
    if len(items) == len(made):
        return items, ()
    left_out = [place for place, item in enumerate(made) if item is None]
    logger.debug("items left out, of a type or form not known: %d", len(left_out))
    ids = ((wire[place].get("id"), skip + place) for place in left_out)
    return items, tuple(_text(item_id) if valid_item_id(item_id) else f"#{place}" for item_id, place in ids)


def _check_values(body: bytes, most: int = _MOST_VALUES) -> None:
    """Raises MismatchError for a reply that would take a hundred times its bytes as objects."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > most:
        raise MismatchError(f"more than {most} values")


def _load(body: bytes) -> dict[str, Any]:
    # The standard library's parser takes what pydantic's refuses (a lone surrogate in one hostile path must
    # not hide every other item).
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = _load_odd(body)
    return _as_object(value)


def _as_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MismatchError("the body is not a JSON object")
    return value


def _load_odd(body: bytes) -> object:
    """JSON with bytes that are no text, raw control characters, absurd numbers or absurd depth in some of its values."""
    try:
        text = body.decode("utf-8-sig", "surrogateescape")
        return json.loads(_shallow(text), strict=False, parse_int=_parse_int)
    except (ValueError, RecursionError):
        raise MismatchError("the body is not JSON") from None


def _shallow(text: str) -> str:
    """`text` with null for every value that is nested too deep."""
    kept, start, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
                if depth == _DEEPEST + 1:
                    kept.append(text[start : token.start()])
                    start = len(text)
            case "]" | "}":
                if depth == _DEEPEST + 1:
                    kept.append("null")
                    start = token.end()
                depth -= 1
    return "".join((*kept, text[start:])) if kept else text


def _parse_int(digits: str) -> float:
    # Python refuses to convert thousands of digits, and would take all the others with them.
    return int(digits) if len(digits) < 20 else float(digits)


def _data(reply: dict[str, Any]) -> dict[str, Any]:
    return _object(reply, "data", "data")


def _object(parent: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise MismatchError(f"{where} is missing or not an object")
    return value


def _text(value: object) -> str:
    """A text as it came, if it is one; what can't be encoded in it is spelled out."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        return ""
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()


def _number(value: object) -> int | None:
    """A count or size, whether the server writes 12, 12.0 or "12"; None for anything else."""
    if isinstance(value, str):
        digits = _DIGITS.fullmatch(value)
        value = int(digits[1]) if digits else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX_NUMBER:
        return int(value)
    return None
