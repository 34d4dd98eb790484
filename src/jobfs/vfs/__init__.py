"""What each file operation means (vfs/semantics.md; R1 to R12: save/protocol.md): the Vfs and the words its callers need.

To be read in this order: `view` (what a path shows), `handles` (which version an open file shows), `files`, `tree`,
`attributes`; `prefetch` and `report` stand apart, and `core` puts all of them together.
"""

from jobfs.state.records import CHANGES
from jobfs.vfs.core import Vfs
from jobfs.vfs.handles import Caller, KernelFile, OpenResult

__all__ = ["CHANGES", "Caller", "KernelFile", "OpenResult", "Vfs"]
