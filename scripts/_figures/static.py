"""The figures that are read off the source of a tree, without running it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from radon.complexity import cc_visit
from radon.visitors import Function

_EMULATOR = "emulator"
_LOCKS = frozenset({"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"})
_ACTORS = frozenset({"Thread", "ThreadPoolExecutor"})
_ENUMS = frozenset({"Enum", "StrEnum", "IntEnum", "Flag", "IntFlag"})
#: The packages to know before changing the save path; older trees have `writeback` in place of the other two.
_SAVE_PATH = frozenset({"state", "save", "writeback"})
#: The highest complexity that is not too much.
MOST_COMPLEX = 10

_Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module of jobfs: its dotted name, its file, its text and its syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """Return the package or module directly below `jobfs` that it belongs to."""
        return self.name.removeprefix("jobfs").lstrip(".").partition(".")[0]

    def place(self, node: ast.AST) -> str:
        """Return where a node is, for a list that people read."""
        return f"{self.name}:{getattr(node, 'lineno', 0)}"


def modules(tree: Path) -> list[Module]:
    """Return every module below `src/jobfs` of a tree, including the local server's."""
    found = []
    for path in sorted((tree / "src" / "jobfs").rglob("*.py")):
        parts = path.relative_to(tree / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found.append(Module(name, path, text, ast.parse(text, str(path))))
    return found


def product(found: list[Module]) -> list[Module]:
    """Return the modules without the local server's."""
    return [module for module in found if module.package != _EMULATOR]


def lines(found: list[Module]) -> int:
    """Count the lines of these modules, including blank ones and docstrings: everything that a reader scrolls through."""
    return sum(len(module.text.splitlines()) for module in found)


def test_lines(tree: Path) -> int:
    """Count the lines of every Python file below `tests`."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (tree / "tests").rglob("*.py"))


# -- locks


def locks(found: list[Module]) -> list[str]:
    """Return each place where a lock is made: by a call of a class of threading, or by a dataclass field's default.

    A condition and the lock made for it are two, as each has a name.
    """
    return [
        module.place(node)
        for module in found
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Call) and _called(node.func) in _LOCKS)
        or (isinstance(node, ast.keyword) and node.arg == "default_factory" and _called(node.value) in _LOCKS)
    ]


def _called(node: ast.expr) -> str:
    """Return the last part of a called name: `Lock` of `threading.Lock`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


# -- circles


def circles(found: list[Module], *, for_types: bool = True) -> list[list[str]]:
    """Return the sets of modules that import each other, directly or not: none can be read without the others.

    Imports inside functions count, and those under `if TYPE_CHECKING` unless `for_types` is False. Only written imports count:
    that importing a module imports its package, too, does not.
    """
    names = {module.name for module in found}
    edges = {module.name: set(_imports(module, names, for_types)) - {module.name} for module in found}
    reached = {name: _reachable(name, edges) for name in edges}
    rings = {
        frozenset(o for o in reached[name] if name in reached[o]) for name in edges if name in reached[name]
    }
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


def _imports(module: Module, names: set[str], for_types: bool) -> Iterator[str]:
    """Yield the modules among `names` that this one imports."""
    for node in ast.walk(module.tree) if for_types else _running(module.tree):
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
    """Yield every node below, except those under `if TYPE_CHECKING`."""
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
    """Return each callable that is assigned to an attribute of an object of a lower layer: `self._state.on_change = self._look`.

    The value is a lambda, a `partial`, a function of this module, or a method of its classes. The layer is found by the
    attribute's name: if no other package declares that name as a Callable, the assignment is within a layer and does not count.
    """
    declared: dict[str, set[str]] = {}
    for module in found:
        for name in _callable_attributes(module.tree):
            declared.setdefault(name, set()).add(module.package)
    places = []
    for module in found:
        methods = {
            part.name
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef)
            for part in node.body
            if isinstance(part, _Definition)
        }
        functions = {node.name for node in ast.walk(module.tree) if isinstance(node, _Definition)} - methods
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Assign) or not _is_callable(node.value, functions, methods):
                continue
            for target in node.targets:
                if _is_elsewhere(target) and declared.get(_called(target), set()) - {module.package}:
                    places.append(f"{module.place(node)} {ast.unparse(target)}")
    return places


