"""Is what was promised there? Compares the server, and what the mount shows, with the ledger of a round."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tests.support.serverside import doubled, hidden, visible

from jobfs import names
from jobfs.emulator import Server

from .conditions import Conditions
from .contents import ABSENT, DIRECTORY, Content, Contents
from .ledger import Claim, Ledger, is_local

_SECOND = re.compile(r"\.(conflict|recovered)-\d{8}T\d{6}Z(-\d+)?")

Tree = Mapping[str, Content]


def on_server(server: Server, contents: Contents) -> dict[str, Content]:
    """Everything that the server shows."""
    return {
        path: DIRECTORY if data is None else contents.known(data) for path, data in visible(server).items()
    }


def in_mount(root: Path, contents: Contents) -> dict[str, Content]:
    """Everything that the mount shows, scratch names too."""
    found: dict[str, Content] = {}
    for directory, below, files in os.walk(root):
        for name in below + files:
            path = Path(directory, name)
            content = DIRECTORY if name in below else contents.known(path.read_bytes())
            found[str(path.relative_to(root))] = content
    return found


def local_files(mount: Tree) -> dict[str, Content]:
    """What is on this machine only; as on any disk, a file that was not closed may be there in part."""
    return {path: c for path, c in mount.items() if is_local(path) and not c.name.startswith("TORN")}


def durable_missing(server: Server, contents: Contents, ledger: Ledger) -> list[str]:
    """Right after the kill: contents for which fsync has returned and that no item of the server holds."""
    with server.store.lock, ledger.lock:
        files = [item.id for item in server.store.items() if not item.is_dir]
        held = {contents.of(server.store.content_of(file)) for file in files}
        return [
            f"{content} was fsynced at {sorted(claim.places)}, and the server had it nowhere when killed"
            for content, claim in ledger.claims.items()
            if claim.durable and content not in held and not ledger.excused(content)
        ]


def drafts_missing(root: Path, contents: Contents, ledger: Ledger) -> list[str]:
    """Right after the next mount: what was written and not closed, and is neither at its name nor beside it.

    What can't be read now, or was changed by the job, is left out.
    """
    drafts, ledger.drafts = ledger.drafts, []
    missing = []
    for path, written in drafts:
        try:
            beside = [each for each in (root / path).parent.iterdir() if each.is_file()]
            found = [(each, str(each.relative_to(root))) for each in beside]
            there = [each.read_bytes() for each, name in found if path in (name, _recovered(name))]
        except OSError:
            continue
        excused = path in ledger.spoiled or ledger.was_disturbed(path)
        if not excused and not any(written in data for data in there):
            told = ", ".join(str(contents.known(data)) for data in there)
            missing.append(f"{path}: {len(written)} bytes were written and not closed; there is: {told}")
    return missing


def _recovered(path: str) -> str:
    """The path of the file of which something was recovered to this one, or ""."""
    kept = names.parse_second_version(path)
    return kept[1] if kept is not None and kept[0] == "recovered" else ""


class Verdict:
    """The judgement of one round, once all is settled and nobody is at work any more."""

    def __init__(self, ledger: Ledger, server: Tree, mount: Tree, conditions: Conditions) -> None:
        self._ledger, self._server, self._mount, self._conditions = ledger, server, mount, conditions
        #: Scratch names are on this machine only.
        self._found = {**server, **local_files(mount)}

    def violations(self) -> list[str]:
        """One sentence each."""
        looks = (self._views_differ, self._torn, self._wrong_places, self._lost, self._strangers)
        return [text for look in looks for text in look()]

    def _views_differ(self) -> list[str]:
        """The mount shows what the server has."""
        paths = {path for path in {*self._server, *self._mount} if not is_local(path)}
        pairs = [
            (path, self._mount.get(path, ABSENT), self._server.get(path, ABSENT)) for path in sorted(paths)
        ]
        return [
            f"{path}: the mount shows {here}, the server {there}"
            for path, here, there in pairs
            if not _same(here, there) and not (here is DIRECTORY and self._is_explained(path))
        ]

    def _is_explained(self, directory: str) -> bool:
        """The mount shows a directory without an item: the job deleted it, or something is below it."""
        return self._ledger.was_deleted(directory) or any(
            path.startswith(f"{directory}/") for path in self._server
        )

    def _torn(self) -> list[str]:
        torn = [(path, content) for path, content in self._found.items() if content.name.startswith("TORN")]
        expected = self._ledger.spoiled
        return [
            f"{path}: {content}" for path, content in torn if path not in expected and not _recovered(path)
        ]

    def _wrong_places(self) -> list[str]:
        """At each path is what may be there."""
        wrong = []
        for path, options in sorted(self._ledger.options.items()):
            content = self._found.get(path, ABSENT)
            if not self._may_stand(content, path, options):
                wrong.append(f"{path}: {content}; promised: {' or '.join(sorted(map(str, options)))}")
        return wrong

    def _may_stand(self, content: Content, path: str, options: set[Content]) -> bool:
        ledger = self._ledger
        gone = ledger.was_deleted(path) or self._out_of_sight(path) or options <= {*ledger.destroyed, ABSENT}
        return (
            content in options
            or path in ledger.spoiled
            or (self._conditions.lateness and ledger.may_flip(path, content))
            or (ledger.was_disturbed(path) and (content.by_job or content is DIRECTORY))
            or (ABSENT in options and self._shown_again(path, content))
            or (content is ABSENT and gone)
        )

    def _lost(self) -> list[str]:
        """What was acknowledged, or written by the job and not seen here, still exists; at one place if nobody interfered."""
        places: dict[Content, list[str]] = {}
        for path, content in self._found.items():
            places.setdefault(content, []).append(path)
        lost = []
        for content, claim in self._ledger.claims.items():
            there = places.get(content, [])
            if not there and not self._excused(content, claim):
                whose = "the job's " if content.by_job else ""
                lost.append(f"LOST: {whose}{content}, promised at {' or '.join(sorted(claim.places))}")
            # Killed within three seconds of its rename to a scratch name, a file has both (vfs/semantics.md 4.35).
            there = [path for path in there if not (_recovered(path) or is_local(path))]
            if self._conditions.calm and len(there) > 1:
                lost.append(f"{content} is there more than once: {', '.join(sorted(there))}")
        return lost

    def _excused(self, content: Content, claim: Claim) -> bool:
        """A file of this machine is not to be seen while its directory is not there.

        A late request may move an item back to an earlier name, where the user then replaces what he is shown.
        """
        local = [place for place in claim.places if is_local(place)]
        hidden_here = any(self._ledger.was_deleted(place) or self._out_of_sight(place) for place in local)
        flipped = claim.revisited and self._conditions.lateness > 0
        spoiled = bool(claim.places & self._ledger.spoiled)
        return self._ledger.excused(content) or spoiled or hidden_here or flipped

    def _out_of_sight(self, path: str) -> bool:
        """True for a file of this machine whose directory is not there: one without an item goes with its last file."""
        above = names.parent(path)
        return is_local(path) and bool(above) and above not in self._mount

    def _shown_again(self, path: str, content: Content) -> bool:
        """A file of this machine was not to be seen while its directory was not there: the next one of that name shows it."""
        made = content not in (ABSENT, DIRECTORY) and content.made < self._ledger.began
        # It may have deleted directories in earlier rounds.
        return bool(self._conditions.job_pause) and is_local(path) and made

    def _strangers(self) -> list[str]:
        """Nothing appears that nobody made."""
        strange = []
        for path, content in sorted(self._found.items()):
            if path in self._ledger.options or self._shown_again(path, content):
                continue
            second = _SECOND.search(path)
            if second is None:
                if not self._ledger.was_disturbed(path):
                    strange.append(f"{path}: {content} appeared from nowhere")
            elif second[1] == "recovered":
                if _recovered(path) not in self._ledger.unclosed:
                    strange.append(f"{path}: {content} was not explained by any record")
            elif not (self._conditions.lateness or self._conditions.doubtful) and not self._ledger.disturbed:
                strange.append(f"{path}: {content}, a conflict though the job was quiet")
        return strange


def _same(one: Content, other: Content) -> bool:
    # Torn bytes are made into a content again each time.
    return one is other or (one.name.startswith("TORN") and one.data == other.data)


def modes_wrong(root: Path, ledger: Ledger) -> list[str]:
    """chmod of a file that was dirty, kept through save and death."""
    wrong = []
    for path, mode in ledger.modes.items():
        (content, *more) = ledger.at(path)
        if more or content in (ABSENT, DIRECTORY) or ledger.was_disturbed(path):
            continue
        try:
            found = (root / path).stat().st_mode & 0o7777
        except FileNotFoundError:
            # Whether it should be there is the verdict's question: a late request may have moved it.
            continue
        if found != mode:
            wrong.append(f"{path}: mode {found:o}; promised: {mode:o}")
    return wrong


def leftovers(server: Server) -> list[str]:
    """Hidden items, and paths with two items."""
    return [f"{path}: a hidden item is left" for path in hidden(server)] + [
        f"{path}: more than one item" for path in doubled(server)
    ]
