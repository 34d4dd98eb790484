"""What can be wrong with content beyond what the API itself says."""

from __future__ import annotations

import copy
import errno
from typing import TypeVar

from jobfs.errors import ApiError, ContractError, JobfsError

_Error = TypeVar("_Error", bound=JobfsError)


class StaleVersionError(ApiError):
    """The server no longer has this version: the job wrote the item in place. Look up, open again."""

    errno = errno.ESTALE


class WrongLengthError(ContractError):
    """A body of another length than the item's size: was the item written meanwhile, or is the server wrong?"""


class UnboundedError(ContractError):
    """More came than is taken of a content whose size neither the item nor the download tells."""

    errno = errno.EFBIG


class CrowdedError(ContractError):
    """Contents whose size neither the items nor the downloads tell take too much room together: ask again later."""

    errno = errno.ENOSPC


def again(error: _Error) -> _Error:
    """A copy of `error` to raise in one more thread: a shared exception would collect every traceback."""
    twin = copy.copy(error)
    twin.__traceback__ = None
    twin.__cause__ = None
    return twin
