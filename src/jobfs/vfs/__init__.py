"""What each file operation means (vfs/semantics.md; R1 to R12: save/protocol.md): the Vfs and the words its callers need.

Read in this order: `view` (what a path shows), `lookup`, `handles` (which version an open file shows), `files`, `tree`,
`attributes`, `drain`. `prefetch` and `report` stand apart. `core` composes them, and does nothing else.
"""

from jobfs.state.records import CHANGES
from jobfs.vfs.core import Vfs
from jobfs.vfs.handles import Caller, KernelFile, OpenResult

__all__ = ["CHANGES", "Caller", "KernelFile", "OpenResult", "Vfs"]
