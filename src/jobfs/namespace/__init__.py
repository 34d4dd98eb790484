"""The server's side of the tree: one flat list of items, shown as directories (semantics.md sections 1 and
2).
"""

from jobfs.namespace.overlay import shown
from jobfs.namespace.remote import Namespace
from jobfs.namespace.status import NamespaceStatus

__all__ = ["Namespace", "NamespaceStatus", "shown"]
