"""The repository's own pages: what cites them leads somewhere, and what they name is there.

A citation is the path of a page below `src/jobfs`; then, after a space, numbers of sections, statements or rules; then, after
a comma, a heading of that page, or of that section: `vfs/semantics.md 4.7`, `vfs/semantics.md 4, Keep both`,
`save/protocol.md R6 and R7`. A module says `(section 4)` and `(R6)` for short, if it or its package names the page.
"""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PACKAGE = _ROOT / "src" / "jobfs"
_PAGES = {
    str(path.relative_to(_PACKAGE)): path.read_text(encoding="utf-8") for path in _PACKAGE.rglob("*.md")
}
_SEMANTICS, _PROTOCOL = "vfs/semantics.md", "save/protocol.md"

_NUMBER = r"(?:\d(?:\.\d+)?|R\d+)(?![\w.]*\w)"
_PAGE = "|".join(map(re.escape, _PAGES))
_CITATION = re.compile(
    rf"(?P<page>{_PAGE})(?: (?P<numbers>{_NUMBER}(?:(?:, | and ){_NUMBER})*))?(?:, (?P<heading>(?:(?!{_PAGE}).)+))?"
)
_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
#: A file of this kind in prose, not in quotes as the subject of an example.
_FILE = re.compile(r"(?<![\w/.\"'<*-])(?:[\w-]+/)*[\w-]+\.md\b")


def _prose(path: Path) -> Iterator[str]:
    """Each docstring and comment of a Python file, in one line; of any other file, each paragraph."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from (" ".join(part.split()) for part in text.split("\n\n"))
        return
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield from (" ".join(part.split()) for part in node.value.value.split("\n\n"))
    comments, last = [""], -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments += [""] if token.start[0] != last + 1 else []
            comments[-1] += token.string.lstrip("#:") + " "
            last = token.start[0]
    yield from (" ".join(comment.split()) for comment in comments)


@cache
def _headings(page: str) -> dict[str, list[str]]:
    """Each section of a page by its number, "" for the whole page, with its headings in lower case."""
    found, section = defaultdict(list), ""
    for line in _BLOCK.sub("", _PAGES[page]).splitlines():
        if title := re.match(r"(##+) (?:(\d)\. )?(.*)", line):
            section = title[2] or ("" if title[1] == "##" else section)
            for number in {"", section}:
                found[number].append(title[3].lower())
    return found


def _numbers(page: str) -> list[str]:
    """The numbers of a page's sections and rules, which are headings, and of its statements."""
    found = re.findall(r"^## (\d)\. |^### (R\d+)$|^[-|] \*\*(\d\.\d+)\*\*", _PAGES[page], re.MULTILINE)
    return [number for each in found for number in each if number]


def _wrong(citation: re.Match[str]) -> str:
    """What a citation names and the page does not have; "" if all is there."""
    page, heading = citation["page"], citation["heading"]
    numbers = re.findall(_NUMBER, citation["numbers"] or "")
    if missing := set(numbers).difference(_numbers(page)):
        return f"{page} has no {', '.join(sorted(missing))}"
    if heading is None or re.match(r"and |R\d|`$", heading):
        return ""
    section = numbers[-1][0] if numbers and numbers[-1][0].isdigit() else ""
    there = any(re.match(rf"{re.escape(title)}(?!\w)", heading.lower()) for title in _headings(page)[section])
    return "" if there else f"{page} {section} has no heading {heading[:40]!r}"


@pytest.mark.parametrize("top", ["src", "tests", "scripts", "README.md"])
def test_each_citation_of_a_page_has_a_target(top: str) -> None:
    place = _ROOT / top
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if _is_read(path))
    wrong = [
        f"{path.relative_to(_ROOT)}: {message}"
        for path in files
        for text in _prose(path)
        for message in (*(_wrong(found) for found in _CITATION.finditer(text)), *_unknown(path, text))
        if message
    ]
    assert wrong == []


@pytest.mark.parametrize("page", [_SEMANTICS, _PROTOCOL])
def test_statement_numbers_are_unique_within_a_page(page: str) -> None:
    """Otherwise a test that cites the number may prove either."""
    counted = Counter(_numbers(page))
    assert len(counted) > 10
    assert [number for number, count in counted.items() if count > 1] == []


