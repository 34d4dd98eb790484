"""The error tree. Each error has an errno (vfs/semantics.md 5), and a message that a user can act on."""

from __future__ import annotations

import errno as _errno
import os
from typing import TypeVar


class JobfsError(Exception):
    """The base of all errors that jobfs raises on purpose; `errno` is the one that a program in the mount gets."""

    errno: int = _errno.EIO

    def __init_subclass__(cls, errno: int | None = None) -> None:
        cls.errno = errno or cls.errno

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        if errno is not None:
            self.errno = errno


_Error = TypeVar("_Error", bound=JobfsError)


def copy_error(error: _Error) -> _Error:
    """Return a copy of `error`, without its traceback, to raise again or in another thread."""
    fresh = type(error).__new__(type(error), *error.args)
    fresh.__dict__.update(error.__dict__)
    return fresh


class UsageError(JobfsError, errno=_errno.EINVAL):
    """Bad input. The message is all that the user reads: one sentence, with the remedy."""


class FsError(JobfsError):
    """An operation that jobfs itself refuses."""

    def __init__(self, errno: int, message: str = "") -> None:
        super().__init__(message or os.strerror(errno), errno=errno)


class ApiError(JobfsError):
    """The failure of one request; `status`: the HTTP status, None if there was no reply."""

    def __init__(self, message: str, *, status: int | None = None, errno: int | None = None) -> None:
        super().__init__(message, errno=errno)
        self.status = status


class BadRequestError(ApiError):
    """400, for a reason that has no class of its own."""


class PathExistsError(BadRequestError, errno=_errno.EEXIST):
    """400 "Path already exists"."""


class NoDirectoryError(BadRequestError, errno=_errno.ENOENT):
    """400 "Directory not found": the parent directory does not exist."""


class InvalidPathError(BadRequestError, errno=_errno.EINVAL):
    """400 "Invalid path"."""


class UnauthorizedError(ApiError, errno=_errno.EACCES):
    """401: the API key was refused."""


class NotFoundError(ApiError, errno=_errno.ENOENT):
    """404: the item, or the job, does not exist."""


class TooLargeError(ApiError, errno=_errno.EFBIG):
    """413: the server refuses a file of this size."""


class InvalidRequestError(ApiError, errno=_errno.EINVAL):
    """422 or 415: the server refuses the form of the request."""


class NoSpaceError(ApiError, errno=_errno.ENOSPC):
    """507: the server has no space left."""


class ContractError(ApiError):
    """A reply that does not match the API reference: bad JSON, wrong fields, a wrong length, or a redirect to another host."""


class UnavailableError(ApiError):
    """The server could not be asked: no connection (ENETUNREACH), or only 429 and 5xx until the deadline. Nothing was changed.

    `wait`: the seconds that the server asked to wait (`Retry-After`), 0.0 if it did not ask.
    """

    wait: float = 0.0


class AnswerLostError(UnavailableError):
    """A request that changes something was sent, and its answer was lost: it may or may not have been carried out."""


class WrongAnswerError(AnswerLostError):
    """A request that changes something succeeded, but its answer shows another result: the server must be looked at again."""


class ItemChangedError(UnavailableError, errno=_errno.ESTALE):
    """Nothing was sent, because the item has another path or version than in the observation (save/protocol.md R8)."""


class OutOfTimeError(UnavailableError, errno=_errno.ETIMEDOUT):
    """The deadline of the call passed while it waited. That says nothing about the server."""


class HeldBackError(UnavailableError):
    """Nothing was sent: the server is known to be unreachable (ENETUNREACH), or the background must wait for `wait` seconds."""


#: The errors for which a retry is of no use: the same request gets the same answer.
REFUSALS = (BadRequestError, UnauthorizedError, TooLargeError, InvalidRequestError)
