"""What goes wrong on purpose: rules that pick requests and say what happens, the same for the same seed."""

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
    "unavailable",  # 503 before the work
    "throttled",  # 429 before the work
    "error",  # 500, or `status`, before the work
    "error_after",  # the work is done, the answer is 500, or `status`
    "gateway",  # 500, or `status`, before the work, with the HTML page of a proxy
    "drop",  # the connection is dropped before the work
    "drop_after",  # the work is done, the connection is dropped without an answer
    "late",  # the connection is dropped, the work is done `delay` seconds later
    "cut",  # the answer breaks off in its body, `at` this part of it
    "hang",  # no answer, no work, the connection stays open
    "hang_after",  # the work is done, no answer, the connection stays open
    "silent",  # no answer, no work, not even the request's body is read; the connection stays open
    "slow",  # the work begins `delay` seconds late
    "wrong_length",  # the body is `by` bytes longer (shorter if negative) than it is, and says so
    "odd_item",  # items of the answer whose path fits `path` have the JSON `value` as their `field`
    "undone",  # an update is answered with success and the item as it was, and nothing is done
    "weather",  # any of the kinds above but the last three, drawn anew for each request that is struck
]
KINDS: tuple[str, ...] = get_args(Kind)

#: Kinds that strike instead of the work.
BEFORE = frozenset({"unavailable", "throttled", "error", "gateway", "drop", "hang", "silent"})

#: What weather is made of: everything that fails; not the answers that lie.
WEATHER: tuple[Kind, ...] = (
    "unavailable", "throttled", "error", "error_after", "gateway", "drop", "drop_after", "late", "cut",
    "hang", "hang_after", "silent", "slow",
)  # fmt: skip
OPERATIONS = ("instance", "list", "find", "get", "create", "update", "delete", "download")


@dataclass(frozen=True, slots=True)
class Rule:
    """Which requests (`on`, `path`), how often (`rate`, at most `times`, after `skip`), and what happens.

    `on` is an operation, a method, "read", "change" or "*", several joined by "+". `path` is a pattern for
    the workspace path that the request is about ("*": all, also requests about none); for odd_item, of the
    items in the answer. `retry_after` is a header's value: seconds, a date, or "+60" for the date that is 60
    seconds from the answer; it belongs to unavailable and throttled. `delay` in seconds. `status` and `reason`
    belong to error, error_after and gateway; `at` (0 to 1) to cut; `by` (bytes) to wrong_length; `field` and `value` (JSON)
    to odd_item.
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
            raise UsageError(f"unknown fault {self.kind!r}; one of {', '.join(KINDS)}")
        known = {*OPERATIONS, "GET", "POST", "DELETE", "read", "change", "*"}
        for name in set(self.on.split("+")) - known:
            raise UsageError(f"a fault can't be on {name!r}; one of {', '.join(sorted(known))}")
        self._check_bounds()
        wait = self.retry_after or ""
        if wait.startswith("+") and not wait[1:].isdecimal():
            raise UsageError(f"a fault's retry_after is seconds, a date or +seconds, not {self.retry_after}")
        try:
            json.loads(self.value)
        except (TypeError, ValueError):
            raise UsageError(f"a fault's value is JSON, not {self.value!r}") from None

    def _check_bounds(self) -> None:
        """Raise UsageError if a number is out of its bounds."""
        bounds = {
            "rate": (self.rate, 0, 1, ""), "at": (self.at, 0, 1, ""),
            "delay": (self.delay, 0, 3600, " seconds"), "status": (self.status, 400, 599, ""),
        }  # fmt: skip
        for name, (given, least, most, unit) in bounds.items():
            if not least <= given <= most:
                raise UsageError(f"a fault's {name} is between {least} and {most}{unit}, not {given}")

    @property
    def depends_on_path(self) -> bool:
        """True if it depends on the path that a request is about."""
        return self.path != "*" and self.kind != "odd_item"

    def matches(self, operation: str, method: str) -> bool:
        """True if this rule is about such a request."""
        group = "change" if operation in CHANGING else "read"
        return any(name in ("*", operation, method, group) for name in self.on.split("+"))


class Faults:
    """The rules in force, asked in order; the first that strikes wins. Safe from any thread."""

    def __init__(self, rules: tuple[Rule, ...] = (), seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._rng = random.Random(seed)
        self.struck = 0
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """Adds a rule after the others; those that end (`times`) are asked before those that stay."""
        with self._lock:
            ending = sum(other.times is not None for other in self._rules)
            self._rules.insert(len(self._rules) if rule.times is None else ending, rule)

    def fail_next(self, kind: Kind, on: str = "*", times: int = 1, **more: Any) -> None:
        """The next `times` requests of `on` get this fault; a second call is about those after them."""
        self.add(Rule(kind, on, times=times, **more))

    def set_rate(self, kind: Kind, rate: float, on: str = "*", **more: Any) -> None:
        """This share of the requests of `on` gets this fault."""
        self.add(Rule(kind, on, rate=rate, **more))

    def clear(self) -> None:
        """Removes all rules; requests that hang go on hanging, until their connection is broken."""
        with self._lock:
            self._rules.clear()

    def reseed(self, seed: int) -> None:
        """Starts the sequence of decisions again."""
        with self._lock:
            self._rng.seed(seed)

    def rules(self) -> list[Rule]:
        """The rules in force, with what is left of `times` and `skip`."""
        with self._lock:
            return list(self._rules)

    def pick(self, operation: str, method: str, path: str | None = None) -> Rule | None:
        """The rule that strikes this request, of those without a path pattern or of those that fit `path`."""
        if not self._rules:
            return None
        with self._lock:
            for position, rule in enumerate(self._rules):
                if rule.depends_on_path is (path is None) or not rule.matches(operation, method):
                    continue
                if path is not None and not fnmatchcase(path, rule.path):
                    continue
                if self._strikes(position, rule):
                    self.struck += 1
                    return self._draw_weather(rule) if rule.kind == "weather" else rule
        return None

    def _draw_weather(self, rule: Rule) -> Rule:
        """What the weather is for one request."""
        return replace(
            rule,
            kind=self._rng.choice(WEATHER),
            status=self._rng.choice((500, 502, 504)),
            retry_after=self._rng.choice((None, "1", "+1")),
        )

    def _strikes(self, position: int, rule: Rule) -> bool:
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
    """A rule from JSON; UsageError, in one sentence, for what is not one."""
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
    """A rule from KIND[=RATE][@ON][,NAME=VALUE]… (the command line's form); UsageError if it is not one."""
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
