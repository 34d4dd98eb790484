from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from jobfs import errors
from jobfs.api import failures
from jobfs.api.failures import RequestInfo

from .world import KEY

READ = RequestInfo("looking up", "GET", "/x", "a.txt")
GATEWAYS = [b"", b" <html>gone</html>", b'["Not Found"]', b'{"code": [404], "error": {}}', b"[" * 100_000]
CHANGE = RequestInfo("uploading", "POST", "/x", "a.txt", is_change=True)


def from_answer(call: RequestInfo, status: int, headers: dict[str, str], body: bytes) -> errors.ApiError:
    return failures.error_from_reply(call, status, headers, body, KEY)


def body(reason: Any, status: int = 0) -> bytes:
    return json.dumps({"code": status, "error": "E", "reason": reason}).encode()


@pytest.mark.parametrize("call", [READ, CHANGE])
@pytest.mark.parametrize(("status", "reason", "kind", "number"), [
    (400, "Path already exists", errors.PathExistsError, errno.EEXIST),
    (400, "Directory not found", errors.NoDirectoryError, errno.ENOENT),
    (400, "Invalid path", errors.InvalidPathError, errno.EINVAL),
    (400, "At least one field is required", errors.BadRequestError, errno.EIO),
    (401, "Failed to authenticate", errors.UnauthorizedError, errno.EACCES),
    (403, "no", errors.UnauthorizedError, errno.EACCES),
    (404, "Workspace item not found", errors.NotFoundError, errno.ENOENT),
    (413, "too big", errors.TooLargeError, errno.EFBIG),
    (415, "no", errors.InvalidRequestError, errno.EINVAL),
    (422, [{"path": "x"}], errors.InvalidRequestError, errno.EINVAL),
    (507, "full", errors.NoSpaceError, errno.ENOSPC), (418, "teapot", errors.BadRequestError, errno.EIO),
    (304, "", errors.ContractError, errno.EIO),
])  # fmt: skip
def test_each_status_has_its_error_and_errno(
    call: RequestInfo, status: int, reason: Any, kind: type[errors.ApiError], number: int
) -> None:
    """vfs/semantics.md 5.1, 5.3, 5.4, 5.5: the errno of each answer."""
    failure = from_answer(call, status, {}, body(reason, status))
    assert type(failure) is kind
    assert (failure.errno, failure.status) == (number, status)


@pytest.mark.parametrize(("reason", "reported"), [
    ("Invalid path", "Invalid path"), ([{"path": "take"}], '[{"path": "take"}]'),
    ("two\nlines\x1b[31m", "two lines [31m"), ("x" * 5000, "x" * 300),
    ("x" * (300 - len(KEY) // 2) + KEY, "x" * (300 - len(KEY) // 2) + "***"),
])  # fmt: skip
def test_a_message_is_one_line_of_operation_path_status_and_reason(reason: Any, reported: str) -> None:
    """The key is scrubbed before the reason is cut."""
    message = str(from_answer(CHANGE, 400, {}, body(reason)))
    assert message == f"uploading a.txt: the server answered 400 Bad Request: {reported}"
    assert str(from_answer(CHANGE, 401, {}, b"")) == (
        "uploading a.txt: the server answered 401 (API key refused)"
    )
    for page in (b"<html>no</html>", body("x" * 70_000)):
        assert str(from_answer(READ, 502, {}, page)).endswith("502 Bad Gateway")


@pytest.mark.parametrize("page", GATEWAYS)
def test_a_404_counts_only_if_its_body_is_of_the_api(page: bytes) -> None:
    """vfs/semantics.md 5.14: otherwise as 502: reading is retried, a change has lost its answer."""
    reading, changing = from_answer(READ, 404, {}, page), from_answer(CHANGE, 404, {}, page)
    assert (type(reading), type(changing)) == (errors.UnavailableError, errors.AnswerLostError)
    assert (reading.errno, "not the API" in str(reading)) == (errno.EIO, True)
    for said in (b'{"code": "404"}', b'{"error": "Not Found"}', b'{"code": 404, "reason": []}'):
        assert type(from_answer(CHANGE, 404, {}, said)) is errors.NotFoundError


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0.0), ("120", 120.0), ("1.5", 1.5), ("", None), ("-1", None), ("soon", None)]
)
def test_retry_after_in_seconds_means_that_nothing_was_done(value: str, seconds: float | None) -> None:
    failure = from_answer(CHANGE, 503, {"retry-after": value}, b"")
    kind = errors.AnswerLostError if seconds is None else errors.UnavailableError
    assert (type(failure), failure.wait) == (kind, seconds or 0.0)  # type: ignore[attr-defined]