def _is_elsewhere(target: ast.expr) -> bool:
    """Return whether the target is an attribute of anything but `self`."""
    return isinstance(target, ast.Attribute) and not (
        isinstance(target.value, ast.Name) and target.value.id in ("self", "cls")
    )


def _is_callable(value: ast.expr, functions: set[str], methods: set[str]) -> bool:
    if isinstance(value, ast.Lambda):
        return True
    if isinstance(value, ast.Call):
        return _called(value.func) == "partial"
    if isinstance(value, ast.Attribute):
        return isinstance(value.value, ast.Name) and value.value.id == "self" and value.attr in methods
    return isinstance(value, ast.Name) and value.id in functions


def _callable_attributes(tree: ast.Module) -> Iterator[str]:
    """Yield the names of attributes that are annotated as callable, by a class or on an object."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and "Callable" in ast.unparse(node.annotation):
            yield _called(node.target)


# -- complexity


def complex_functions(found: list[Module]) -> list[str]:
    """Return functions and methods whose cyclomatic complexity, by radon, is over 10; the worst first."""
    over = [
        (block.complexity, f"{module.name}.{block.fullname}")
        for module in found
        for block in cc_visit(module.text)
        if isinstance(block, Function) and block.complexity > MOST_COMPLEX
    ]
    return [f"{name} {complexity}" for complexity, name in sorted(over, key=lambda one: (-one[0], one[1]))]


# -- what must be known


def things_to_know(found: list[Module]) -> dict[str, list[str]]:
    """Return what a developer must know before changing the save path, of the packages `state` and `save`.

    record types   dataclasses and named tuples
    enum members   the values of their enums
    flags          booleans: fields of these records, attributes of the other classes
    actors         classes and functions that start threads
    """
    known: dict[str, list[str]] = {"record types": [], "enum members": [], "flags": [], "actors": []}
    for module in found:
        if module.package not in _SAVE_PATH:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                _note_class(f"{module.name}.{node.name}", node, known)
        known["actors"] += [f"{module.name}.{name}" for name in _actors(module.tree)]
    return known


def _note_class(name: str, node: ast.ClassDef, known: dict[str, list[str]]) -> None:
    bases = {_called(base) for base in node.bases}
    if bases & _ENUMS:
        members = (s.targets[0] for s in node.body if isinstance(s, ast.Assign))
        known["enum members"] += [f"{name}.{_called(member)}" for member in members]
        return
    if "NamedTuple" in bases or any(_decorator(d) == "dataclass" for d in node.decorator_list):
        known["record types"].append(name)
    known["flags"] += [f"{name}.{flag}" for flag in sorted(set(_flags(node)))]


def _flags(node: ast.ClassDef) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.AnnAssign) and ast.unparse(part.annotation) == "bool":
            if part in node.body or isinstance(part.target, ast.Attribute):
                yield _called(part.target)
        elif (
            isinstance(part, ast.Assign)
            and isinstance(part.value, ast.Constant)
            and isinstance(part.value.value, bool)
        ):
            yield from (
                _called(t) for t in part.targets if isinstance(t, ast.Attribute) and not _is_elsewhere(t)
            )


def _decorator(node: ast.expr) -> str:
    return _called(node.func if isinstance(node, ast.Call) else node)


def _actors(tree: ast.Module) -> list[str]:
    """Return the top-level classes and functions that start threads."""
    found: Counter[str] = Counter()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | _Definition):
            calls = (n for n in ast.walk(node) if isinstance(n, ast.Call))
            found[node.name] += sum(_called(call.func) in _ACTORS for call in calls)
    return [name for name, count in found.items() if count]
