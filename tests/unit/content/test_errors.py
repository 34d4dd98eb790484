"""Errors raised in several threads."""

from __future__ import annotations

import errno

from jobfs.content.errors import StaleVersionError, again
from jobfs.errors import ApiError, UnavailableError


def test_a_copy_says_the_same_and_shares_no_traceback() -> None:
    error = UnavailableError("down", endpoint="download", status=503, errno=errno.ETIMEDOUT)
    try:
        raise error
    except UnavailableError:
        twin = again(error)
    assert twin is not error
    assert twin.__traceback__ is None
    assert (str(twin), twin.endpoint, twin.status, twin.errno) == ("down", "download", 503, errno.ETIMEDOUT)


def test_a_stale_version_is_an_api_error_with_its_own_errno() -> None:
    assert issubclass(StaleVersionError, ApiError)
    assert StaleVersionError("gone").errno == errno.ESTALE
