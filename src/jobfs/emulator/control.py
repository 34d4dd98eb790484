"""The control routes under `/_emulator/`: switches, faults, log and the job's side, for tests and scripts.

They need no key. They answer only requests from this machine, and none from a page in a browser (`Origin`). With `--control-port`
they also have a port of their own, which answers while the API's port is closed.

    GET     /_emulator/behaviour      the switches
    POST    /_emulator/behaviour      change the switches in the JSON object
    GET     /_emulator/faults         the rules
    POST    /_emulator/faults         add a rule, or a list of rules
    PUT     /_emulator/faults         replace all rules
    DELETE  /_emulator/faults         remove all rules
    GET     /_emulator/listener       {"open": true}
    POST    /_emulator/listener       {"open": false}: break connections, and refuse new ones;
                                      {"open": true}: listen again on the same port;
                                      {"open": false, "seconds": 5}: listen again after that time
    GET     /_emulator/log            the entries; filters: ?operation=…, ?changing=1
    DELETE  /_emulator/log            forget them
    GET     /_emulator/jobs           the jobs
    GET     /_emulator/jobs/JOB       the job's state
    POST    /_emulator/jobs/JOB       change the job's state
    GET     /_emulator/jobs/JOB/items every item with its path, sha256 and size

Files, as the job reads and changes them. With `If-Match: "SHA256"`, only if the file that is replaced has this content, else 412.

    GET     /_emulator/jobs/JOB/files/PATH   its bytes
    PUT     /_emulator/jobs/JOB/files/PATH   write the file in place
    POST    /_emulator/jobs/JOB/files/PATH   append to it
    DELETE  /_emulator/jobs/JOB/files/PATH   delete it
    PATCH   /_emulator/jobs/JOB/files/PATH   rename it to the path in {"path": "new"}
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import threading
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from jobfs.errors import UsageError

from .faults import Faults, rule_from_json
from .jobside import JobSide
from .listener import Listener
from .log import RequestLog
from .store import EmulatorStore
from .workspace import Workspaces


class _Refusal(Exception):  # noqa: N818
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Control:
    """The ASGI application of the control routes."""

    def __init__(
        self,
        store: EmulatorStore,
        workspaces: Workspaces,
        faults: Faults,
        log: RequestLog,
        listener: Listener,
    ) -> None:
        self._store, self._workspaces = store, workspaces
        self._faults = faults
        self._log = log
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors are `{"error": sentence}`."""
        request = Request(scope, receive)
        try:
            _check_local(request)
            response = await self._respond(request)
        except _Refusal as refusal:
            response = JSONResponse({"error": str(refusal)}, refusal.status)
        except (UsageError, ValueError, TypeError, RecursionError) as error:
            response = JSONResponse({"error": str(error)}, 422)
        except KeyError as error:
            response = JSONResponse({"error": f"nothing at {error}"}, 404)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        # Not decoded: the path of a file is decoded once, after the route is known.
        sent: str = request.scope["raw_path"].decode("ascii")
        name, _, rest = sent.removeprefix("/_emulator/").partition("/")
        if name == "jobs" and rest:
            return await self._handle_job(request, rest)
        handlers = {
            "behaviour": self._handle_behaviour,
            "faults": self._handle_rules,
            "listener": self._handle_listening,
            "log": self._handle_entries,
            "jobs": self._handle_jobs,
        }
        if rest or name not in handlers:
            raise _Refusal(404, f"no such control route: {request.url.path}")
        return JSONResponse(await handlers[name](request))

    async def _handle_behaviour(self, request: Request) -> Any:
        if _check_method(request, "GET", "POST") == "POST":
            self._store.behaviour = self._store.behaviour.with_changes(**await _read_object(request))
        return asdict(self._store.behaviour)

    async def _handle_rules(self, request: Request) -> Any:
        method = _check_method(request, "GET", "POST", "PUT", "DELETE")
        rules = []
        if method in ("POST", "PUT"):
            value = await request.json()
            rules = [rule_from_json(one) for one in (value if isinstance(value, list) else [value])]
        if method in ("PUT", "DELETE"):
            self._faults.clear()
        for rule in rules:
            self._faults.add(rule)
        return [asdict(rule) for rule in self._faults.rules()]

    async def _handle_listening(self, request: Request) -> Any:
        if _check_method(request, "GET", "POST") == "POST":
            value = await _read_object(request)
            is_open, seconds = value.get("open"), value.get("seconds")
            if not isinstance(is_open, bool) or not (seconds is None or 0 <= float(seconds) <= 86_400):
                raise _Refusal(422, 'expected {"open": true or false}, and "seconds" from 0 to 86400 or none')
            await self._set_open(request, is_open, seconds)
        return {"open": self._listener.is_open}

    async def _set_open(self, request: Request, is_open: bool, seconds: float | None) -> None:
        if is_open:
            await asyncio.to_thread(self._listener.open)
        elif request.scope["server"][1] != self._listener.port:
            await asyncio.to_thread(self._listener.close, seconds)
        elif seconds is None:
            raise _Refusal(422, 'this port can only be closed for some "seconds"; see --control-port')
        else:
            # This request can't wait for the end of its own connection; its answer is sent first.
            threading.Thread(target=self._listener.close, args=(seconds,), daemon=True).start()

    async def _handle_entries(self, request: Request) -> Any:
        if _check_method(request, "GET", "DELETE") == "DELETE":
            self._log.clear()
        entries = self._log.entries(request.query_params.get("operation"))
        if request.query_params.get("changing"):
            entries = [entry for entry in entries if entry.is_change]
        return [asdict(entry) for entry in entries]

    async def _handle_jobs(self, request: Request) -> Any:
        _check_method(request, "GET")
        return [asdict(workspace.job) for workspace in self._workspaces.values()]

    async def _handle_job(self, request: Request, rest: str) -> Response:
        job_id, _, rest = rest.partition("/")
        if job_id not in self._workspaces:
            raise _Refusal(404, f"no such job: {job_id}")
        side = JobSide(self._workspaces[job_id])
        if not rest:
            if _check_method(request, "GET", "POST") == "POST":
                side.set_job(**await _read_object(request))
            return JSONResponse(asdict(side.job()))
        if rest == "items":
            _check_method(request, "GET")
            with side.lock:
                return JSONResponse([_describe_item(side, item.id) for item in side.items()])
        if rest.startswith("files/"):
            return await self._handle_file(request, side, unquote(rest.removeprefix("files/")))
        raise _Refusal(404, f"no such control route: {request.url.path}")

    async def _handle_file(self, request: Request, side: JobSide, path: str) -> Response:
        method = _check_method(request, "GET", "PUT", "POST", "DELETE", "PATCH")
        body = await request.body()
        to = str((await _read_object(request))["path"]) if method == "PATCH" else path
        with side.lock:
            _check_condition(request, side, to)
            if method == "GET":
                return Response(side.read(path), media_type="application/octet-stream")
            if method == "DELETE":
                side.delete(path)
                return JSONResponse(None)
            if method == "PATCH":
                side.move(path, to)
                return JSONResponse(_describe_item(side, side.item_at(to).id))
            write = side.write if method == "PUT" else side.append
            return JSONResponse(_describe_item(side, write(path, body).id))


def _check_condition(request: Request, side: JobSide, path: str) -> None:
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted.strip('"') != hashlib.sha256(side.read(path)).hexdigest():
        raise _Refusal(412, f"{path} has other content")


def _check_local(request: Request) -> None:
    host = request.client.host if request.client else ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local or "origin" in request.headers:
        raise _Refusal(403, "control routes answer only requests from this machine")


def _check_method(request: Request, *allowed: str) -> str:
    if request.method not in allowed:
        raise _Refusal(405, f"{request.method} is not allowed here; use {' or '.join(allowed)}")
    return request.method


async def _read_object(request: Request) -> dict[str, Any]:
    value = json.loads(await request.body())
    if not isinstance(value, dict):
        raise _Refusal(422, "expected a JSON object")
    return value


def _describe_item(side: JobSide, item_id: str) -> dict[str, Any]:
    item = side.item_by_id(item_id)
    described = asdict(item)
    del described["blob"]
    if not item.is_dir:
        described["sha256"] = hashlib.sha256(side.content_of(item_id)).hexdigest()
    return described
