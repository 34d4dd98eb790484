"""Local bytes that two records named: who lets go of them leaves them to the other."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.support.boundaries import Mortal
from tests.support.serverside import untimed
from tests.support.waiting import eventually

from jobfs.emulator import Server


def test_what_got_a_scratch_name_instead_of_being_sent_is_safe_while_it_is_written_to(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """vfs/semantics.md 4: what was closed survives the death of the process, also while it is changed further."""
    work = mortal(write_back_delay=60)
    work.write("new.txt", b"closed")
    work.vfs.rename("new.txt", "new.txt~")
    eventually(work.at_rest, work.unrest)
    work.state.sync()
    fh = work.vfs.open("new.txt~", os.O_RDWR).fh
    work.vfs.write(fh, b" and more", 6)
    work.boundaries.dead = True
    work.bury()
    again = mortal()
    found = untimed({name: again.read(name) for name in again.names()})
    assert found == {"new.txt~": b"closed", "new.recovered.txt~": b"closed and more"}
    again.settle()
    assert server.log.changes() == [], "it is of this machine as well"
