"""The figures count what they say, on small made-up trees."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent
from typing import Any

from _figures import static
from _figures.crossings import Crossings

_ROOT = Path(__file__).parents[2]


def modules(tree: Path, **texts: str) -> list[static.Module]:
    """The modules of a tree that has these; two underscores stand for a slash."""
    for name, text in texts.items():
        path = tree / "src" / "jobfs" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return static.modules(tree)


def test_the_local_server_is_no_product_and_every_line_is_one(tmp_path: Path) -> None:
    found = modules(tmp_path, names="a = 1\n\n# why\n", emulator__app="b = 2\n")
    assert [module.name for module in static.product(found)] == ["jobfs.names"]
    assert static.lines(static.product(found)) == 3


def test_locks_are_what_is_made_and_not_what_is_named(tmp_path: Path) -> None:
    text = """\
        import threading
        from dataclasses import dataclass, field
        from threading import RLock

        _lock = threading.Lock()
        @dataclass
        class File:
            lock: RLock = field(default_factory=RLock)
            names: list[str] = field(default_factory=list)
            def __init__(self, given: threading.Condition) -> None:
                self.turn = threading.Condition(threading.Lock())
                self.given = given
    """
    found = modules(tmp_path, state__tables=text)
    assert static.locks(found) == [f"jobfs.state.tables:{line}" for line in (5, 8, 11, 11)]


def test_a_circle_is_found_by_every_way_of_importing(tmp_path: Path) -> None:
    found = modules(
        tmp_path,
        state__first="from jobfs.state import second",
        state__second="def late():\n    from .third import x\n",
        state__third="import jobfs.state.first\n",
        state__outside="from jobfs.state.first import y",
        state____init__="from jobfs.state.outside import z",
    )
    assert static.circles(found) == [["jobfs.state.first", "jobfs.state.second", "jobfs.state.third"]]


def test_what_only_a_type_checker_imports_closes_a_circle_unless_it_is_left_out(tmp_path: Path) -> None:
    first = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jobfs.second import B\n"
    found = modules(tmp_path, first=first, second="from jobfs.first import A\n")
    assert static.circles(found) == [["jobfs.first", "jobfs.second"]]
    assert static.circles(found, for_types=False) == []


def test_a_callback_is_planted_where_a_lower_layer_declares_it(tmp_path: Path) -> None:
    upper = """\
        class View:
            def __init__(self, state):
                self._state = state
                self._state.moved = self._moved
                self._state.size = self._size
                self._own.hook = self._moved
                self.moved = self._moved
            def _moved(self): ...
        class Own:
            hook: Callable[[], None]
    """
    lower = """\
        class State:
            def __init__(self):
                self.moved: Callable[[str], None] = print
                self.size: int = 0
    """
    found = modules(tmp_path, vfs__view=upper, state__tables=lower)
    assert static.callbacks(found) == ["jobfs.vfs.view:4 self._state.moved"]


def test_a_function_is_complex_over_ten(tmp_path: Path) -> None:
    def branches(count: int) -> str:
        return "def f(x):\n" + "    if x: x -= 1\n" * count

    found = modules(tmp_path, simple=branches(9), complicated=branches(10))
    assert static.complex_functions(found) == ["jobfs.complicated.f 11"]


def test_what_has_to_be_known_is_told_by_kind_and_only_of_the_save_path(tmp_path: Path) -> None:
    text = """\
        @dataclass(slots=True)
        class File:
            path: str
            stays: bool = False
        class Verb(StrEnum):
            PUT = "put"
            MOVE = "move"
        class Queue:
            def __init__(self):
                self._stopping = False
                self._count = 0
                thread = threading.Thread(target=self.run)
            def stop(self):
                self._stopping = True
    """
    found = modules(tmp_path, save__queue=text, content__queue=text)
    name = "jobfs.save.queue"
    assert static.things_to_know(found) == {
        "record types": [f"{name}.File"],
        "enum members": [f"{name}.Verb.PUT", f"{name}.Verb.MOVE"],
        "flags": [f"{name}.File.stays", f"{name}.Queue._stopping"],
        "actors": [f"{name}.Queue"],
    }


def test_what_is_crossed_is_counted_once_in_all_threads_and_only_below_the_root(tmp_path: Path) -> None:
    def loaded(name: str, text: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        exec(compile(dedent(text), str(tmp_path / name), "exec"), values)
        return values

    work = loaded(
        "save/work.py", "def work(): return sum(x for x in map(lambda y: y, [1, 2]))\ndef other(): ..."
    )
    server = loaded("server/app.py", "def serve(): ...")
    crossings = Crossings(f"{tmp_path}/", f"{tmp_path}/server/")
    with crossings.installed():
        work["other"]()
        with crossings.counting() as found:
            work["work"]()
            server["serve"]()
            thread = threading.Thread(target=work["work"])
            thread.start()
            thread.join()
            threads_only = threading.Thread(target=loaded("save/thread.py", "def run(): ...")["run"])
            threads_only.start()
            threads_only.join()
    assert found == {"save/work.py": ["work:1"], "save/thread.py": ["run:1"]}


def test_a_revision_that_is_none_is_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "_figures", "--static", "--of", "no-such-revision"],
        cwd=_ROOT / "scripts",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: git can't give 'no-such-revision'"), done.stderr
    assert "Traceback" not in done.stderr
