"""Bodies of create and update: streamed multipart, or JSON. A malformed body raises Invalid, which is a 422."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Literal

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .behaviour import Behaviour
from .exchange import Exchange
from .records import DIRECTORY, FILE, LIFECYCLES, PERMISSIONS, Invalid
from .store import Blob, EmulatorStore
from .wire import LONG, SHORT

#: The maximum length in bytes of a form field other than the file.
_FIELD_MAX = 64 * 1024


class Unsupported(Exception):  # noqa: N818
    """A create has a content type that is not accepted."""


@dataclass(slots=True)
class CreateRequest:
    """The contents of a create's body; `blob` holds a file's bytes."""

    kind: Literal["file", "directory"]
    path: str
    permission: str
    blob: Blob | None


async def read_create(exchange: Exchange, store: EmulatorStore) -> CreateRequest:
    """Read the body of POST items/. Raises Unsupported, Invalid."""
    behaviour = exchange.behaviour
    header = exchange.request.headers.get("content-type", "")
    kind, options = parse_options_header(header)
    accepted = behaviour.create_encodings
    if kind == b"multipart/form-data" and accepted in ("both", "multipart"):
        boundary = options.get(b"boundary")
        if not boundary:
            raise Invalid("body", "multipart without a boundary")
        return await _read_multipart(exchange, store, boundary)
    if kind == b"application/json" and accepted in ("both", "json"):
        return _read_json(await read_object(exchange), store, behaviour)
    raise Unsupported


async def read_object(exchange: Exchange) -> dict[str, Any]:
    """Read a JSON object. Raises Invalid if the body is not one."""
    body = bytearray()
    async for piece in exchange.body():
        body += piece
    try:
        value = json.loads(body.decode(), parse_constant=_reject_constant)
    except ValueError:
        raise Invalid("body", "not JSON") from None
    except RecursionError:
        raise Invalid("body", "nested too deep") from None
    if not isinstance(value, dict):
        raise Invalid("body", "expected an object")
    return value


def _reject_constant(constant: str) -> None:
    raise ValueError(constant)  # NaN and Infinity, which Python accepts as JSON


async def read_update(exchange: Exchange) -> tuple[str | None, str | None, str | None]:
    """Return path, permission and lifecycle of POST items/{id}, None for those that are absent. Raises Invalid."""
    kind, _ = parse_options_header(exchange.request.headers.get("content-type", ""))
    if kind != b"application/json":
        raise Invalid("body", "expected JSON")
    value = await read_object(exchange)
    return (
        _require_text(value, "path") if "path" in value else None,
        _require_choice(value, "permission", PERMISSIONS) if "permission" in value else None,
        _require_choice(value, "lifecycle", LIFECYCLES) if "lifecycle" in value else None,
    )


class _Form:
    """Collects the parts of a form: fields in memory, the part `file` directly in a content file."""

    def __init__(self, store: EmulatorStore) -> None:
        self.fields: dict[str, str] = {}
        self.blob: Blob | None = None
        self.is_complete = False
        self._store = store
        self._header = bytearray()
        self._value = bytearray()
        self._name = ""
        self._data = bytearray()

    def callbacks(self) -> dict[str, Any]:
        """Return the parser's callbacks."""
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._mark_complete,
        }

    def _part_begin(self) -> None:
        self._name = ""
        self._data.clear()

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._begin_part(b"filename" in options)
        self._header.clear()
        self._value.clear()

    def _begin_part(self, named: bool) -> None:
        # As in web frameworks: several parts of one name are a list, and a part without a filename is a string.
        if self._name in self.fields or (self._name == "file" and self.blob is not None):
            raise Invalid(f"body.{self._name}", "given more than once")
        if self._name == "file":
            if not named:
                raise Invalid("body.file", "expected a file, which has a filename")
            self.blob = self._store.new_blob()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file" and self.blob is not None:
            self.blob.write(memoryview(data)[start:end])
        else:
            self._data += data[start:end]
            if len(self._data) > _FIELD_MAX:
                raise Invalid(f"body.{self._name}", "too long")

    def _part_end(self) -> None:
        if self._name != "file":
            try:
                self.fields[self._name] = self._data.decode()
            except UnicodeDecodeError:
                raise Invalid(f"body.{self._name}", "not UTF-8") from None

    def _mark_complete(self) -> None:
        self.is_complete = True

    def check_complete(self, kind: Literal["file", "directory"]) -> None:
        """Check that a file has bytes, and discard those sent with a directory. Raises Invalid."""
        if kind == FILE and self.blob is None:
            raise Invalid("body.file", "required for a file")
        if kind == DIRECTORY and self.blob is not None:
            self.blob.discard()
            self.blob = None


async def _read_multipart(exchange: Exchange, store: EmulatorStore, boundary: bytes) -> CreateRequest:
    form = _Form(store)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        async for piece in exchange.body():
            parser.write(piece)
        parser.finalize()
        if not form.is_complete:
            raise Invalid("body", "the multipart body is not whole")
        kind, path, permission = _parse_common(form.fields, exchange.behaviour)
        form.check_complete(kind)
    except BaseException as error:
        if form.blob is not None:
            form.blob.discard()
        if isinstance(error, FormParserError):
            raise Invalid("body", "not multipart") from None
        raise
    if form.blob is not None:
        form.blob.close()
    return CreateRequest(kind, path, permission, form.blob)


def _read_json(value: dict[str, Any], store: EmulatorStore, behaviour: Behaviour) -> CreateRequest:
    # The rewritten client sends path and content only (api/wire.md): a body without a type is a file's.
    kind, path, permission = _parse_common({"type": _own_spelling(behaviour)[FILE], **value}, behaviour)
    if kind == DIRECTORY:
        return CreateRequest(kind, path, permission, None)
    try:
        content = base64.b64decode(_require_text(value, "content"), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("body.content", "not base64") from None
    blob = store.new_blob()
    blob.write(content)
    blob.close()
    return CreateRequest(kind, path, permission, blob)


def _parse_common(
    value: dict[str, Any], behaviour: Behaviour
) -> tuple[Literal["file", "directory"], str, str]:
    kind = _parse_kind(_require_text(value, "type"), behaviour)
    permission = _require_choice({"permission": "readWrite", **value}, "permission", PERMISSIONS)
    return kind, _require_text(value, "path"), permission


def _parse_kind(text: str, behaviour: Behaviour) -> Literal["file", "directory"]:
    spellings = (LONG, SHORT) if behaviour.input_spelling == "both" else (_own_spelling(behaviour),)
    for spelling in spellings:
        if text == spelling[FILE]:
            return FILE
        if text == spelling[DIRECTORY]:
            return DIRECTORY
    raise Invalid("body.type", f"expected {' or '.join(spellings[0].values())}")


def _own_spelling(behaviour: Behaviour) -> dict[str, str]:
    return LONG if behaviour.type_spelling == "long" else SHORT


def _require_text(value: dict[str, Any], name: str) -> str:
    if name not in value:
        raise Invalid(f"body.{name}", "required")
    if not isinstance(value[name], str):
        raise Invalid(f"body.{name}", "expected string")
    return str(value[name])


def _require_choice(value: dict[str, Any], name: str, choices: tuple[str, ...]) -> str:
    text = _require_text(value, name)
    if text not in choices:
        raise Invalid(f"body.{name}", f"expected {' or '.join(choices)}")
    return text
