"""The figures that are read off the source of a tree, without running it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from radon.complexity import cc_visit
from radon.visitors import Function

_EMULATOR = "jobfs.emulator"
_LOCKS = frozenset({"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"})
_ACTORS = frozenset({"Thread", "ThreadPoolExecutor"})
_ENUMS = frozenset({"Enum", "StrEnum", "IntEnum", "Flag", "IntFlag"})
#: The packages that have to be known before the save path is changed; `writeback` stood where the other two stand.
_SAVE_PATH = ("jobfs.state", "jobfs.save", "jobfs.writeback")
#: Where a branch becomes one too many.
MOST_COMPLEX = 10

_Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module of jobfs: its dotted name, its file, its text and what that says."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package or module right below `jobfs` that it belongs to."""
        return self.name.removeprefix("jobfs").lstrip(".").partition(".")[0]

    def place(self, node: ast.AST) -> str:
        """Where a node stands, for a list that people read."""
        return f"{self.name}:{getattr(node, 'lineno', 0)}"


def modules(tree: Path) -> list[Module]:
    """Every module below `src/jobfs` of a tree, the local server's too."""
    found = []
    for path in sorted((tree / "src" / "jobfs").rglob("*.py")):
        parts = path.relative_to(tree / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found.append(Module(name, path, text, ast.parse(text, str(path))))
    return found


def product(found: list[Module]) -> list[Module]:
    """Those without the local server's."""
    return [m for m in found if m.name != _EMULATOR and not m.name.startswith(f"{_EMULATOR}.")]


def lines(found: list[Module]) -> int:
    """Lines of these modules, empty ones and docstrings too: all that a reader scrolls over."""
    return sum(len(module.text.splitlines()) for module in found)


def test_lines(tree: Path) -> int:
    """Lines of every Python file below `tests`."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (tree / "tests").rglob("*.py"))


# -- locks


def locks(found: list[Module]) -> list[str]:
    """Each place where a lock is made: a call of one of threading's, or a dataclass field whose default makes one.

    A condition and the lock that is made for it in the same call are one.
    """
    places = []
    for module in found:
        inner = {
            id(argument)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call) and _called(node.func) == "Condition"
            for argument in node.args
        }
        for node in ast.walk(module.tree):
            made = isinstance(node, ast.Call) and _called(node.func) in _LOCKS and id(node) not in inner
            field = isinstance(node, ast.keyword) and node.arg == "default_factory" and _called(node.value) in _LOCKS
            if made or field:
                places.append(module.place(node))
    return places


def _called(node: ast.expr) -> str:
    """The last name of what is called: `Lock` of `threading.Lock`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


# -- circles


def circles(found: list[Module]) -> list[list[str]]:
    """Sets of modules each of which imports every other, by whatever way round.

    Imports inside of functions count, those for type checkers do not. That a module's package is imported with it is no
    edge: only what is written there.
    """
    names = {module.name for module in found}
    edges = {module.name: set(_imports(module, names)) - {module.name} for module in found}
    reached = {name: _reachable(name, edges) for name in edges}
    rings = {frozenset(o for o in reached[name] if name in reached[o]) for name in edges if name in reached[name]}
    return sorted(sorted(ring) for ring in rings)


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = list(edges[start])
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead.extend(edges[name])
    return seen


def _imports(module: Module, names: set[str]) -> Iterator[str]:
    """The modules among `names` that this one imports."""
    for node in _running(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom):
            base = _imported_from(module, node)
            inside = {f"{base}.{alias.name}" for alias in node.names}
            yield from inside & names
            if base in names and inside - names:
                yield base


def _imported_from(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    if module.path.name != "__init__.py":
        parts = parts[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, without what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _called(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


# -- callbacks


def callbacks(found: list[Module]) -> list[str]:
    """Each callable that is assigned to an attribute of an object of a lower layer: `self._state.on_change = self._look`.

    The value is a lambda, a `partial`, a function of this module, or a method of the class around it. The layer is found by the
    attribute's name: assignments to what only this module's own package declares stay inside of a layer and don't count.
    """
    declared: dict[str, set[str]] = {}
    for module in found:
        for name in _attributes(module.tree):
            declared.setdefault(name, set()).add(module.package)
    places = []
    for module in found:
        functions = {node.name for node in ast.walk(module.tree) if isinstance(node, _Definition)}
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Assign) or not _is_callable(node.value, functions):
                continue
            for target in node.targets:
                if _is_elsewhere(target) and declared.get(_called(target)) != {module.package}:
                    places.append(f"{module.place(node)} {ast.unparse(target)}")
    return places


def _is_elsewhere(target: ast.expr) -> bool:
    """True for an attribute of anything but `self`."""
    return isinstance(target, ast.Attribute) and not (
        isinstance(target.value, ast.Name) and target.value.id in ("self", "cls")
    )


def _is_callable(value: ast.expr, functions: set[str]) -> bool:
    if isinstance(value, ast.Lambda):
        return True
    if isinstance(value, ast.Call):
        return _called(value.func) == "partial"
    own = isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id == "self"
    return (own or isinstance(value, ast.Name)) and _called(value) in functions


def _attributes(tree: ast.Module) -> Iterator[str]:
    """Names of attributes that a class here declares, or sets on itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign):
                    yield _called(statement.target)
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        yield from (_called(t) for t in targets if isinstance(t, ast.Attribute) and not _is_elsewhere(t))


# -- complexity


def complex_functions(found: list[Module]) -> list[str]:
    """Functions and methods whose cyclomatic complexity, as radon counts it, is over 10; the worst first."""
    over = [
        (block.complexity, f"{module.name}.{block.fullname}")
        for module in found
        for block in cc_visit(module.text)
        if isinstance(block, Function) and block.complexity > MOST_COMPLEX
    ]
    return [f"{name} {complexity}" for complexity, name in sorted(over, key=lambda one: (-one[0], one[1]))]


# -- what has to be known


def things_to_know(found: list[Module]) -> dict[str, list[str]]:
    """What somebody has to know before changing the save path, of the packages `state` and `save`.

    record types   dataclasses and named tuples
    enums          classes of enum members; their members are told beside, and not counted
    flags          fields of record types that are true or false
    actors         classes and functions that start threads
    """
    known: dict[str, list[str]] = {"record types": [], "enums": [], "flags": [], "actors": []}
    for module in found:
        if not module.name.startswith(_SAVE_PATH):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                _note_class(module, node, known)
        known["actors"] += [f"{module.name}.{name}" for name in _actors(module.tree)]
    return known


def _note_class(module: Module, node: ast.ClassDef, known: dict[str, list[str]]) -> None:
    name = f"{module.name}.{node.name}"
    bases = {_called(base) for base in node.bases}
    if bases & _ENUMS:
        members = [_called(s.targets[0]) for s in node.body if isinstance(s, ast.Assign)]
        known["enums"].append(f"{name} ({', '.join(members)})")
    elif "NamedTuple" in bases or any(_decorator(d) == "dataclass" for d in node.decorator_list):
        known["record types"].append(name)
        known["flags"] += [
            f"{name}.{_called(s.target)}"
            for s in node.body
            if isinstance(s, ast.AnnAssign) and _called(s.annotation) == "bool"
        ]


def _decorator(node: ast.expr) -> str:
    return _called(node.func if isinstance(node, ast.Call) else node)


def _actors(tree: ast.Module) -> list[str]:
    """Top-level classes and functions that start threads."""
    found: Counter[str] = Counter()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | _Definition):
            calls = (n for n in ast.walk(node) if isinstance(n, ast.Call))
            found[node.name] += sum(_called(call.func) in _ACTORS for call in calls)
    return [name for name, count in found.items() if count]
