"""What is known of how a server behaves where the reference is silent, from an earlier look at it (wire-facts.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jobfs.api.create import Form
from jobfs.nodes import Kind


@dataclass(frozen=True)
class Known:
    """Facts of one server, the same for every job and key; what is empty or None is not known.

    `forms`: the form of a create that worked. `rejects`: whether a create at the path of an existing item of that kind is
    refused. `moves_keep_updated_at`: a move leaves the item's `updatedAt` alone. `moves_carry`: a directory that is moved
    takes along what is in it.
    """

    forms: Mapping[Kind, Form] = field(default_factory=dict)
    rejects: Mapping[Kind, bool] = field(default_factory=dict)
    moves_keep_updated_at: bool = False
    moves_carry: bool | None = None
