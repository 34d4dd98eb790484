"""Questions about the server as a whole: the job, URLs, clock, speed."""

from __future__ import annotations

import random
import secrets
import statistics
import string
import time
from typing import Any

from jobfs.errors import UnauthorizedError
from jobfs.trial.asking import Finding, Trial, bad, copes, good

#: Seconds between two clocks that matter to nobody.
_IN_STEP = 2.0
#: Bytes that are sent and fetched to see how fast that goes.
_LARGE = 256 << 10
_REDIRECTS = range(300, 400)


def job(trial: Trial) -> Finding:
    """Ask for the job. Raises ApiError: with a key or job that is refused nothing else can be asked."""
    raw = trial.client.instance().raw
    expert_job = raw.get("expertJob")
    expert = expert_job.get("expert") if isinstance(expert_job, dict) else None
    kind = expert.get("type") if isinstance(expert, dict) else None
    status = expert_job.get("status") if isinstance(expert_job, dict) else None
    return good(
        f"the job is {_word(status)}, its expert is of kind {_word(kind)}",
        "the key is taken, the job is known",
        expert=kind,
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) and value.isidentifier() and len(value) < 40 else "?"


def instance_items(trial: Trial) -> Finding:
    """How many of the items the description of the job has in it. Raises ApiError."""
    instance = trial.client.instance()
    items = instance.raw.get("items")
    shown = len(items) if isinstance(items, list) else 0
    kind = "empty" if not shown else "complete" if shown >= (instance.count_items or 0) else "partial"
    words = {"empty": "none", "partial": "some", "complete": "all"}
    return good(words[kind], "they are read from the list", instance_items=kind)


def left_before(trial: Trial) -> Finding:
    """Take away what an earlier try has left. Raises ApiError."""
    number = len(trial.place.left())
    if not number:
        return good("nothing")
    left = trial.place.clear()
    if left:
        return bad(
            f"{len(left)} items that can't be taken away",
            "they are shown by no mount: delete them by the API",
        )
    return good(f"{number} items, taken away")


def unknown_job(trial: Trial) -> Finding:
    """What is answered about a job that is not there. Raises ApiError."""
    other = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(24))
    try:
        listed = trial.watched.send("GET", "items/?take=1&skip=0", job=other)
        described = trial.watched.send("GET", "", job=other)
    except UnauthorizedError as error:
        return good(f"refused with {error.status}", "a mistyped job id is noticed", unknown_job=error.status)
    if described.ok:
        return copes("as one that is there", "a mistyped job id is not noticed", unknown_job=200)
    if listed.ok:
        return good(
            f"{described.status}; its list is empty",
            "a mistyped job id is noticed: the job is asked for first",
            unknown_job="documented",
        )
    return good(
        f"{described.status}, its list too", "a mistyped job id is noticed", unknown_job=listed.status
    )


def slash(trial: Trial) -> Finding:
    """Whether URLs of collections end with a slash. Raises ApiError."""
    query = "?take=1&skip=0"
    statuses: dict[str, int | None] = {}
    for name, below in (("slash", f"items/{query}"), ("bare", f"items{query}")):
        trial.watched.forget()
        trial.watched.send("GET", below)
        statuses[name] = trial.watched.exchanges[0].status
    led = {name for name, status in statuses.items() if status in _REDIRECTS}
    if "slash" in led:
        return copes(
            "without; with one it leads there", "one more request at the start", trailing_slash="bare"
        )
    if "bare" in led or statuses["bare"] != statuses["slash"]:
        return good("with one", "no request is led elsewhere", trailing_slash="slash")
    return good("with one or without", "no request is led elsewhere", trailing_slash="both")


def clock(trial: Trial) -> Finding:
    """How far the server's clock is from ours."""
    offset = trial.offset()
    if offset is None:
        return bad("its times can't be read", "a mount can't tell how old a version is")
    words = f"{abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}"
    if abs(offset) < _IN_STEP:
        return good(f"in step ({words})", "ages and times are right", clock_skew=round(offset, 1))
    return copes(
        words,
        "is taken into account; mtimes of the job's files are shown as they are",
        clock_skew=round(offset, 1),
    )


def speed(trial: Trial) -> Finding:
    """How long a small answer takes, and a large file. Raises ApiError."""
    latencies = []
    for _ in range(5):
        began = time.monotonic()
        trial.client.get(trial.facts["directory"])
        latencies.append(time.monotonic() - began)
    latency = statistics.median(latencies)
    content = random.Random(2).randbytes(_LARGE)
    began = time.monotonic()
    item = trial.file("large", content)
    up = _rate(time.monotonic() - began - latency)
    began = time.monotonic()
    came = trial.bytes_of(item.id)
    down = _rate(time.monotonic() - began - latency)
    facts: dict[str, Any] = {"latency": round(latency * 1000, 1), "up": up, "down": down}
    if came != content:
        return bad("other bytes than were sent", "files are damaged: don't use this", **facts)
    return good(
        f"{latency * 1000:.0f} ms an answer, {_megabytes(up)} up, {_megabytes(down)} down",
        f"a save takes about {3 * latency * 1000:.0f} ms",
        **facts,
    )


def _rate(seconds: float) -> float:
    return round(_LARGE / max(seconds, 0.001))


def _megabytes(rate: float) -> str:
    return f"{rate / 1e6:.1f} MB/s" if rate < 20e6 else "over 20 MB/s"
