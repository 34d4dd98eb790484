"""What the tests of the state share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

from jobfs.state.records import COLUMNS


def held(record: Any) -> dict[str, Any]:
    """What the journal holds of a record."""
    return {name: getattr(record, name) for name in COLUMNS[type(record)]}


def refusing(code: int) -> Callable[..., NoReturn]:
    """A system call that fails."""

    def refuse(*arguments: object, **more: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return refuse
