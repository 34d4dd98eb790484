"""The error tree: each class has an errno (vfs/semantics.md 5) and a message a user can act on."""

from __future__ import annotations

import errno as _errno
import os
from typing import TypeVar


class JobfsError(Exception):
    """Base of every error that jobfs raises on purpose; `errno` is what a program in the mount sees."""

    errno: int = _errno.EIO

    def __init_subclass__(cls, errno: int | None = None) -> None:
        cls.errno = errno or cls.errno

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        if errno is not None:
            self.errno = errno


_Error = TypeVar("_Error", bound=JobfsError)


def copy_error(error: _Error) -> _Error:
    """A copy of `error` to raise once more, or in another thread, without the frames that `error` itself holds on to."""
    fresh = type(error).__new__(type(error), *error.args)
    fresh.__dict__.update(error.__dict__)
    return fresh


class UsageError(JobfsError, errno=_errno.EINVAL):
    """Bad input; the message is the one sentence the user reads, with the remedy."""


class FsError(JobfsError):
    """An operation refused by jobfs itself, with the errno that the caller gets."""

    def __init__(self, errno: int, message: str = "") -> None:
        super().__init__(message or os.strerror(errno), errno=errno)


class ApiError(JobfsError):
    """The failure of one request; `status` is the HTTP status if any."""

    def __init__(self, message: str, *, status: int | None = None, errno: int | None = None) -> None:
        super().__init__(message, errno=errno)
        self.status = status


class BadRequestError(ApiError):
    """400 with a reason that has no class of its own."""


class PathExistsError(BadRequestError, errno=_errno.EEXIST):
    """400 "Path already exists"."""


class NoDirectoryError(BadRequestError, errno=_errno.ENOENT):
    """400 "Directory not found": the parent directory is not there."""


class InvalidPathError(BadRequestError, errno=_errno.EINVAL):
    """400 "Invalid path"."""


class UnauthorizedError(ApiError, errno=_errno.EACCES):
    """401: the API key was refused."""


class NotFoundError(ApiError, errno=_errno.ENOENT):
    """404: the item, or the job, is not there."""


class TooLargeError(ApiError, errno=_errno.EFBIG):
    """413: the server does not take a file of this size."""


class InvalidRequestError(ApiError, errno=_errno.EINVAL):
    """422 (or 415): the server refuses the form of the request."""


class NoSpaceError(ApiError, errno=_errno.ENOSPC):
    """507: the server has no space left."""


class ContractError(ApiError):
    """A reply that does not match the API reference: bad JSON, wrong fields, wrong length, foreign redirect."""


class UnavailableError(ApiError):
    """Could not ask: no connection (ENETUNREACH), or only 429/5xx until the deadline. Nothing was changed.

    `wait`: seconds that the server asked to be left alone for (Retry-After), 0.0 if it did not.
    """

    wait: float = 0.0


class AnswerLostError(UnavailableError):
    """A changing request was sent and its answer never came: it may or may not have been carried out."""


class WrongAnswerError(AnswerLostError):
    """A changing request succeeded, but its answer shows something else than was asked for: a look tells what was done."""


class ItemChangedError(UnavailableError, errno=_errno.ESTALE):
    """Nothing was sent: the item is no longer where, or what, it was when it was looked at (save/protocol.md R8)."""


class OutOfTimeError(UnavailableError, errno=_errno.ETIMEDOUT):
    """The call had no time left, and the server was not asked. That says nothing of the server."""


class HeldBackError(UnavailableError):
    """Nothing was sent: the server is known to be out of reach (ENETUNREACH), or the background leaves it alone for `wait` s."""


#: Refusals that do not pass by waiting: sending the same thing again gets the same answer.
REFUSALS = (BadRequestError, UnauthorizedError, TooLargeError, InvalidRequestError)
