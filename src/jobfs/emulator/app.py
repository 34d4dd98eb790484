"""The ASGI application: it checks URL, key and ids, applies latency and faults, and logs, around the operations.

A plain ASGI callable over Starlette's request type, without a middleware stack: clients are benchmarked against this server.
"""

from __future__ import annotations

import errno
import hmac
from email.utils import formatdate

from starlette.types import Receive, Scope, Send

from .bodies import Unsupported
from .control import Control
from .exchange import Answer, Bandwidth, Exchange, InjectedFault, error_answer
from .faults import BEFORE, Faults, Rule
from .log import RequestLog
from .records import BadPath, Invalid, Missing, Refused, is_valid_id
from .routes import Operations, Route, resolve_route
from .store import EmulatorStore
from .wire import add_odd_items, invalid_json
from .workspace import MissingWorkspace, Workspaces

_STATUS = {"unavailable": 503, "throttled": 429}
_LOST = ("drop_after", "hang_after", "late")
_PAGE = b"<html><head><title>Bad gateway</title></head><body><h1>Bad gateway</h1></body></html>"


class App:
    """The local server's application; all state is in the objects that it is given."""

    def __init__(
        self,
        store: EmulatorStore,
        workspaces: Workspaces,
        key: str,
        faults: Faults,
        log: RequestLog,
        control: Control,
    ) -> None:
        self._store, self._workspaces = store, workspaces
        self._key = key.encode()
        self._faults = faults
        self._log = log
        self._line = Bandwidth()
        self._operations = Operations(store)
        self._control = control
        self._date = (0, b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        if scope["path"].startswith("/_emulator/"):
            await self._control(scope, receive, send)
            return
        route = resolve_route(scope["method"], scope["raw_path"].decode("ascii")) or Route("")
        query = scope["query_string"].decode("latin-1")
        entry = self._log.start(scope["method"], route.operation, route.job, scope["path"], query)
        entry.item = route.item
        behaviour = self._store.behaviour
        exchange = Exchange(scope, receive, send, entry, self._faults, behaviour, self._line)
        try:
            answer = await self._respond(exchange, route)
        except ConnectionResetError:
            answer = None
        if answer is None:
            self._log.finish(entry, None)
            await exchange.wait_closed()
            return
        answer.headers.append((b"date", self._date_value()))
        self._log.finish(entry, answer.status)
        try:
            rule = exchange.rule
            await exchange.send(answer, rule.at if rule is not None and rule.kind == "cut" else None)
        finally:
            answer.close()

    async def _respond(self, exchange: Exchange, route: Route) -> Answer | None:
        """Return the answer, or None if there must be none. A fault takes effect before or after the operation."""
        await exchange.wait_for_head()
        rule = exchange.rule = self._faults.pick_rule(route.operation, exchange.entry.method)
        if rule is not None:
            exchange.entry.fault = rule.kind
            if rule.kind in BEFORE:
                return await self._apply_replacing_fault(exchange, rule)
        try:
            answer = await self._run_operation(exchange, route)
        except InjectedFault as hit:
            return await self._apply_replacing_fault(exchange, hit.rule)
        await exchange.wait_latency()
        rule = exchange.rule
        return answer if rule is None else self._apply_late_fault(exchange, rule, answer)

    def _apply_late_fault(self, exchange: Exchange, rule: Rule, answer: Answer) -> Answer | None:
        """Apply a fault that takes effect after the operation; return the answer to send, or None."""
        if rule.kind == "error_after":
            answer.close()
            return error_answer(rule.status, rule.reason)
        if rule.kind in _LOST:
            answer.close()
            if rule.kind == "drop_after":
                exchange.drop()
            return None
        if rule.kind == "wrong_length":
            answer.pad_or_cut(rule.by)
        if rule.kind == "odd_item":
            answer.body = add_odd_items(answer.body, rule.path, rule.field, rule.value)
        return answer

    async def _apply_replacing_fault(self, exchange: Exchange, rule: Rule) -> Answer | None:
        """Apply a fault that replaces the operation; return the answer to send, or None."""
        if rule.kind == "drop":
            exchange.drop()
            return None
        if rule.kind == "silent":
            await exchange.hang()
            return None
        await exchange.drain()
        if rule.kind == "hang":
            return None
        if rule.kind == "gateway":
            return Answer(rule.status, _PAGE, [(b"content-type", b"text/html")])
        answer = error_answer(_STATUS.get(rule.kind, rule.status), rule.reason)
        if rule.retry_after is not None and rule.kind in _STATUS:
            answer.headers.append((b"retry-after", self._retry_after_value(rule.retry_after)))
        return answer

    def _retry_after_value(self, retry_after: str) -> bytes:
        """Return the header's value; "+N" becomes the date N seconds from now."""
        if retry_after.startswith("+"):
            retry_after = formatdate(self._store.now() + float(retry_after), usegmt=True)
        return retry_after.encode()

    async def _run_operation(self, exchange: Exchange, route: Route) -> Answer:
        """Return the operation's answer; turn its exceptions into the reference's error bodies."""
        try:
            answer = self._find_refusal(exchange, route)
            if answer is None:
                return await self._operations.table[route.operation](exchange)
        except Refused as refused:
            answer = _refused_answer(exchange, refused)
        except Missing as missing:
            answer = error_answer(404, str(missing))
        except Invalid as invalid:
            answer = Answer(422, invalid_json(invalid.where, str(invalid)))
        except Unsupported:
            answer = self._unsupported_answer(exchange)
        except ConnectionResetError:
            raise
        except OSError as failure:
            answer = error_answer(507 if failure.errno == errno.ENOSPC else 500, failure.strerror)
        # Read the rest of the body: a client that is still sending could miss the answer.
        await exchange.drain()
        return answer

    def _find_refusal(self, exchange: Exchange, route: Route) -> Answer | None:
        """Return the error that precedes the operation, if any; checked in this order: 404 or 405, 307, 401, 422, 404 (job)."""
        if not route.operation:
            return _no_operation_answer(route)
        redirect = self._find_redirect(exchange, route)
        if redirect is not None:
            return redirect
        if not self._is_authorized(exchange):
            return error_answer(401, "Failed to authenticate")
        self._find_job(exchange, route)
        return None

    def _find_job(self, exchange: Exchange, route: Route) -> None:
        """Give the exchange its workspace and item id. Raises Invalid, Missing."""
        if not is_valid_id(route.job):
            raise Invalid("params.expertJobId", "expected 24 characters of a-z and 0-9")
        if route.item and not is_valid_id(route.item):
            raise Invalid("params.workspaceItemId", "expected 24 characters of a-z and 0-9")
        workspace = self._workspaces.get(route.job)
        if workspace is None:
            if route.operation == "instance" or exchange.behaviour.unknown_job == 404:
                raise Missing("Expert job not found")
            workspace = MissingWorkspace(self._store, route.job)
        exchange.workspace = workspace
        exchange.item_id = route.item

    def _is_authorized(self, exchange: Exchange) -> bool:
        scheme, _, key = exchange.request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self._key)

    def _find_redirect(self, exchange: Exchange, route: Route) -> Answer | None:
        mode = exchange.behaviour.trailing_slash
        path = exchange.request.scope["raw_path"].decode("ascii")
        wanted = "/" if route.collection and mode == "slash" else ""
        if mode == "both" or path.endswith("/") is bool(wanted):
            return None
        url = exchange.request.url.replace(path=path.rstrip("/") + wanted)
        answer = Answer(307, b"")
        answer.headers.append((b"location", str(url).encode()))
        return answer

    def _unsupported_answer(self, exchange: Exchange) -> Answer:
        if exchange.behaviour.other_encoding == 422:
            return Answer(422, invalid_json("body", "expected another content type"))
        return error_answer(415, "Unsupported content type")

    def _date_value(self) -> bytes:
        """Return the Date header by the server's own clock."""
        second = int(self._store.now())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]


def _no_operation_answer(route: Route) -> Answer:
    if not route.allow:
        return error_answer(404, "Route not found")
    answer = error_answer(405, "Method not allowed")
    answer.headers.append((b"allow", route.allow.encode()))
    return answer


def _refused_answer(exchange: Exchange, refused: Refused) -> Answer:
    if isinstance(refused, BadPath) and exchange.behaviour.bad_path_status == 422:
        return Answer(422, invalid_json("body.path", str(refused)))
    return error_answer(400, str(refused))
