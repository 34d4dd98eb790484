"""The control socket: how `jobfs status` and its like reach a running mount, without going through the mount.

JSON lines over a Unix socket in the mount's slot. A request is one line, `{"call": name, "args": {…}}`; the
answer is any number of `{"progress": [files, all files, bytes, all bytes]}`, `{"say": sentence}` and `{"tell": …}`,
and then one `{"result": …}` or `{"error": sentence, "errno": number}`. Only the same user, and root, can connect.
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
#: Seconds until the next try when descriptors, memory or threads are short for a while.
_SHORTAGE = 0.05


class NoMountError(JobfsError):
    """No running mount answers there."""


class Conversation:
    """One request being answered, as its handler sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send_progress(self, sent: SendProgress) -> None:
        """Tell the other side how far the work is; never raises, for the work goes on without a listener too."""
        self._send({"progress": sent})

    def send_sentence(self, sentence: str) -> None:
        """Tell the other side's user something while the work goes on; never raises."""
        self._send({"say": sentence})

    def send_event(self, event: Mapping[str, Any]) -> None:
        """Tell the other side what it has asked for; never raises. If it does not read for ten seconds, this hangs up."""
        try:
            self._connection.sendall(_encode_line({"tell": event}))
        except OSError:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def is_gone(self) -> bool:
        """True if the other side has hung up."""
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
    """Answers calls with `handlers`, a thread for each. The socket is made anew in `directory`, mode 0600."""

    def __init__(self, directory: Path, handlers: Mapping[str, Handler]) -> None:
        self._directory = directory
        self._handlers = handlers
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
        """Take no more calls, and let those being answered end within `timeout` seconds."""
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
        """Answer the next call, on a thread of its own. Raises OSError, RuntimeError where descriptors or threads are short."""
        connection, _ = self._listener.accept()
        threading.Thread(target=self._converse, args=(connection,), daemon=True).start()
        return 0.0

    def _converse(self, connection: socket.socket) -> None:
        self._busy.add(threading.current_thread())
        try:
            with connection:
                connection.settimeout(10.0)
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
            return {
                "error": "the mount could not answer: see its log, and whether it is of this version of jobfs"
            }


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
    """What the mount of the slot `directory` answers; `on_progress`, `on_sentence` and `on_event` get its messages meanwhile.

    Raises NoMountError if its process is gone, or says nothing for `timeout` seconds; FsError if it refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            with _short_address(directory) as address:
                connection.connect(address)
            # A mount that refuses at once may hang up before it reads this; its answer can be read all the same.
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
    """The socket's address by way of a descriptor: a long path would not fit in 108 bytes."""
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)
