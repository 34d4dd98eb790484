"""Wire models: what the server answers, read leniently (wire-facts.md), as the vocabulary of nodes.py."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from jobfs.api.address import valid_item_id
from jobfs.api.failures import MismatchError
from jobfs.nodes import Item, Kind, Lifecycle, Permission, held_ns

logger = logging.getLogger("jobfs.api")

#: Both spellings of an item's type; everything else is a type we do not know.
_KINDS = {
    "workspaceItemFile": Kind.FILE,
    "workspaceItemDirectory": Kind.DIRECTORY,
    "file": Kind.FILE,
    "directory": Kind.DIRECTORY,
}
_LIFECYCLES = {str(value): value for value in Lifecycle}
_PERMISSIONS = {str(value): value for value in Permission}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NUMBER = 2.0**63
_DIGITS = re.compile(r"(\d{1,19})(?:\.0+)?", re.ASCII)

#: The most items that a workspace is believed to have; a greater total is none.
MOST_ITEMS = 1_000_000
#: Commas and brackets in a reply: 100 items whose paths and keys are nothing else have fewer, and each may be a Python object.
_MOST_VALUES = 250_000
#: The same of the description of a job, which may have all items in it.
_MOST_INSTANCE_VALUES = 1_000_000
#: A page has at most 100 items; some servers send all they have.
_MOST_IN_A_PAGE = 20_000
#: Texts and paths of an item that are longer are not what the reference says (1,024 at most) and not kept.
_LONGEST_TEXT, _LONGEST_PATH = 1024, 4096
#: What is nested deeper in a reply is left out: nothing that is read lies there, and parsers give up.
_DEEPEST = 64
#: A string, finished or not, or a bracket; possessive, so that no text makes it look twice.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[\]{}]', re.DOTALL)
#: Held while there is a reply as Python objects: of a hostile body they take many times its bytes.
_PARSING = threading.Lock()


class Spelling(NamedTuple):
    """How a server writes its items: paths begin with "" or "/", types are long (`workspaceItemFile`) or short."""

    slash: str
    long_type: bool


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


def parse_page(body: bytes, take: int, skip: int) -> tuple[Page, Spelling | None]:
    """The items of a list or a find; raises MismatchError. `take`, `skip`: as asked for."""
    with _PARSING:
        reply = _load(body, _MOST_VALUES)
        wire = _listed(reply, skip)
        made = [to_item(entry) for entry in wire]
        items = list(filter(None, made))
        unknown = _left_out(wire, made, skip) if len(items) < len(made) else ()
        told = {"take": take, "skip": skip, "total": skip + len(wire) + (len(wire) >= take)}
        if isinstance(reply.get("meta"), dict):
            numbers = {name: _number(reply["meta"].get(name)) for name in told}
            told |= {name: n for name, n in numbers.items() if n is not None and n <= MOST_ITEMS}
        return Page(items, unknown=unknown, **told), _spelling(next(iter(wire), None))


def _listed(reply: dict[str, Any], skip: int) -> list[Any]:
    wire, meta = reply["data"].get("workspaceItems", ""), reply.get("meta")
    if wire is None and (skip or not (isinstance(meta, dict) and meta.get("total"))):
        return []  # how Go writes a list of none
    if not isinstance(wire, list):
        raise MismatchError("data.workspaceItems is missing or not a list")
    if len(wire) > _MOST_IN_A_PAGE:
        raise MismatchError(f"more than {_MOST_IN_A_PAGE} items in a page")
    return wire


def _left_out(wire: list[Any], made: list[Item | None], skip: int) -> tuple[str, ...]:
    """For each item that is left out its id, or its place in the list where that is none."""
    left_out = [(place, entry) for place, entry in enumerate(wire) if made[place] is None]
    logger.debug("items left out, of a type or form not known: %d", len(left_out))
    ids = ((place, entry.get("id") if isinstance(entry, dict) else None) for place, entry in left_out)
    return tuple(item_id if valid_item_id(item_id) else f"#{skip + place}" for place, item_id in ids)


def parse_item(body: bytes) -> tuple[Item, Spelling | None]:
    """The item of a get, create or update; raises MismatchError."""
    with _PARSING:
        data = _load(body, _MOST_VALUES)["data"]
        name = "item" if data.get("workspaceItem") is None and "item" in data else "workspaceItem"
        wire = data.get(name)
        if not isinstance(wire, dict):
            raise MismatchError(f"data.{name} is missing or not an object")
        item = to_item(wire)
        if item is None:
            raise MismatchError(f"data.{name} is no file or directory (type {_text(wire.get('type'))!r})")
        return item, _spelling(wire)


def parse_instance(body: bytes, job_id: str) -> tuple[Instance, None]:
    """The workspace instance; raises MismatchError. `job_id`: if the reply does not name the job."""
    with _PARSING:
        # Never deeper than others can write it again.
        raw = _load(body, _MOST_INSTANCE_VALUES, shallow=True)["data"].get("workspaceInstance")
        if not isinstance(raw, dict):
            raise MismatchError("data.workspaceInstance is missing or not an object")
        job = raw.get("expertJob")
        job = job if isinstance(job, dict) else {}
        return Instance(_text(job.get("id")) or job_id, _number(raw.get("countItems")), raw), None


def to_item(wire: object) -> Item | None:
    """One item from the wire, or None if its type, id or path is not one we can use."""
    if not isinstance(wire, dict):
        return None
    get = wire.get
    kind, item_id, path = _KINDS.get(_text(get("type"))), get("id"), get("path")
    if kind is None or not isinstance(path, str) or not valid_item_id(item_id) or len(path) > _LONGEST_PATH:
        return None
    created, updated = _text(get("createdAt")), _text(get("updatedAt"))
    return Item(
        id=item_id,
        kind=kind,
        # One slash at each end is the server's style; what else is odd stays to be seen.
        path=path.removeprefix("/").removesuffix("/"),
        lifecycle=_LIFECYCLES.get(_text(get("lifecycle")), Lifecycle.EXPERT_JOB),
        permission=_PERMISSIONS.get(_text(get("permission")), Permission.READ_WRITE),
        owner=sys.intern(_text(get("owner"))),
        created_at=updated if created == updated else created,
        updated_at=updated,
        updated_ns=parse_time(updated),
        size=_number(get("size")) if kind is Kind.FILE else None,
        mime_type=sys.intern(_text(get("mimeType"))),
        key=_text(get("key")),
    )


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of an ISO 8601 time (to the microsecond; UTC without offset); 0 if it is none.

    A time that 64 bits don't hold (year 1, which is Go's zero, or 9999) becomes the nearest that they do.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return held_ns((since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000)


def _spelling(wire: object) -> Spelling | None:
    """What one item shows of how the server writes them; None if it is odd."""
    path, name = (wire.get("path"), wire.get("type")) if isinstance(wire, dict) else (None, None)
    if not isinstance(path, str) or not isinstance(name, str) or name not in _KINDS:
        return None
    return Spelling("/" if path.startswith("/") else "", name.startswith("workspaceItem"))


def _load(body: bytes, most: int, *, shallow: bool = False) -> dict[str, Any]:
    """A reply, which has an object `data`; raises MismatchError, also if it would take a hundred times its bytes as objects.

    `shallow`: without what is nested deeply, wherever that is.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > most:
        raise MismatchError(f"more than {most} values")
    reply: object
    try:
        reply = json.loads(_shallow(body.decode()) if shallow else body)
    except (ValueError, RecursionError):
        # Bytes that are no text, raw control characters, absurd numbers or depth in some values hide nothing else.
        try:
            text = body.decode("utf-8-sig", "surrogateescape")
            reply = json.loads(_shallow(text), strict=False, parse_int=_parse_int)
        except (ValueError, RecursionError):
            raise MismatchError("the body is not JSON") from None
    if not isinstance(reply, dict):
        raise MismatchError("the body is not a JSON object")
    if not isinstance(reply.get("data"), dict):
        raise MismatchError("data is missing or not an object")
    return reply


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
