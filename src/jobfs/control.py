"""The control socket, by which `jobfs status` and other commands reach a running mount without a call to its file system.

The protocol is JSON lines over a Unix socket in the mount's state directory. A request is one line: `{"call": name, "args":
{…}}`. The answer is any number of `{"progress": [files, all files, bytes, all bytes]}`, `{"say": sentence}` and `{"tell":
event}`, then one `{"result": …}` or `{"error": sentence, "errno": number}`. Only the same user and root can connect.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jobfs.background import Background
from jobfs.errors import FsError, JobfsError
from jobfs.nodes import SendProgress

_log = logging.getLogger("jobfs.control")

SOCKET = "control.sock"
_LONGEST = 1 << 20
#: How long to wait for descriptors, memory or threads that are short, and for a caller that does not read, in seconds.
_SHORTAGE, _PATIENCE = 0.05, 10.0


class NoMountError(JobfsError):
    """No running mount answers at a control socket."""


class Conversation:
    """The connection of one call, by which its handler sends messages before the result."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send_progress(self, sent: SendProgress) -> None:
        """Send the progress. Never raises, because the work continues without a caller."""
        self._send({"progress": sent})

    def send_sentence(self, sentence: str) -> None:
        """Send a sentence for the user. Never raises."""
        self._send({"say": sentence})

    def send_event(self, event: Mapping[str, Any]) -> None:
        """Send an event. Never raises; hangs up if the caller does not read for ten seconds."""
        try:
            self._connection.sendall(_encode_line({"tell": event}))
        except OSError:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def has_hung_up(self) -> bool:
        """Return whether the caller has hung up."""
        waiting = select.poll()
        waiting.register(self._connection, select.POLLIN)
        try:
            return bool(waiting.poll(0)) and self._connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._connection.sendall(_encode_line(message))


Handler = Callable[[dict[str, Any], Conversation], Any]


class ControlServer:
    """The server of the control socket in `directory`: it answers calls by `handlers`, each in a thread of its own.

    The socket is made with mode 0600, and replaces an old one. `patience`: how long a caller may take to send or to read, in s.
    """

    def __init__(self, directory: Path, handlers: Mapping[str, Handler], patience: float = _PATIENCE) -> None:
        self._directory, self._handlers, self._patience = directory, handlers, patience
        self._listener = socket.socket(socket.AF_UNIX)
        self._busy: set[threading.Thread] = set()
        with contextlib.suppress(FileNotFoundError):
            (directory / SOCKET).unlink()
        with _short_address(directory) as address:
            self._listener.bind(address)
        (directory / SOCKET).chmod(0o600)
        self._listener.listen(16)
        self._accepting = Background("control", self._accept, retry=_SHORTAGE)
        self._accepting.start()

    def close(self, timeout: float = 2.0) -> None:
        """Accept no more calls, and wait up to `timeout` seconds for those that are being answered."""
        end = time.monotonic() + timeout
        self._accepting.stop()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(timeout)
        self._listener.close()
        with contextlib.suppress(OSError):
            (self._directory / SOCKET).unlink()
        for thread in list(self._busy):
            thread.join(max(end - time.monotonic(), 0.0))

    def _accept(self) -> float:
        """Accept the next call, and start a thread that answers it. Raises OSError, RuntimeError if resources are short."""
        connection, _ = self._listener.accept()
        threading.Thread(target=self._serve_connection, args=(connection,), daemon=True).start()
        return 0.0

    def _serve_connection(self, connection: socket.socket) -> None:
        self._busy.add(threading.current_thread())
        try:
            with connection:
                connection.settimeout(self._patience)
                with connection.makefile("rb") as lines:
                    request = json.loads(lines.readline(_LONGEST))
                conversation = Conversation(connection)
                conversation._send(self._handle(request, conversation))
        except (OSError, ValueError) as error:
            _log.info("a control request was not understood: %r", error)
        finally:
            self._busy.discard(threading.current_thread())

    def _handle(self, request: Any, conversation: Conversation) -> dict[str, Any]:
        try:
            return {"result": self._handlers[request["call"]](request.get("args") or {}, conversation)}
        except JobfsError as error:
            return {"error": str(error), "errno": error.errno}
        except Exception:
            _log.exception("the control call %s failed", request)
            return {"error": "the mount could not answer: see its log; it may be of another version of jobfs"}


def call_mount(
    directory: Path,
    name: str,
    args: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
    on_progress: Callable[[SendProgress], None] | None = None,
    on_sentence: Callable[[str], None] | None = None,
    on_event: Callable[[Any], None] | None = None,
) -> Any:
    """Call the mount with the state directory `directory`, and return its result.

    `on_progress`, `on_sentence` and `on_event` get the messages that come before the result. Raises NoMountError if the process
    of the mount is gone or sends nothing for `timeout` seconds, FsError if the mount answers with an error.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            with _short_address(directory) as address:
                connection.connect(address)
            # A mount that answers with an error at once may hang up before it reads this; its answer can still be read.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(_encode_line({"call": name, "args": dict(args or {})}))
            return _read_result(
                connection, on_progress or _ignore, on_sentence or _ignore, on_event or _ignore
            )
    except (OSError, ValueError) as error:
        raise NoMountError(f"the mount does not answer: {error}") from None


def _read_result(
    connection: socket.socket,
    on_progress: Callable[[SendProgress], None],
    on_sentence: Callable[[str], None],
    on_event: Callable[[Any], None],
) -> Any:
    with connection.makefile("rb") as lines:
        for line in lines:
            message = json.loads(line)
            if "result" in message:
                return message["result"]
            if "error" in message:
                raise FsError(int(message.get("errno", 5)), str(message["error"]))
            if "say" in message:
                on_sentence(str(message["say"]))
            elif "tell" in message:
                on_event(message["tell"])
            else:
                on_progress(SendProgress(*message["progress"]))
    raise NoMountError("the mount ended before it answered")


def _ignore(message: object) -> None:
    pass


def _encode_line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


@contextlib.contextmanager
def _short_address(directory: Path) -> Iterator[str]:
    """Yield an address of the socket by way of a descriptor, because a long path would not fit into its 108 bytes."""
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)
