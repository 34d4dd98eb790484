"""Questions about reads: find, get, the list and its pages, downloads."""

from __future__ import annotations

import random
from urllib.parse import quote

from jobfs.api.download import IDENTITY
from jobfs.nodes import Item, Permission
from jobfs.trial.asking import Finding, Trial, bad, copes, good, items_of
from jobfs.trial.place import TAKE, everything, whole

#: What is sent, and compared with what comes back.
_CONTENT = random.Random(1).randbytes(3000)
_PARTIAL_CONTENT = 206
#: Times that the list is read again to see if its order holds, and how often from so many pages on.
_READINGS, _FEWER, _MANY = 3, 1, 20


def at_once(trial: Trial) -> Finding:
    """Whether get, find and list show what was just written. Raises ApiError."""
    item = trial.file("at-once")
    missing = [
        name
        for name, there in (
            ("get", trial.client.get(item.id).path == item.path),
            ("find", any(found.id == item.id for found in trial.client.find(item.path))),
            ("list", any(found.id == item.id for found in everything(trial.client))),
        )
        if not there
    ]
    if missing:
        return bad(
            f"not by {', '.join(missing)}", "saves and listings miss files: don't mount this for writing"
        )
    return good("by get, find and list", "what is saved is on the server for everyone")


def find(trial: Trial) -> Finding:
    """What find takes its argument for. Raises ApiError."""
    item = trial.file("find-a")
    longer = trial.file("find-ab")
    found = _found(trial, item.path)
    if item.path not in found:
        return bad("it does not find a path that is there", "a mount can't look anything up", find="none")
    if item.path in _found(trial, trial.path("find-?")):
        kind, words = "glob", "a pattern"
    elif item.path in _found(trial, item.path[1:]):
        kind, words = "substring", "a part of a path"
    elif longer.path in found:
        kind, words = "prefix", "the beginning of a path"
    else:
        return good("just this path", "a lookup is one small answer", find="exact")
    return copes(f"takes it for {words}", "answers are longer, and filtered", find=kind)


def _found(trial: Trial, path: str, slash: bool | None = None) -> set[str]:
    slash = trial.facts["slash"] if slash is None else slash
    argument = quote(("/" if slash else "") + path, safe="")
    answer = trial.watched.send("GET", f"items/find?path={argument}")
    return {str(item.get("path", "")).removeprefix("/") for item in items_of(answer)}


def other_style(trial: Trial) -> Finding:
    """Whether a path is understood in the style that the server does not use itself. Raises ApiError."""
    other = not trial.facts["slash"]
    shown = "/a/b" if other else "a/b"
    if trial.directory in _found(trial, trial.directory, other):
        return good(
            f"{shown} is understood too", "paths are sent as the server writes them", input_paths="both"
        )
    return good(f"{shown} is not understood", "paths are sent as the server writes them", input_paths="own")


def pages(trial: Trial) -> Finding:
    """How many items a page has, and if take and skip are kept to. Raises ApiError."""
    first = trial.client.list_page(TAKE, 0)
    came = len(first.items) + len(first.unknown)
    cap = min(first.take or TAKE, TAKE)
    if came < min(cap, first.total):
        cap = max(came, 1)
    ones = [trial.client.list_page(1, skip) for skip in (0, 1)]
    facts = {"page_cap": cap}
    if any(len(page.items) + len(page.unknown) > 1 for page in ones):
        return copes("more come than `take` asks for", "a listing is read as it comes", **facts)
    if cap < TAKE:
        return copes(f"{cap} at most", f"a listing takes {-(-TAKE // cap)} times the requests", **facts)
    return good(f"{TAKE}", "1,000 files are listed by 10 requests", **facts)


def order(trial: Trial) -> Finding:
    """In which order the list is, and whether it stays so while nothing changes. Raises ApiError."""
    names = {trial.file(f"order-{name}").id: name for name in "cab"}
    ids = {name: item_id for item_id, name in names.items()}
    for name in "cb":
        trial.tick()
        trial.saw(trial.client.update(ids[name], permission=Permission.READ_ONLY))
    readings = _readings(trial)
    if any(reading != readings[0] or len(set(reading)) < len(reading) for reading in readings):
        return copes(
            "changes from one request to the next",
            "listings are read more than once",
            list_order="unstable",
        )
    kind = _order_of([names[item_id] for item_id in readings[0] if item_id in names])
    words = f"by time {kind}" if kind in ("created", "updated") else f"by {kind}"
    return good(f"stays the same: {words}", "a listing is read once", list_order=kind)


def _readings(trial: Trial) -> list[list[str]]:
    """The ids of the try's items as the list has them, a few times. Raises ApiError."""
    first = whole(trial.client)
    more = _READINGS if first.pages < _MANY else _FEWER
    return [_own(trial, listing.items) for listing in (first, *(whole(trial.client) for _ in range(more)))]


def _order_of(seen: list[str]) -> str:
    """By what files are sorted that were made as c, a, b and then changed as c, b; ascending or descending."""
    orders = {"cab": "created", "abc": "path", "acb": "updated"}
    word = "".join(seen)
    return orders.get(word) or orders.get(word[::-1]) or "something else"


def _own(trial: Trial, items: list[Item]) -> list[str]:
    return [item.id for item in items if item.path.startswith(trial.directory + "/")]


def download(trial: Trial) -> Finding:
    """Whether a download gives the bytes that were sent. Raises ApiError."""
    item = trial.file("bytes", _CONTENT)
    if trial.bytes_of(item.id) != _CONTENT:
        return bad("other bytes than were sent", "files are damaged: don't use this")
    empty = trial.file("empty", b"")
    if trial.bytes_of(empty.id) != b"":
        return bad("bytes of an empty file", "files are damaged: don't use this")
    return good("the bytes that were sent", "what is read is what was written")


def by_range(trial: Trial) -> Finding:
    """Whether a part of a file can be had. Raises ApiError."""
    item_id = trial.file("parts", _CONTENT).id
    headers = (IDENTITY, ("Range", "bytes=100-199"))
    answer = trial.watched.send("GET", f"items/{item_id}/download", headers=headers)
    if answer.status == _PARTIAL_CONTENT:
        if answer.body != _CONTENT[100:200]:
            return bad(
                "206 with other bytes than asked for",
                "parts of files are damaged: don't use this",
                ranges=None,
            )
        return good("206 with just these bytes", "a jump into a large file is quick", ranges=True)
    if answer.body == _CONTENT:
        return copes(
            f"{answer.status} with the whole file",
            "a jump into a file waits for what is before",
            ranges=False,
        )
    return copes(f"refused with {answer.status}", "a jump into a file waits for what is before", ranges=False)
