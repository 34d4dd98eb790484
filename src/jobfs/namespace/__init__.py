"""The server's side of the tree: one flat list of items, shown as directories (vfs/semantics.md 1 and 2)."""

from jobfs.namespace.remote import Namespace, NamespaceStatus
from jobfs.namespace.tree import pick_shown

__all__ = ["Namespace", "NamespaceStatus", "pick_shown"]
