"""A whole save with a conflict: by a program in a temporary mount, while the job replaces the same file."""

from __future__ import annotations

import os
from pathlib import Path

from jobfs import names
from jobfs.errors import JobfsError
from jobfs.nodes import Permission
from jobfs.trial.asking import Finding, Trial, Verdict, bad, good
from jobfs.trial.place import everything

_NAME = "note.txt"
_BEFORE, _JOBS, _USERS = b"as it was", b"as the job has made it", b"as the user has saved it"


def conflict(trial: Trial) -> Finding:
    """Save a file in a mount of a directory of the try, while it is replaced there. Raises ApiError, JobfsError."""
    if trial.mounting is None:
        return Finding("there is no FUSE on this machine", Verdict.SKIPPED, "see the checks above")
    trial.make_directory("saved")
    trial.file(f"saved/{_NAME}", _BEFORE)
    try:
        with trial.mounting(trial.path("saved")) as point:
            trouble = _save(trial, point)
    except OSError as error:
        return bad(
            f"a program in the mount got: {error.strerror}", "saves fail on this server", save="failed"
        )
    except JobfsError as error:
        return bad(str(error), "no mount of this server works here", save="failed")
    trouble = trouble or _kept(trial)
    if trouble:
        return bad(trouble, "saves can't be relied on with this server", save="failed")
    return good(
        "the save has the name, the job's version is beside it",
        "nothing is lost when both change a file",
        save="kept both",
    )


def _save(trial: Trial, point: Path) -> str:
    """What went wrong, "" if nothing did. Raises OSError, ApiError."""
    target = trial.path(f"saved/{_NAME}")
    with (point / _NAME).open("r+b", buffering=0) as file:
        if file.read() != _BEFORE:
            return "the mount shows other bytes than the server has"
        for item in trial.client.find(target):
            trial.client.delete(item.id)
        trial.client.create_file(target, *trial.source(_JOBS), Permission.READ_WRITE)
        file.seek(0)
        file.write(_USERS)
        file.truncate()
        os.fsync(file.fileno())
    found = trial.client.find(target)
    if len(found) != 1:
        return f"after the save there are {len(found)} files of its name"
    return (
        "" if trial.bytes_of(found[0].id) == _USERS else "after fsync the server does not have what was saved"
    )


def _kept(trial: Trial) -> str:
    """What is wrong with what the mount left, "" if nothing is. Raises ApiError."""
    place = trial.path("saved")
    items = [item for item in everything(trial.client) if names.under(item.path, place)]
    contents = sorted(trial.bytes_of(item.id) for item in items if not item.is_dir)
    if any(names.parse_hidden(names.basename(item.path)) for item in items):
        return "the save has left something under a hidden name"
    if contents == sorted((_JOBS, _USERS)):
        return ""
    return (
        "the job's version is gone" if _JOBS not in contents else f"there are {len(contents)} versions, not 2"
    )
