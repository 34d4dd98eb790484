"""The error tree: each class has an errno (vfs/semantics.md 5) and a message a user can act on."""

from __future__ import annotations

import errno as _errno
import os
from typing import TypeVar


class JobfsError(Exception):
    """Base of every error that jobfs raises on purpose; `errno` is what a program in the mount sees."""

    errno: int = _errno.EIO

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        if errno is not None:
            self.errno = errno


_Error = TypeVar("_Error", bound=JobfsError)


def again(error: _Error) -> _Error:
    """A copy of `error` to raise once more, or in another thread, without the frames that `error` itself holds on to."""
    fresh = type(error).__new__(type(error), *error.args)
    fresh.__dict__.update(error.__dict__)
    return fresh


class UsageError(JobfsError):
    """Bad input; the message is the one sentence the user reads, with the remedy."""

    errno = _errno.EINVAL


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


class PathExistsError(BadRequestError):
    """400 "Path already exists"."""

    errno = _errno.EEXIST


class NoDirectoryError(BadRequestError):
    """400 "Directory not found": the parent directory is not there."""

    errno = _errno.ENOENT


class InvalidPathError(BadRequestError):
    """400 "Invalid path"."""

    errno = _errno.EINVAL


class UnauthorizedError(ApiError):
    """401: the API key was refused."""

    errno = _errno.EACCES


class NotFoundError(ApiError):
    """404: the item, or the job, is not there."""

    errno = _errno.ENOENT


class TooLargeError(ApiError):
    """413: the server does not take a file of this size."""

    errno = _errno.EFBIG


class InvalidRequestError(ApiError):
    """422 (or 415): the server refuses the form of the request."""

    errno = _errno.EINVAL


class NoSpaceError(ApiError):
    """507: the server has no space left."""

    errno = _errno.ENOSPC


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


class OutOfTimeError(UnavailableError):
    """The call had no time left, and the server was not asked. That says nothing of the server."""

    errno = _errno.ETIMEDOUT


class HeldBackError(UnavailableError):
    """Nothing was sent: the server is known to be out of reach (ENETUNREACH), or the background leaves it alone for `wait` s."""


#: Refusals that do not pass by waiting: sending the same thing again gets the same answer.
REFUSALS = (BadRequestError, UnauthorizedError, TooLargeError, InvalidRequestError)
