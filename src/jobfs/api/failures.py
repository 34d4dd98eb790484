"""Maps failed requests, by status or httpx's exception, to errors.py (vfs/semantics.md 5; api/wire.md, Errors)."""

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
#: Transient statuses, which say nothing about the request itself.
_PASSING = frozenset({408, 425, 429, *range(500, 1000)} - {507})
#: Failures to connect that are known at once: nothing was sent.
NO_WAY = (httpx.ConnectError, httpx.ProxyError)
#: All failures before the first byte of a request is sent.
_NOT_SENT = (*NO_WAY, httpx.ConnectTimeout, httpx.PoolTimeout)
_SECONDS = re.compile(r"\d{1,9}(\.\d+)?", re.ASCII)


class MismatchError(ValueError):
    """A reply that does not match the API reference; the text says where."""


class RequestInfo(NamedTuple):
    """One request as messages name it: the action, its target and subject, and whether it changes anything."""

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
    """Return the error for a reply that is not a success; no other function maps statuses."""
    try:
        fields = json.loads(body[: 64 << 10])  # bounds the objects that a hostile body becomes
    except (ValueError, RecursionError):
        fields = None
    fields = fields if isinstance(fields, dict) else {}
    reason = fields.get("reason", "")
    if not isinstance(reason, str):
        reason = json.dumps(reason, ensure_ascii=False)
    # Redact the key before the cut: half a key would not be recognized.
    reason = _to_one_line(redact_key(reason, key))[:300]
    phrase = f"{status} {httpx.codes.get_reason_phrase(status)}".strip()
    phrase = "401 (API key refused)" if status == 401 else phrase
    message = f"{call}: the server answered {phrase}" + (f": {reason}" if reason else "")
    api_says_so = fields.get("code") in (404, "404") or fields.get("error") == "Not Found"
    if status == 404 and not api_says_so:
        # A gateway's 404 says nothing about the item: only the API's own 404 counts (vfs/semantics.md 5.14).
        return _transient_error(call, status, headers, f"{message} (from a gateway, not the API)")
    if status in _PASSING:
        return _transient_error(call, status, headers, message)
    return _error_class(status, reason)(message, status=status)


def _error_class(status: int, reason: str) -> type[ApiError]:
    """Return the class of an error that concerns the request itself."""
    if status in (400, 409):
        named = (kind for words, kind in _REASONS.items() if reason.casefold().startswith(words))
        return next(named, BadRequestError)
    return _STATUSES.get(status, BadRequestError if 400 <= status < 500 else ContractError)


def _transient_error(call: RequestInfo, status: int, headers: Mapping[str, str], message: str) -> ApiError:
    retry_after = headers.get("retry-after", "").strip()
    wait = float(retry_after) if _SECONDS.fullmatch(retry_after) else None
    refused = status == 429 or (status == 503 and wait is not None)
    if call.is_change and not refused:
        return AnswerLostError(message, status=status)
    error = UnavailableError(message, status=status)
    error.wait = wait or 0.0
    return error


def error_from_exception(call: RequestInfo, exc: httpx.HTTPError | MismatchError) -> ApiError:
    """Return the error for an exception of httpx or a mismatched reply; no other function maps them."""
    if isinstance(exc, MismatchError):
        # A change was most likely carried out.
        kind = WrongAnswerError if call.is_change else ContractError
        return kind(f"{call}: the reply does not match the API reference: {exc}", status=200)
    message = f"{call}: {describe_exception(exc)}"
    number = errno.ETIMEDOUT if isinstance(exc, httpx.TimeoutException) else errno.EIO
    number = errno.ENETUNREACH if isinstance(exc, NO_WAY) else number
    lost = call.is_change and not isinstance(exc, _NOT_SENT)
    return (AnswerLostError if lost else UnavailableError)(message, errno=number)


def _to_one_line(text: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())


def describe_exception(exc: Exception) -> str:
    """Describe why a request got no answer."""
    if isinstance(exc, httpx.TimeoutException):
        return "no answer in time"
    detail = _to_one_line(str(exc))
    if "CERTIFICATE_VERIFY_FAILED" in detail:  # OpenSSL's word
        return f"the server's certificate is not trusted: {detail} (set SSL_CERT_FILE to the certificates to trust)"
    if detail.startswith("407 "):
        return f"the proxy refuses to connect: {detail}: correct user and password in HTTPS_PROXY"
    if "WRONG_VERSION_NUMBER" in detail or "RECORD_LAYER_FAILURE" in detail:
        return "the server does not speak https: for a server on this machine give http://, else another port"
    failure = "no connection" if isinstance(exc, NO_WAY) else "the connection broke"
    return f"{failure}: {detail}" if detail else failure
