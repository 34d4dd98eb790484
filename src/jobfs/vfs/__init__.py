"""The meaning of each file operation (vfs/semantics.md; R1 to R13: save/protocol.md).

Read the modules in this order: `view` (what a path shows), `lookup`, `handles` (which version an open file shows), `files`,
`tree`, `attributes`, `drain`. `prefetch`, `report` and `job_end` stand apart. `core` composes all of them.
"""

from jobfs.state.records import CHANGES
from jobfs.vfs.core import Vfs
from jobfs.vfs.handles import Caller, KernelFile, OpenResult

__all__ = ["CHANGES", "Caller", "KernelFile", "OpenResult", "Vfs"]