def test_each_statement_of_the_semantics_is_named_by_a_test() -> None:
    named = {
        number
        for path in (_ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for found in _CITATION.finditer(" ".join((ast.get_docstring(node) or "").split()))
        if found["page"] == _SEMANTICS
        for number in re.findall(_NUMBER, found["numbers"] or "")
    }
    assert [number for number in _numbers(_SEMANTICS) if "." in number and number not in named] == []


def _is_read(path: Path) -> bool:
    return path.is_file() and path.suffix in (".py", ".md", "") and path != Path(__file__)


def _unknown(path: Path, text: str) -> Iterator[str]:
    """Pages that are named in prose and are not there. What code of an example names is no page."""
    if path.suffix == ".py":
        for name in _FILE.findall(re.sub(r"\"[^\"]*\"", "", text)):
            if name not in _PAGES and not (_ROOT / name).is_file():
                yield f"there is no {name}"


def _spans() -> Iterator[tuple[str, str]]:
    """Each piece of code in a page, with the page."""
    for page, text in _PAGES.items():
        yield from ((page, span) for span in re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text)))


def test_each_module_that_a_page_names_exists() -> None:
    named = {
        span for _, span in _spans() if re.fullmatch(r"[\w/]+(?:\.py|/)|(?:tests|scripts)/[\w/-]+", span)
    }
    assert {"save/replace.py", "namespace/remote.py"} <= named
    assert sorted(name for name in named if not any((top / name).exists() for top in (_PACKAGE, _ROOT))) == []


def test_each_function_and_class_that_a_page_names_exists() -> None:
    code = (path.read_text(encoding="utf-8") for path in _PACKAGE.rglob("*.py"))
    words = {word for text in code for word in re.findall(r"\w+", text)}.union(dir(os))
    named = [each for each in _spans() if re.fullmatch(r"[A-Z]\w+\.\w+|[A-Z][a-z]\w*|\w*_\w*", each[1])]
    assert [f"{page}: {span}" for page, span in named if not words.issuperset(span.split("."))] == []


@cache
def _classes() -> dict[str, list[ast.ClassDef]]:
    """The product's classes by name, of which there may be several."""
    found = defaultdict(list)
    for path in _PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(node)
    return found


def _members(name: str) -> Iterator[str]:
    """The attributes that classes of this name and their bases define: in their bodies, or by `self.attribute = …`."""
    for node in _classes().get(name, ()):
        for base in node.bases:
            yield from _members(ast.unparse(base))
        for statement in node.body:
            yield from _defined(statement)
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                yield part.attr if ast.unparse(part.value) == "self" else ""


def _defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of a class's body defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.AnnAssign):
        yield ast.unparse(statement.target)
    elif isinstance(statement, ast.Assign):
        yield from map(ast.unparse, statement.targets)


def test_each_attribute_that_a_page_names_is_defined_by_its_class() -> None:
    """`Link.pool` was once in a page: there was a Link, and there was a pool, in another class."""
    cited = [(page, re.match(r"([A-Z]\w*)\.(\w+)(?:\(.*\))?$", span)) for page, span in _spans()]
    found = [(page, match) for page, match in cited if match]
    assert ("design.md", "Fetcher.read") in {(page, match[0]) for page, match in found}
    assert [f"{page}: {match[0]}" for page, match in found if match[2] not in set(_members(match[1]))] == []


def test_the_design_names_each_kind_of_background_thread() -> None:
    code = (path.read_text(encoding="utf-8") for path in _PACKAGE.rglob("*.py"))
    made = re.compile(r"(?:Thread(?:PoolExecutor)?|Background)\([^\n]*\"(jobfs-[a-z]+)\"")
    threads = {name for text in code for name in made.findall(text)}
    assert {"jobfs-queue", "jobfs-save", "jobfs-listing"} <= threads
    assert sorted(name for name in threads if f'"{name}"' not in _PAGES["design.md"]) == []


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "file", [_ROOT / "README.md", *(_PACKAGE / page for page in _PAGES)], ids=lambda file: file.name
)
def test_each_link_of_a_page_has_a_target(file: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        place, _, anchor = target.partition("#")
        other = file.parent / place if place else file
        if "://" not in target and not (
            other.exists() and (not anchor or anchor in _anchors(other.read_text(encoding="utf-8")))
        ):
            wrong.append(target)
    assert wrong == []


def test_the_readme_names_each_page() -> None:
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    assert sorted(page for page in _PAGES if f"src/jobfs/{page}" not in readme) == []
