"""Which form of a create this server takes: multipart or JSON, long or short type names (api/wire.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from jobfs.api.bodies import Body, json_body, multipart_create
from jobfs.errors import (
    ApiError,
    BadRequestError,
    InvalidRequestError,
    NoDirectoryError,
    PathExistsError,
)
from jobfs.nodes import Item, Kind

Encoding = Literal["multipart", "json"]
CreateEncoding = Literal["auto", "multipart", "json"]

_UNSUPPORTED_MEDIA_TYPE = 415
#: Statuses that may be about the form of a create; any other is about what was asked, or about who asks.
_ABOUT_THE_FORM = frozenset({400, 415, 422})
#: The server read the request and refused what it says: its form was right. That a path is invalid is said, too, of a body
#: that was not understood.
_UNDERSTOOD = (PathExistsError, NoDirectoryError)


class Form(NamedTuple):
    """One form of a create: how the body is encoded, and if a type is `workspaceItemFile` or `file`."""

    encoding: Encoding
    long_type: bool

    def body(
        self,
        kind: Kind,
        path: str,
        permission: str,
        file: tuple[Path, int] | None,
        moving: Callable[[float], None],
    ) -> Body:
        """The request body for one item; `moving` gets the part of it that is on its way, from 0 to 1."""
        name = f"workspaceItem{kind.value.capitalize()}" if self.long_type else kind.value
        fields = {"type": name, "path": path, "permission": permission}
        body = (multipart_create if self.encoding == "multipart" else json_body)(fields, file)
        body.part = moving
        return body


class Forms:
    """Finds the form that works and remembers it, for files and for directories apart (api/wire.md, Create)."""

    def __init__(self, encoding: CreateEncoding, likely: Mapping[Kind, Form]) -> None:
        """`likely`: the forms that this server took at an earlier time, which are tried first."""
        self.long_type = True
        self._pinned = encoding
        self._likely = likely
        #: The forms that have worked.
        self.good: dict[Kind, Form] = {}

    def create(self, kind: Kind, attempt: Callable[[Form], Item]) -> Item:
        """Call `attempt` with one form after another until the answer is not 400, 415 or 422; raises ApiError.

        A 400 is final if it tells what stands at the path, or once a form has worked. Where all are refused, the error is the
        first that is not about the media type: the one about what was asked.
        """
        proved = kind in self.good
        refusals: list[ApiError] = []
        for form in self._candidates(kind):
            try:
                item = attempt(form)
            except _UNDERSTOOD:
                self.good[kind] = form
                raise
            except (InvalidRequestError, BadRequestError) as exc:
                if exc.status not in _ABOUT_THE_FORM or (proved and isinstance(exc, BadRequestError)):
                    raise
                refusals.append(exc)
            else:
                self.good[kind] = form
                return item
        raise next((exc for exc in refusals if exc.status != _UNSUPPORTED_MEDIA_TYPE), refusals[0])

    def _candidates(self, kind: Kind) -> list[Form]:
        """Forms worth trying, the likeliest first: a form that has worked needs no other spelling."""
        good = self.good.get(kind)
        likely = self._likely.get(kind) or Form("multipart", self.long_type)
        guess = good or next(iter(self.good.values()), likely)
        spellings = [guess.long_type] if good else [guess.long_type, not guess.long_type]
        encodings: list[Encoding] = ["multipart", "json"]
        encodings.sort(key=lambda name: name != guess.encoding)
        return [
            Form(encoding, spelling)
            for spelling in spellings
            for encoding in encodings
            if self._pinned in ("auto", encoding)
        ]
