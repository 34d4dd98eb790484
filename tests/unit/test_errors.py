"""The error tree and its errnos."""

from __future__ import annotations

import errno

import pytest

from jobfs import errors
from jobfs.errors import ApiError, again


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (errors.BadRequestError, errno.EIO), (errors.PathExistsError, errno.EEXIST),
        (errors.NoDirectoryError, errno.ENOENT), (errors.InvalidPathError, errno.EINVAL),
        (errors.UnauthorizedError, errno.EACCES), (errors.NotFoundError, errno.ENOENT),
        (errors.TooLargeError, errno.EFBIG), (errors.InvalidRequestError, errno.EINVAL),
        (errors.NoSpaceError, errno.ENOSPC), (errors.ContractError, errno.EIO),
        (errors.UnavailableError, errno.EIO), (errors.AnswerLostError, errno.EIO),
    ],
)  # fmt: skip
def test_each_error_of_the_api_has_its_errno(kind: type[errors.ApiError], number: int) -> None:
    """semantics 5: the table of errnos."""
    error = kind("what happened", endpoint="find", status=400)
    assert (error.errno, error.endpoint, error.status, str(error)) == (number, "find", 400, "what happened")
    assert isinstance(error, errors.JobfsError)


def test_an_errno_can_be_given() -> None:
    assert errors.UnavailableError("late", errno=errno.ETIMEDOUT).errno == errno.ETIMEDOUT
    assert errors.UnavailableError("late").errno == errno.EIO


def test_a_refused_operation_says_what_the_system_says() -> None:
    error = errors.FsError(errno.ENOTEMPTY)
    assert error.errno == errno.ENOTEMPTY
    assert "not empty" in str(error)
    assert str(errors.FsError(errno.EIO, "why")) == "why"


def test_only_what_does_not_pass_by_waiting_is_a_refusal() -> None:
    """semantics 4: an upload that the server refuses for good (400, 401, 413, 422) is failed, others are retried."""
    assert issubclass(errors.PathExistsError, errors.REFUSALS)
    assert issubclass(errors.UnauthorizedError, errors.REFUSALS)
    for passing in (errors.UnavailableError, errors.NotFoundError, errors.ContractError, errors.NoSpaceError):
        assert not issubclass(passing, errors.REFUSALS)


def test_an_error_raised_again_says_the_same_without_its_past() -> None:
    """What many wait for may fail for all of them: a shared exception would collect every traceback."""
    try:
        raise ApiError("down", endpoint="find", status=502)
    except ApiError as exc:
        fresh = again(exc)
    assert (str(fresh), fresh.endpoint, fresh.status, type(fresh)) == ("down", "find", 502, ApiError)
    assert fresh.__traceback__ is None
