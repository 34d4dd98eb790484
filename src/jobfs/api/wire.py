"""One request and its retries: key, deadline, health (semantics.md section 5)."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from jobfs.api.answers import MOST_JSON, MOST_REASON, read_answer
from jobfs.api.bodies import Body
from jobfs.api.failures import Call, Failure, MismatchError, from_answer, from_exception, mismatch
from jobfs.api.health import Monitor
from jobfs.api.key import KeySource, check_key, scrub
from jobfs.api.redirect import MAX_REDIRECTS, REDIRECTS, Redirects, refusal
from jobfs.api.retry import Deadline, backoff
from jobfs.api.transport import pool
from jobfs.errors import ApiError, ContractError, UnauthorizedError, UnavailableError

logger = logging.getLogger("jobfs.api")


class Send(NamedTuple):
    """What is sent for a call; `streamed`: the caller reads the body; `statuses`: welcome besides 2xx.

    `limit`: the most bytes of an answer that is not streamed.
    """

    body: Body | None = None
    headers: Sequence[tuple[str, str]] = (("Accept-Encoding", "gzip"),)
    streamed: bool = False
    statuses: frozenset[int] = frozenset()
    limit: int = MOST_JSON


_PLAIN = Send()
_NO_BODY = httpx.ByteStream(b"")


class Wire:
    """Sends requests to one server over one connection pool; safe for many threads at once."""

    def __init__(
        self,
        base_url: str,
        key: KeySource,
        *,
        timeout: float,
        max_connections: int,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.monitor = Monitor()
        self._key = key
        self._timeout = timeout
        self._redirects = Redirects(base_url)
        self._transport = transport or pool(base_url, timeout, max_connections)
        host = httpx.URL(base_url).netloc.decode("ascii")
        self._headers = [("Host", host), ("User-Agent", "jobfs"), ("Accept", "*/*")]
        self._closed = threading.Event()

    def close(self) -> None:
        """Close every connection; requests that wait for a retry end at once."""
        self._closed.set()
        self._transport.close()

    def request(
        self, call: Call, send: Send = _PLAIN, timeout: float | None = None, *, once: bool = False
    ) -> httpx.Response:
        """The answer, if it is a success; retried as semantics.md section 5 says; raises ApiError.

        `timeout`: seconds without progress, over all attempts; the client's own if None. `once`: no attempt after a pause,
        for what must be looked at again before it is sent again.
        """
        deadline = Deadline(self._timeout if timeout is None else timeout)
        key, renewed, attempt = check_key(self._key()), False, 0
        while True:
            if self._closed.is_set():
                raise UnavailableError(f"{call}: the client is closed", endpoint=call.endpoint)
            outcome = self._attempt(call, send, key, deadline)
            if isinstance(outcome, httpx.Response):
                return outcome
            if isinstance(outcome.error, UnauthorizedError) and not renewed:
                old, key = key, check_key(self._key())
                renewed = True
                if key != old:
                    continue
            if not outcome.retry or (once and (attempt or not outcome.at_once)):
                raise outcome.error
            if attempt or not outcome.at_once:
                self._pause(call, outcome, attempt, deadline)
            attempt += 1

    def explain(self, call: Call, exc: httpx.HTTPError | MismatchError) -> ApiError:
        """The error for what was found wrong with a successful answer, or while a streamed body was read."""
        if not isinstance(exc, MismatchError):
            return self._failed(from_exception(call, exc), self._key()).error
        error = self._scrubbed(mismatch(call, str(exc)), self._key())
        self.monitor.failed(str(error))
        logger.warning("%s", error)
        return error

    def _pause(self, call: Call, failure: Failure, attempt: int, deadline: Deadline) -> None:
        """Wait until the next attempt; raises UnavailableError if that would be after the deadline."""
        wait, left, error = failure.wait, deadline.left(), failure.error
        if wait is not None and wait >= left > 0:
            message = f"{error} (it asks to wait {wait:g} s, longer than the deadline)"
            raise UnavailableError(message, endpoint=call.endpoint, status=error.status)
        pause = (wait or 0.0) + backoff(attempt)
        if pause >= left:
            raise UnavailableError(
                str(error), endpoint=call.endpoint, status=error.status, errno=errno.ETIMEDOUT
            )
        self._closed.wait(pause)

    def _attempt(self, call: Call, send: Send, key: str, deadline: Deadline) -> httpx.Response | Failure:
        """One attempt: the answer if it is a success, else what went wrong."""
        began, clock = time.monotonic(), time.time()
        self.monitor.sending()
        if send.body is not None:
            send.body.seconds = 0.0
        response = None
        try:
            response = self._send(call, send, key, deadline)
            latency = time.monotonic() - began
            success = 200 <= response.status_code < 300 or response.status_code in send.statuses
            if not (success and send.streamed):
                # The answer to a delete is its status, and why something failed is told in few words.
                whole = success and call.method != "DELETE"
                left = deadline.left() + (send.body.seconds if send.body is not None else 0.0)
                read_answer(response, send.limit if whole else MOST_REASON, left, whole=whole)
        except ContractError as exc:
            return self._failed(Failure(exc), key)
        except MismatchError as exc:
            return self._failed(Failure(mismatch(call, str(exc))), key)
        except httpx.HTTPError as exc:
            if response is None or not (call.method == "DELETE" and success):
                return self._failed(from_exception(call, exc), key)
            response = httpx.Response(response.status_code)  # a delete's answer is its status
        finally:
            if send.body is not None:
                deadline.extend(send.body.seconds)
        self.monitor.heard(response.headers.get("date", ""), clock, clock + latency)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s %s: %d, %.1f ms", call.method, call, response.status_code, latency * 1e3)
        if not success:
            answer = response.status_code, response.headers, response.content
            return self._failed(from_answer(call, *answer, key), key)
        self.monitor.answered(latency if send.body is None else None)
        return response

    def _send(self, call: Call, send: Send, key: str, deadline: Deadline) -> httpx.Response:
        """Send one request, following redirects; raises httpx's errors, ContractError."""
        body = send.body
        headers = [*self._headers, *send.headers, ("Authorization", f"Bearer {key}")]
        if body is not None:
            headers += [("Content-Type", body.content_type), ("Content-Length", str(body.length))]
        extensions = {"timeout": deadline.timeouts()}
        url = self._redirects.start(call)
        for _ in range(MAX_REDIRECTS + 1):
            request = httpx.Request(
                call.method, url, headers=headers, stream=body or _NO_BODY, extensions=extensions
            )
            response = self._transport.handle_request(request)
            if response.status_code not in REDIRECTS:
                return response
            read_answer(response, MOST_REASON, deadline.left(), whole=False)
            url = self._redirects.follow(call, url, response)
        raise refusal(call, response.status_code, f"more than {MAX_REDIRECTS} redirects")

    def _failed(self, failure: Failure, key: str) -> Failure:
        """Take note of a failure and log it."""
        error = self._scrubbed(failure.error, key)
        if isinstance(error, UnauthorizedError):
            self.monitor.refused(str(error))
        elif isinstance(error, (UnavailableError, ContractError)):
            self.monitor.failed(str(error))
        else:
            self.monitor.answered(None)
        logger.log(logging.WARNING if isinstance(error, ContractError) else logging.DEBUG, "%s", error)
        return failure

    @staticmethod
    def _scrubbed(error: ApiError, key: str) -> ApiError:
        error.args = (scrub(str(error), key),)
        return error
