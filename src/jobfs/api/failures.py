"""What a failed request means: from status or from httpx's exceptions to errors.py (vfs/semantics.md 5, api/wire.md, Errors)."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

import httpx

from jobfs import names
from jobfs.api.access import redact_key
from jobfs.errors import (
    AnswerLostError,
    ApiError,
    BadRequestError,
    ContractError,
    InvalidPathError,
    InvalidRequestError,
    NoDirectoryError,
    NoSpaceError,
    NotFoundError,
    PathExistsError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    WrongAnswerError,
)

#: Reasons of a 400 that have a class of their own, in the reference's words.
_REASONS: dict[str, type[BadRequestError]] = {
    "path already exists": PathExistsError,
    "directory not found": NoDirectoryError,
    "invalid path": InvalidPathError,
}
_STATUSES: dict[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    413: TooLargeError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    507: NoSpaceError,
}
#: Answers that speak of the moment, not of the request.
_PASSING = frozenset({408, 425, 429, *range(500, 1000)} - {507})
#: Failures before the first byte of a request is sent; those in `NO_WAY` are known at once.
NO_WAY = (httpx.ConnectError, httpx.ProxyError)
_NOT_SENT = (*NO_WAY, httpx.ConnectTimeout, httpx.PoolTimeout)
_SECONDS = re.compile(r"\d{1,9}(\.\d+)?", re.ASCII)


class MismatchError(ValueError):
    """A reply is not what the reference says; the text says where."""


class RequestInfo(NamedTuple):
    """One request as messages name it: what is done, with what, and whether that changes anything."""

    action: str
    method: str
    target: str
    subject: str = ""
    is_change: bool = False

    def __str__(self) -> str:
        return (
            f"{self.action} {names.escape_for_terminal(names.replace_hidden_names(self.subject))}"
            if self.subject
            else self.action
        )


def error_from_reply(
    call: RequestInfo, status: int, headers: Mapping[str, str], body: bytes, key: str
) -> ApiError:
    """The error that an answer other than success means; the only place that maps statuses."""
    try:
        said = json.loads(body[: 64 << 10])  # no more of a hostile body becomes objects
    except (ValueError, RecursionError):
        said = None
    said = said if isinstance(said, dict) else {}
    reason = said.get("reason", "")
    if not isinstance(reason, str):
        reason = json.dumps(reason, ensure_ascii=False)
    # Cut only after the key was scrubbed: half a key would not be recognised.
    reason = _to_one_line(redact_key(reason, key))[:300]
    phrase = f"{status} {httpx.codes.get_reason_phrase(status)}".strip()
    phrase = "401 (API key refused)" if status == 401 else phrase
    told = f"{call}: the server answered {phrase}" + (f": {reason}" if reason else "")
    gone = said.get("code") in (404, "404") or said.get("error") == "Not Found"
    if status == 404 and not gone:
        # A gateway's own 404 says nothing about the item: "not there" must come from the API (section 5).
        return _transient_error(call, status, headers, f"{told} (something on the way, not the API)")
    if status in _PASSING:
        return _transient_error(call, status, headers, told)
    return _error_class(status, reason)(told, status=status)


def _error_class(status: int, reason: str) -> type[ApiError]:
    """The class of an error that speaks of the request."""
    if status in (400, 409):
        named = (kind for words, kind in _REASONS.items() if reason.casefold().startswith(words))
        return next(named, BadRequestError)
    return _STATUSES.get(status, BadRequestError if 400 <= status < 500 else ContractError)


def _transient_error(call: RequestInfo, status: int, headers: Mapping[str, str], told: str) -> ApiError:
    asked = headers.get("retry-after", "").strip()
    wait = float(asked) if _SECONDS.fullmatch(asked) else None
    refused = status == 429 or (status == 503 and wait is not None)
    if call.is_change and not refused:
        return AnswerLostError(told, status=status)
    error = UnavailableError(told, status=status)
    error.wait = wait or 0.0
    return error


def error_from_exception(call: RequestInfo, exc: httpx.HTTPError | MismatchError) -> ApiError:
    """The error that an exception of httpx means, or an odd answer; the only place that maps them."""
    if isinstance(exc, MismatchError):
        # A changing request was most likely carried out.
        kind = WrongAnswerError if call.is_change else ContractError
        return kind(f"{call}: the reply does not match the API reference: {exc}", status=200)
    told = f"{call}: {describe_exception(exc)}"
    number = errno.ETIMEDOUT if isinstance(exc, httpx.TimeoutException) else errno.EIO
    number = errno.ENETUNREACH if isinstance(exc, NO_WAY) else number
    lost = call.is_change and not isinstance(exc, _NOT_SENT)
    return (AnswerLostError if lost else UnavailableError)(told, errno=number)


def _to_one_line(text: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())


def describe_exception(exc: Exception) -> str:
    """Why a request got no answer, in words."""
    if isinstance(exc, httpx.TimeoutException):
        return "no answer in time"
    detail = _to_one_line(str(exc))
    if "CERTIFICATE_VERIFY_FAILED" in detail:  # OpenSSL's word
        return f"the server's certificate is not trusted: {detail} (SSL_CERT_FILE names those to be trusted)"
    if detail.startswith("407 "):
        return f"the proxy refuses to connect: {detail}: correct user and password in HTTPS_PROXY"
    if "WRONG_VERSION_NUMBER" in detail or "RECORD_LAYER_FAILURE" in detail:
        return "no https is spoken there: for a server on this machine give http://, else another port"
    told = "no connection" if isinstance(exc, NO_WAY) else "the connection broke"
    return f"{told}: {detail}" if detail else told
