"""Is what was promised there? Compares the server, and what the mount shows, with the ledger of a round."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tests.support.judge import Judge, State, differences_shown, second_version
from tests.support.serverside import found_on

from jobfs import names
from jobfs.emulator import Server

from .conditions import Conditions
from .contents import ABSENT, DIRECTORY, Content, Contents
from .ledger import Claim, Ledger, is_local

Tree = Mapping[str, Content]


def local_files(mount: Tree) -> dict[str, Content]:
    """What is on this machine only; as on any disk, a file that was not closed may be there in part."""
    return {path: content for path, content in mount.items() if is_local(path) and not content.is_torn}


def durable_missing(server: Server, contents: Contents, ledger: Ledger) -> list[str]:
    """Right after the kill: contents that the server has for sure, and that no item of it holds."""
    with server.store.lock, ledger.lock:
        held = {
            contents.of(data) for found in found_on(server).values() for data in found if data is not None
        }
        return [
            f"{content} was on the server at {sorted(claim.places)}, and when killed it was there nowhere"
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
            files = {names.join(names.parent(path), one.name): one for one in (root / path).parent.iterdir()}
            there = [file.read_bytes() for name, file in files.items() if path in (name, _recovered(name))]
        except OSError:
            continue
        excused = path in ledger.spoiled or ledger.was_disturbed(path)
        if not excused and not any(written in data for data in there):
            told = ", ".join(str(contents.known(data)) for data in there)
            missing.append(f"{path}: {len(written)} bytes were written and not closed; there is: {told}")
    return missing


def _recovered(path: str) -> str:
    """The path of the file of which something was recovered to this one, by one mount or by several in turn, or ""."""
    kept = names.parse_second_version(path)
    if kept is None or kept[0] != "recovered":
        return ""
    return _recovered(kept[1]) or kept[1]


class Verdict(Judge):
    """The judgement of one round, once all is settled and nobody is at work any more.

    The ledger says what may be at each path, and what is owed. Only this harness knows what is allowed beyond that: names of
    this machine, requests that are carried out late, a job at work.
    """

    absent, directory = ABSENT, DIRECTORY

    def __init__(self, ledger: Ledger, server: Tree, mount: Tree, conditions: Conditions) -> None:
        super().__init__()
        self._ledger, self._server, self._mount, self._conditions = ledger, server, mount, conditions
        for path, options in ledger.options.items():
            self.put(path, *options)
        #: Scratch names are on this machine only.
        self._found = {path: [content] for path, content in {**server, **local_files(mount)}.items()}

    def judge(self) -> list[str]:
        """Return a sentence for each thing that is wrong."""
        return [*self._views_differ(), *self.violations(self._found), *self._copied()]

    def _views_differ(self) -> list[str]:
        """The mount shows what the server has."""
        mount = {path: content for path, content in self._mount.items() if not is_local(path)}
        server = {path: content for path, content in self._server.items() if not is_local(path)}
        return [
            f"{path}: the mount shows {here}, the server {there}"
            for path, here, there in differences_shown(server, mount, ABSENT)
            if not (here is DIRECTORY and self._is_explained(path))
        ]

    def _is_explained(self, directory: str) -> bool:
        """The mount shows a directory without an item: the job deleted it, or something is below it."""
        below = any(names.is_below(path, directory) for path in self._server)
        return below or self._ledger.was_deleted(directory)

    def flaws(self, path: str, state: State) -> list[str]:
        """Return the torn content's name; what was never closed may be recovered in part."""
        expected = path in self._ledger.spoiled or _recovered(path)
        return [str(state)] if isinstance(state, Content) and state.is_torn and not expected else []

    def may_stand(self, path: str, state: State) -> bool:
        assert isinstance(state, Content)
        ledger, options = self._ledger, self._ledger.options.get(path)
        if options is None:
            return state is ABSENT or self._shown_again(path, state) or ledger.was_disturbed(path)
        gone = ledger.was_deleted(path) or self._out_of_sight(path) or options <= {*ledger.destroyed, ABSENT}
        return (
            state in options
            or path in ledger.spoiled
            or bool(self._conditions.lateness and ledger.may_flip(path, state))
            or (ledger.was_disturbed(path) and (state.by_job or state is DIRECTORY))
            or (ABSENT in options and self._shown_again(path, state))
            or (state is ABSENT and gone)
        )

    def may_be_kept(self, label: str, path: str, state: State) -> bool:
        assert isinstance(state, Content)
        # Where the power fails twice, what was recovered may be recovered again.
        while kept := second_version(path):
            path = kept[1]
        doubtful = self._conditions.lateness or self._conditions.doubtful or self._ledger.disturbed
        explained = path in self._ledger.unclosed if label == "recovered" else bool(doubtful)
        return explained or self._shown_again(path, state)

    def owed(self) -> Iterator[tuple[Collection[State], str]]:
        """Yield what was acknowledged, or written by the job and not seen here."""
        for content, claim in self._ledger.claims.items():
            if not self._excused_loss(content, claim):
                yield [content], " or ".join(sorted(claim.places))

    def describe(self, state: State) -> str:
        return ("the job's " if isinstance(state, Content) and state.by_job else "") + str(state)

    def _copied(self) -> list[str]:
        """Where nobody interfered, a content is at one place; a file may have its old name and a scratch name.

        That is so if it was killed within three seconds of its rename (vfs/semantics.md 4.35).
        """
        places: dict[State, list[str]] = {}
        for path, (content,) in sorted(self._found.items()):
            if content in self._ledger.claims and not (_recovered(path) or is_local(path)):
                places.setdefault(content, []).append(path)
        several = places.items() if self._conditions.calm else []
        return [f"{state} is there more than once: {', '.join(at)}" for state, at in several if len(at) > 1]

    def _excused_loss(self, content: Content, claim: Claim) -> bool:
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
        # The job may have deleted directories in earlier rounds.
        earlier = self._conditions.job_pause and content.made < self._ledger.began
        return bool(earlier and content.data and is_local(path))


def modes_wrong(root: Path, ledger: Ledger) -> list[str]:
    """chmod of a file that was dirty, kept through save and death."""
    wrong = []
    for path, mode in ledger.modes.items():
        (content, *more) = ledger.at(path)
        if more or content in (ABSENT, DIRECTORY) or ledger.was_disturbed(path):
            continue
        # Whether it is there is another question: a late request may have moved it.
        with suppress(FileNotFoundError):
            if (found := (root / path).stat().st_mode & 0o7777) != mode:
                wrong.append(f"{path}: mode {found:o}; promised: {mode:o}")
    return wrong
