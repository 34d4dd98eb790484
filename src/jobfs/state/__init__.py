"""The state of a mount: the Files, Changes and tombstones, their journal, and the local bytes (design.md)."""

from jobfs.state.directory import StateDirectory
from jobfs.state.records import Change, File
from jobfs.state.store import edit
from jobfs.state.tables import State

__all__ = ["Change", "File", "State", "StateDirectory", "edit"]
