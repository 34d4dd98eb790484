"""The ledger of one round: what was attempted, what was acknowledged, and so what may and what must be found.

It is kept outside of the mount. A path has a set of contents that may stand at it: an attempt adds one, an acknowledgement
leaves only one. A claim says that a content must still exist: an attempt to overwrite or unlink it ends the claim, and so
does the job when it destroys it. What the job wrote is claimed too, until it was seen here and overwritten.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jobfs import names

from .contents import ABSENT, DIRECTORY, Content

#: Seconds within which an unlinked file that was open may be back after a kill (vfs/semantics.md 4), on a busy machine; and
#: one that was renamed to a scratch name.
_MOMENT, _LEAVING = 2.0, 4.0

#: What a call fails with once the mount is gone.
DEAD = {errno.ENOTCONN, errno.ECONNABORTED}

#: The change replaces what is there without having looked at it.
BLIND = Content("not looked at")


@dataclass(slots=True)
class Claim:
    """`places`: where the content may be; `durable`: fsync has returned, so that the server has it.

    `been`: where it was before it was renamed; `revisited`: something was written or renamed over one of these names since.
    """

    places: set[str]
    durable: bool = False
    been: set[str] = field(default_factory=set)
    revisited: bool = False


@dataclass(slots=True, eq=False)
class Change:
    """One call that changes names or contents, from before it was made. `seen_until`: see `Ledger.excused`.

    `written`: the bytes of a new content that the mount has taken by now.
    """

    text: str
    path: str
    to: str = ""
    content: Content = ABSENT
    seen_until: float = math.inf
    kept: bool = False
    over: bool = False
    written: bytes = b""
    moving: dict[str, set[Content]] = field(default_factory=dict)
    before: set[Content] = field(default_factory=set)
    when: float = 0.0

    @property
    def leaves(self) -> bool:
        """True if it takes a file from the server a little later: it has a scratch name from now on."""
        return bool(self.to) and is_local(self.to) and not is_local(self.path)


def moved(path: str, old: str, new: str) -> str | None:
    """Where `path` is after `old` was renamed to `new`; None if that does not concern it."""
    return names.path_after_rename(path, old, new) if names.is_at_or_below(path, old) else None


def within(path: str, tops: Iterable[str]) -> bool:
    """True if `path` is one of these or below one."""
    return any(names.is_at_or_below(path, top) for top in tops)


def is_local(path: str) -> bool:
    """True for scratch names: they stay on this machine."""
    return any(names.is_scratch(part) for part in path.split("/"))


class Ledger:
    """Written by the writers and the job, read by the verdict. Safe from any thread."""

    def __init__(self, baseline: Mapping[str, Content], late: float = 0.0) -> None:
        """`baseline`: what is there; `late`: seconds that a request may be carried out after its connection died."""
        self._late = late
        #: In monotonic seconds, as what was made before has it.
        self.began = time.monotonic()
        self.lock = threading.RLock()
        #: What may be at each path now, and at any time.
        self.options: dict[str, set[Content]] = {}
        self.ever = defaultdict[str, set[Content]](set)
        for path, content in baseline.items():
            self._may_be(path, {content})
        self.claims: dict[Content, Claim] = {
            content: Claim({path}, durable=not is_local(path))
            for path, content in baseline.items()
            if content is not DIRECTORY
        }
        self.modes: dict[str, int] = {}
        #: Contents that the job has destroyed, and paths that it has touched or deleted.
        self.destroyed: set[Content] = set()
        self.disturbed: set[str] = set()
        self.deleted: set[str] = set()
        #: Paths of a rename (or a failed write) whose outcome is not known: not touched again in this round.
        self.unsettled: set[str] = set()
        self.spoiled: set[str] = set()
        #: Paths that were written to and not closed when the mount died, and what was written since it was mounted last.
        self.unclosed: set[str] = set()
        self.drafts: list[tuple[str, bytes]] = []
        self.story: list[tuple[float, str]] = []
        #: Paths that a call was about.
        self.worked_on: set[str] = set()
        self.acknowledged = 0
        self._open: list[Change] = []
        self._blind: list[Change] = []
        #: When a write ended with an error of a mount that seemed to live, and its path.
        self._refused_writes: list[tuple[float, str]] = []
        #: What stood at a path before: the server may have it still when newer bytes are only here.
        self._earlier = defaultdict[str, set[Content]](set)

    def _may_be(self, path: str, contents: set[Content]) -> None:
        self.options[path] = contents
        self.ever[path] |= contents

    def tell(self, text: str) -> None:
        """Notes something for the report."""
        self.story.append((time.time(), text))

    def at(self, path: str) -> set[Content]:
        """What may stand at a path."""
        with self.lock:
            return set(self.options.get(path, {ABSENT}))

    def usable(self, path: str) -> bool:
        """True if the outcome of earlier calls does not forbid to work on this path."""
        with self.lock:
            return not within(path, self.unsettled)

    def put(self, path: str, content: Content, seen: Content, text: str) -> Change:
        """New content for `path` is about to be written. `seen`: what was read there, or BLIND."""
        with self.lock:
            change = self._begin(Change(f"{text} {path} <- {content} (seen: {seen})", path, content=content))
            self._overwrite(change, path, seen)
            return change

    def unlink(self, path: str, text: str = "unlink") -> Change:
        """`path`, a file or an empty directory, is about to be removed."""
        with self.lock:
            change = self._begin(Change(f"{text} {path}", path, before=self.at(path)))
            self._overwrite(change, path, BLIND)
            return change

    def mkdir(self, path: str) -> Change:
        """A directory is about to be made."""
        with self.lock:
            change = self._begin(Change(f"mkdir {path}", path, content=DIRECTORY))
            self._blind.remove(change)
            return change

    def rename(self, old: str, new: str, seen: Content = BLIND) -> Change:
        """Note that `old`, a file or a directory with all in it, is about to be renamed over `new`; `seen`: as for `put`."""
        with self.lock:
            change = self._begin(Change(f"rename {old} -> {new} (seen: {seen})", old, new))
            self._overwrite(change, new, seen)
            moving = {path: target for path in self.options if (target := moved(path, old, new)) is not None}
            for path, target in moving.items():
                change.moving[path] = set(self.options[path])
                self._may_be(target, self.at(target) | (self.options[path] - {ABSENT}))
                self.ever[target] |= self.ever[path]  # a late request may have put it back before
                self._may_be(path, self.options[path] | {ABSENT})
                self.modes.pop(target, None)
            if is_local(old) or is_local(new):
                # Bytes of a scratch name are on this machine only, whatever it was called before.
                for claim in self.claims.values():
                    claim.durable &= old not in claim.places
            self._follow(old, new)
            self.unsettled |= {old, new}
            return change

    def opened(self, change: Change) -> None:
        """From now on the job's changes are not seen by this change any more."""
        change.seen_until = time.monotonic()

    def keep(self, change: Change, *, durable: bool = False) -> None:
        """The call has returned: it is promised, and on the server if `durable`."""
        with self.lock:
            if not change.kept:
                self.acknowledged += 1
                self._settle(change)
                change.when = time.monotonic()
            change.kept = True
            if durable and change.content in self.claims and not is_local(change.path):
                self.claims[change.content].durable = True
            self.tell(f"kept{' by the server' * durable}: {change.text}")

    def _settle(self, change: Change) -> None:
        if change.seen_until == math.inf:
            # An unlink deletes what was seen at most a second ago, and may still be under way in the background (R10).
            later = 0.0 if change.content is not ABSENT or change.to else 1.0
            change.seen_until = time.monotonic() + (_LEAVING if change.leaves else later)
        self._earlier[change.path] |= self.at(change.path)
        if change.to:
            self._follow(change.path, change.to)
            self._renamed(change)
            return
        self._may_be(change.path, {change.content})
        if change.content not in (ABSENT, DIRECTORY):
            self.claims[change.content] = Claim({change.path})
        elif change.content is ABSENT:
            self.modes.pop(change.path, None)

    def _renamed(self, change: Change) -> None:
        for path, contents in change.moving.items():
            target = moved(path, change.path, change.to)
            assert target is not None
            self._may_be(path, {ABSENT})
            self._may_be(target, contents)
            # The server moves what it has, which may be older than what was renamed.
            self._earlier[target] |= contents | self._earlier[path]
            mode = self.modes.pop(path, None)
            if mode is not None:
                self.modes[target] = mode
            for content in contents:
                if content in self.claims and not content.by_job and path not in self.disturbed:
                    claim = self.claims[content]
                    claim.been |= claim.places
                    claim.places = {moved(p, change.path, change.to) or p for p in claim.places}
        self.unsettled -= {change.path, change.to}

    def failed(self, change: Change, error: object, *, half_done: bool = False) -> None:
        """Note that the call has failed, or its process died: it may be carried out or not.

        `half_done`: unless the mount has died, anything may be in the file.
        """
        with self.lock:
            if change.over or change.kept:
                return
            change.over = True
            # A delete that was sent before is carried out whatever the job has written to the item since (vfs/semantics.md 9).
            unlinks = change.content is ABSENT and not change.to
            change.seen_until = min(change.seen_until, time.monotonic() + (self._late if unlinks else 0.0))
            if change.to:
                self._follow(change.path, change.to)
            died = not isinstance(error, OSError) or error.errno in DEAD
            if died and change.content.data:
                self.unclosed.add(change.path)
                self.drafts += [(change.path, change.written)] * bool(change.written)
            elif change.content.data:
                self._refused_writes.append((time.monotonic(), change.path))
            if half_done and not died:
                self.unsettled.add(change.path)
                self.spoiled.add(change.path)
            self.modes.pop(change.path, None)
            self.tell(f"NOT KNOWN ({error}): {change.text}")

    def refused(self, change: Change, error: object) -> None:
        """The call has failed in a way that says that nothing was done."""
        with self.lock:
            change.over = True
            self.tell(f"refused ({error}): {change.text}")
            self.unsettled |= {path for path in (change.path, change.to) if path}

    def _begin(self, change: Change) -> Change:
        self._open.append(change)
        self._blind.append(change)
        self.worked_on |= {path for path in (change.path, change.to) if path}
        if not change.to:
            self._may_be(change.path, self.at(change.path) | {change.content})
        self.tell(f"begins: {change.text}")
        return change

    def _overwrite(self, change: Change, path: str, seen: Content) -> None:
        """The user gives up what is at `path`; of the job's contents only what was seen."""
        for content, claim in list(self.claims.items()):
            known = seen is not BLIND and content.data == seen.data
            claim.revisited |= path in claim.been
            if path in claim.places and (not content.by_job or known):
                del self.claims[content]
        if seen is not BLIND:
            self._blind.remove(change)

    def _follow(self, old: str, new: str) -> None:
        """Whatever is below `old` may be below `new` from now on."""
        for claim in self.claims.values():
            claim.places |= {p for p in (moved(place, old, new) for place in claim.places) if p is not None}
        for paths in (self.disturbed, self.deleted, self.unsettled, self.spoiled, self.unclosed):
            paths |= {p for p in (moved(path, old, new) for path in paths) if p is not None}

    def end_of_life(self, when: float, *, power_lost: bool = False) -> None:
        """Note that the mount was killed at `when`: no call of it can see anything from then on.

        `power_lost`: what was closed, and is not on the server, may be beside its name (vfs/semantics.md 4.4).
        """
        with self.lock:
            # The latest first: of two unlinks of one name it is the one that may not have been confirmed.
            back: set[str] = set()
            for change in reversed(self._open):
                gone = change.content is ABSENT and (change.leaves or not change.to)
                if (change.kept or change.leaves) and gone and change.path not in back:
                    back.add(change.path)
                    self._unlinked_just_now(change, when)
                self.failed(change, "killed")
            # The kernel says EIO of a request that it was just giving to the process when that was killed.
            self.unclosed.update(path for ended, path in self._refused_writes if ended >= when)
            self._refused_writes = []
            # A call that had its answer just before may return only now, on a busy machine.
            self._open = [change for change in self._open if not change.kept]
            durable = {content for content, claim in self.claims.items() if claim.durable}
            unsynced = [
                path for path, states in self.options.items() if states - durable - {ABSENT, DIRECTORY}
            ]
            for place in unsynced if power_lost else ():
                self.unclosed.add(place)
                self.modes.pop(place, None)
                self._may_be(place, self.ever[place] | {ABSENT})

    def _unlinked_just_now(self, change: Change, killed: float) -> None:
        """Killed within the second after it, what was unlinked while open may be there again (vfs/semantics.md 4); killed
        within three, or in the middle of it, what was renamed to a scratch name.

        As it was closed, or as the server has it; or still as nothing, where something else had begun to take its name, and was
        not acknowledged.
        """
        if (
            killed - (change.when or killed) < (_LEAVING if change.leaves else _MOMENT)
            and ABSENT in self.options[change.path]
        ):
            self._may_be(change.path, self.at(change.path) | change.before | self._earlier[change.path])
            self.tell(f"MAY BE BACK: {change.text}")

    def job(self, text: str, path: str, before: Content, after: Content, *, same: bool) -> None:
        """Note what the job has changed at a path; `same`: it is still the same item. The caller holds the server's lock."""
        with self.lock:
            # A rename that was killed may be carried out yet: then what the job does now goes along.
            places = {path} | (self.claims[before].places if before in self.claims else set())
            for place in places:
                self._disturb(place)
            if before not in (ABSENT, DIRECTORY):
                self.destroyed.add(before)
            if after not in (ABSENT, DIRECTORY):
                self.claims[after] = Claim(places, durable=True)
                # If it is another item, the one that was to be renamed is gone.
                self.deleted |= set() if same else places - {path}
            elif before is not ABSENT:
                self.deleted |= places
            self.tell(f"job: {text}: {path}: {after} instead of {before}")

    def _disturb(self, path: str) -> None:
        while path:
            self.disturbed.add(path)
            path = names.parent(path)

    def may_flip(self, path: str, content: Content) -> bool:
        """True if a request that is carried out late may put this there: at names that calls were about, what once was there."""
        once = content is ABSENT or content in self.ever[path]
        return once and within(path, self.worked_on)

    def excused(self, content: Content) -> bool:
        """True if the job destroyed it itself, or a change that did not look may have seen it first."""
        if content in self.destroyed:
            return True
        places = self.claims[content].places if content in self.claims else set()
        return content.by_job and any(
            content.made <= change.seen_until
            and places & ({change.path, change.to} if change.leaves else {change.to or change.path})
            for change in self._blind
        )

    def was_disturbed(self, path: str) -> bool:
        """True if the job touched this path or one above it."""
        return within(path, self.disturbed)

    def was_deleted(self, path: str) -> bool:
        """True if the job deleted this path or one above it."""
        return within(path, self.deleted)
