"""Calls at random, on a disk and on mounts of unlike servers; `scripts/exercise` does the same for longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from tests.stress.differential import SWITCHES, differences, twins

from jobfs.emulator import Behaviour, behaviour

#: Sequences of steps a server; each run begins with the same chance, `scripts/exercise` takes others.
SEEDS, STEPS = range(20_251, 20_263), 60


def test_the_switches_cover_every_value() -> None:
    used = [Behaviour().changed(**switches) for switches in SWITCHES.values()]
    for name, field in behaviour.SWITCHES.items():
        if name in ("read_only", "move_carries"):
            # What `chmod u-w` made readOnly can't be removed until `chmod u+w`; a rename that loses contents is EXDEV.
            continue
        if field.annotation is bool or get_origin(field.annotation) is Literal:
            values = {True, False} if field.annotation is bool else set(get_args(field.annotation))
            assert {getattr(one, name) for one in used} == values, name


@pytest.mark.timeout(300, method="signal")
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_random_calls_answer_as_on_a_disk_and_leave_their_files_on_the_server(
    switches: dict[str, Any], tmp_path: Path
) -> None:
    """vfs/semantics.md 2.2, 2.15: names, reads, writes, memory maps, truncation, fsync, close and remount."""
    with twins(tmp_path, switches) as pair:
        assert next(differences(pair.play, SEEDS, STEPS, 60.0), "") == ""
        assert pair.end() == []
