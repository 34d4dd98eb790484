"""Faults on purpose: rules that pick requests and say what happens to them, reproducible with the same seed."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from jobfs.errors import UsageError

from .log import CHANGING

Kind = Literal[
    "unavailable",  # 503; the operation is not executed
    "throttled",  # 429; the operation is not executed
    "error",  # 500, or `status`; the operation is not executed
    "error_after",  # the operation is executed; the answer is 500, or `status`
    "gateway",  # 500, or `status`, with the HTML page of a proxy; the operation is not executed
    "drop",  # the connection is dropped; the operation is not executed
    "drop_after",  # the operation is executed; the connection is dropped without an answer
    "late",  # the connection is dropped; the operation is executed `delay` seconds later
    "cut",  # the answer ends after the fraction `at` of its body
    "hang",  # the operation is not executed; there is no answer, and the connection stays open
    "hang_after",  # the operation is executed; there is no answer, and the connection stays open
    "silent",  # as "hang", and even the request's body is not read
    "slow",  # the operation begins `delay` seconds late
    "wrong_length",  # the body is `by` bytes longer than the content (shorter if negative), as its length says
    "odd_item",  # items in the answer whose path matches `path` have the JSON `value` as their `field`
    "undone",  # an update is not executed; the answer is a success with the unchanged item
    "weather",  # any kind above but the last three, drawn at random for each picked request
]
KINDS: tuple[str, ...] = get_args(Kind)

#: Kinds that replace the operation.
BEFORE = frozenset({"unavailable", "throttled", "error", "gateway", "drop", "hang", "silent"})

#: What weather consists of: all kinds that fail; not those whose answers are false.
WEATHER: tuple[Kind, ...] = (
    "unavailable", "throttled", "error", "error_after", "gateway", "drop", "drop_after", "late", "cut",
    "hang", "hang_after", "silent", "slow",
)  # fmt: skip
OPERATIONS = ("instance", "list", "find", "get", "create", "update", "delete", "download")


@dataclass(frozen=True, slots=True)
class Rule:
    """Which requests (`on`, `path`), how often (`rate`, at most `times`, after `skip`), and what happens to them.

    `on` is an operation, a method, "read", "change" or "*"; several are joined by "+". `path` is a pattern for the workspace path
    that the request affects ("*": all requests, even those that affect no path); for odd_item, for the items in the answer.
    `retry_after` is a header's value: seconds, a date, or "+60" for the date 60 seconds after the answer; it applies to
    unavailable and throttled. `delay` is in seconds. `status` and `reason` apply to error, error_after and gateway; `at` (0 to 1)
    to cut; `by` (bytes) to wrong_length; `field` and `value` (JSON) to odd_item.
    """

    kind: Kind
    on: str = "*"
    rate: float = 1.0
    times: int | None = None
    skip: int = 0
    path: str = "*"
    status: int = 500
    reason: str = "Injected fault"
    retry_after: str | None = None
    delay: float = 1.0
    at: float = 0.5
    by: int = -1
    field: str = "type"
    value: str = '["workspaceItemFile"]'

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown fault {self.kind!r}; use one of {', '.join(KINDS)}")
        known = {*OPERATIONS, "GET", "POST", "DELETE", "read", "change", "*"}
        for name in set(self.on.split("+")) - known:
            raise UsageError(f"a fault can't be on {name!r}; use one of {', '.join(sorted(known))}")
        self._check_bounds()
        wait = self.retry_after or ""
        if wait.startswith("+") and not wait[1:].isdecimal():
            raise UsageError(
                f"a fault's retry_after must be seconds, a date or +seconds, not {self.retry_after}"
            )
        try:
            json.loads(self.value)
        except (TypeError, ValueError):
            raise UsageError(f"a fault's value must be JSON, not {self.value!r}") from None

    def _check_bounds(self) -> None:
        """Raise UsageError if a number is out of bounds."""
        bounds = {
            "rate": (self.rate, 0, 1, ""), "at": (self.at, 0, 1, ""),
            "delay": (self.delay, 0, 3600, " seconds"), "status": (self.status, 400, 599, ""),
        }  # fmt: skip
        for name, (given, least, most, unit) in bounds.items():
            if not least <= given <= most:
                raise UsageError(f"a fault's {name} must be from {least} to {most}{unit}, not {given}")

    @property
    def depends_on_path(self) -> bool:
        """Return whether the rule depends on the path that a request affects."""
        return self.path != "*" and self.kind != "odd_item"

    def matches(self, operation: str, method: str) -> bool:
        """Return whether the rule applies to requests of this operation and method."""
        group = "change" if operation in CHANGING else "read"
        return any(name in ("*", operation, method, group) for name in self.on.split("+"))


class Faults:
    """The active rules, checked in order; the first that picks a request wins. Thread-safe."""

    def __init__(self, rules: tuple[Rule, ...] = (), seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._rng = random.Random(seed)
        self.injected_count = 0
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """Add a rule after the others, but one with `times` before those without."""
        with self._lock:
            ending = sum(other.times is not None for other in self._rules)
            self._rules.insert(len(self._rules) if rule.times is None else ending, rule)

    def fail_next(self, kind: Kind, on: str = "*", times: int = 1, **more: Any) -> None:
        """Apply this fault to the next `times` requests of `on`; a second call applies to the requests after those."""
        self.add(Rule(kind, on, times=times, **more))

    def set_rate(self, kind: Kind, rate: float, on: str = "*", **more: Any) -> None:
        """Apply this fault to a fraction `rate` of the requests of `on`."""
        self.add(Rule(kind, on, rate=rate, **more))

    def clear(self) -> None:
        """Remove all rules. Requests that hang stay so until their connections end."""
        with self._lock:
            self._rules.clear()

    def reseed(self, seed: int) -> None:
        """Restart the sequence of random decisions."""
        with self._lock:
            self._rng.seed(seed)

    def rules(self) -> list[Rule]:
        """Return the active rules, with what remains of `times` and `skip`."""
        with self._lock:
            return list(self._rules)

    def pick_rule(self, operation: str, method: str, path: str | None = None) -> Rule | None:
        """Return the rule that picks this request, None if none does.

        Without `path`, only rules without a path pattern are checked; with it, only those whose pattern matches.
        """
        if not self._rules:
            return None
        with self._lock:
            for position, rule in enumerate(self._rules):
                if rule.depends_on_path is (path is None) or not rule.matches(operation, method):
                    continue
                if path is not None and not fnmatchcase(path, rule.path):
                    continue
                if self._consume_if_due(position, rule):
                    self.injected_count += 1
                    return self._draw_weather(rule) if rule.kind == "weather" else rule
        return None

    def _draw_weather(self, rule: Rule) -> Rule:
        """Draw one kind of fault for one request."""
        return replace(
            rule,
            kind=self._rng.choice(WEATHER),
            status=self._rng.choice((500, 502, 504)),
            retry_after=self._rng.choice((None, "1", "+1")),
        )

    def _consume_if_due(self, position: int, rule: Rule) -> bool:
        if rule.skip:
            self._rules[position] = replace(rule, skip=rule.skip - 1)
            return False
        if rule.rate < 1 and self._rng.random() >= rule.rate:
            return False
        if rule.times is not None:
            if rule.times <= 1:
                del self._rules[position]
            else:
                self._rules[position] = replace(rule, times=rule.times - 1)
        return True


def rule_from_json(values: dict[str, Any]) -> Rule:
    """Return the rule in a JSON object. Raises UsageError, with one sentence, if it is not valid."""
    unknown = set(values) - {field.name for field in fields(Rule)}
    if unknown:
        raise UsageError(f"a fault has no field {sorted(unknown)[0]!r}")
    if "kind" not in values:
        raise UsageError("a fault needs a kind")
    try:
        return Rule(**values)
    except (TypeError, AttributeError):
        raise UsageError(f"not a fault: {values}") from None


def parse_rule(text: str) -> Rule:
    """Parse KIND[=RATE][@ON][,NAME=VALUE]…, the form of the command line. Raises UsageError if it is not valid."""
    head, *more = text.split(",")
    head, _, on = head.partition("@")
    kind, _, rate = head.partition("=")
    values: dict[str, Any] = {"kind": kind.strip(), "on": on or "*"}
    numbers = {"rate": float, "times": int, "skip": int, "status": int, "delay": float, "by": int}
    pairs = [("rate", rate)] if rate else []
    for part in more:
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"in the fault {text!r}, {part!r} is not NAME=VALUE")
        pairs.append((name.strip().replace("-", "_"), value))
    for name, value in pairs:
        try:
            values[name] = numbers.get(name, str)(value)
        except ValueError:
            raise UsageError(f"in the fault {text!r}, {name} is not a number") from None
    return rule_from_json(values)
