"""The error tree and its errnos."""

from __future__ import annotations

from jobfs import errors
from jobfs.errors import ApiError, copy_error


def test_only_an_error_that_persists_is_a_refusal() -> None:
    """vfs/semantics.md 4: an upload that the server refuses for good (400, 401, 413, 422) is failed, others are retried."""
    assert issubclass(errors.PathExistsError, errors.REFUSALS)
    assert issubclass(errors.UnauthorizedError, errors.REFUSALS)
    for passing in (errors.UnavailableError, errors.NotFoundError, errors.ContractError, errors.NoSpaceError):
        assert not issubclass(passing, errors.REFUSALS)


def test_an_error_raised_again_has_its_message_and_no_old_traceback() -> None:
    """A request may fail for all calls that wait for it: a shared exception would collect every traceback."""
    try:
        raise ApiError("down", status=502)
    except ApiError as exc:
        fresh = copy_error(exc)
    assert (str(fresh), fresh.status, type(fresh)) == ("down", 502, ApiError)
    assert fresh.__traceback__ is None
