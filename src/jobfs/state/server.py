"""What was found out about a server: `servers/<hash of the base URL>.json`, in one of two places.

Below `--state-dir` is what `jobfs doctor --try` has found, for all mounts; in the directory of one mount there is what that mount
has found by asking. Beside the first, `<hash of base URL and job>.try` is held (flock) by a `jobfs doctor --try` of that job, and
has the id in the names that it gives: what another one of this machine has left is known by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobfs.api import Known
from jobfs.api.create import Form
from jobfs.errors import UsageError
from jobfs.names import is_mount_id, new_mount_id
from jobfs.nodes import Kind
from jobfs.private import own_directory
from jobfs.state.directory import locked, refusing


def recall(state_dir: Path, base_url: str) -> Known:
    """What is known of the server at `base_url`; nothing, if it was never tried or the file can't be read."""
    try:
        facts = json.loads(_file(state_dir, "json", base_url).read_text(encoding="utf-8"))
        if facts["base_url"] != base_url:
            return Known()
        return Known(
            forms={Kind(kind): _form(form) for kind, form in facts["forms"].items()},
            rejects={Kind(kind): _flag(value) for kind, value in facts["rejects"].items()},
            moves_keep_updated_at=_flag(facts["moves_keep_updated_at"]),
            moves_carry=None if facts["moves_carry"] is None else _flag(facts["moves_carry"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Known()


def remember(state_dir: Path, base_url: str, known: Known) -> None:
    """Keep what was found out about the server at `base_url` for mounts to come. Raises UsageError if it can't be written."""
    facts = {
        "base_url": base_url,
        "forms": {str(kind): list(form) for kind, form in known.forms.items()},
        "rejects": {str(kind): value for kind, value in known.rejects.items()},
        "moves_keep_updated_at": known.moves_keep_updated_at,
        "moves_carry": known.moves_carry,
    }
    path = _file(state_dir, "json", base_url)
    draft = path.with_suffix(f".{os.getpid()}")
    with refusing(path):
        _make(state_dir)
        draft.write_text(json.dumps(facts), encoding="utf-8")
        draft.replace(path)


@contextlib.contextmanager
def trying(state_dir: Path, base_url: str, job: str) -> Iterator[str]:
    """The id in the names that a try of this job gives, 12 hex digits, the same each time; one at a time on this machine.

    Raises UsageError if another try of the job is under way.
    """
    path = _file(state_dir, "try", base_url, job)
    with refusing(path):
        _make(state_dir)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with refusing(path):
            own = _held(handle, job)
        yield own
    finally:
        os.close(handle)


def _held(handle: int, job: str) -> str:
    if not locked(handle):
        raise UsageError(f"another `jobfs doctor {job} --try` is under way: wait until it ends")
    found = os.pread(handle, 64, 0).decode("ascii", "replace")
    if is_mount_id(found):
        return found
    made = new_mount_id()
    os.ftruncate(handle, 0)
    os.pwrite(handle, made.encode(), 0)
    return made


def _file(state_dir: Path, suffix: str, *subject: str) -> Path:
    name = hashlib.blake2b("\n".join(subject).encode(), digest_size=12).hexdigest()
    return state_dir / "servers" / f"{name}.{suffix}"


def _make(state_dir: Path) -> None:
    for path in (state_dir, state_dir / "servers"):
        with own_directory(path, "state", "--state-dir"):
            pass


def _form(value: Any) -> Form:
    encoding, long_type = value
    if encoding not in ("multipart", "json"):
        raise ValueError(encoding)
    return Form(encoding, _flag(long_type))


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value
