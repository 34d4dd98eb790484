"""What the wheel has beside the package, made from the program's own help: man pages, and completion for three shells.

They go where a prefix has them: share/man/man1, share/bash-completion/completions, ….
"""

from __future__ import annotations

import inspect
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import click
from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Where each shell looks below a prefix.
COMPLETIONS = {
    "bash": "share/bash-completion/completions/jobfs",
    "zsh": "share/zsh/site-functions/_jobfs",
    "fish": "share/fish/vendor_completions.d/jobfs.fish",
}


class SharedFiles(BuildHookInterface[BuilderConfig]):
    """Adds them to the wheel; an editable one goes without, for they would not follow the source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the files and name them to the builder. Raises SystemExit for a Python that the program does not run on."""
        # Whoever builds it for pip is not asked before: without this the program itself ends in a traceback.
        core, python = self.metadata.core, platform.python_version()
        if not core.python_constraint.contains(python, prereleases=True):
            raise SystemExit(f"jobfs needs Python {core.requires_python}, and this is Python {python}")
        if version == "editable":
            return
        sys.path.insert(0, str(Path(self.root, "src")))
        self._made = tempfile.TemporaryDirectory(prefix="jobfs-build-")
        for number, (place, text) in enumerate(files()):
            path = Path(self._made.name, str(number))
            path.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(path)] = place

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take away what is in the wheel by now."""
        if version != "editable":
            self._made.cleanup()


def files() -> Iterator[tuple[str, str]]:
    """Each file: its place below a prefix, and what is in it."""
    from jobfs.cli import COMMANDS, jobfs
    from jobfs.cli.install import SHELLS, completion_script
    from jobfs.cli.options import HELP_ALL

    group = jobfs.make_context("jobfs", [], resilient_parsing=True)
    # Which the contexts of its commands share.
    group.meta[HELP_ALL] = True
    lines = {name: line for name, (_, line) in COMMANDS.items()}
    listed = {name: lines[name] for name in jobfs.list_commands(group)}
    yield "share/man/man1/jobfs.1", man_page(group, "Mount the workspace of a running AI job.", listed)
    for name, line in lines.items():
        command = jobfs.get_command(group, name)
        assert command is not None
        context = command.make_context(name, [], parent=group, resilient_parsing=True)
        yield f"share/man/man1/jobfs-{name}.1", man_page(context, line, {})
    for shell in SHELLS:
        yield COMPLETIONS[shell], completion_script(shell)


def man_page(context: click.Context, line: str, commands: Mapping[str, str]) -> str:
    """The page of a command in roff: what its help says; `line` and `commands` are one line on it and on those it has."""
    command = context.command
    path = context.command_path
    title = path.replace(" ", "-")
    version = sys.modules["jobfs"].__version__
    usage = " ".join(command.collect_usage_pieces(context))
    text = [
        f'.TH {_plain(title.upper())} 1 "" "jobfs {version}" "jobfs"',
        ".SH NAME",
        f"{_plain(title)} \\- {_plain(line.rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{_plain(path)}\\fP {_plain(usage)}",
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    text += [".SH COMMANDS"] if commands else []
    for name, about in commands.items():
        text += [".TP", f"\\fB{_plain(title)}\\-{_plain(name)}\\fP(1)", _plain(about)]
    text.append(".SH OPTIONS")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            text += [".TP", f"\\fB{_plain(record[0])}\\fP", _plain(record[1])]
    if path in ("jobfs status", "jobfs watch"):
        text += [".SH FIELDS", *_fields(path)]
    if context.parent is not None:
        text += [".SH SEE ALSO", "\\fBjobfs\\fP(1)"]
    return "\n".join(text) + "\n"


def _fields(path: str) -> Iterator[str]:
    """What the documents of a command's --json have in them: the text and the types of their module."""
    from jobfs import document

    yield from _paragraphs((document.__doc__ or "").replace("`", ""))
    status = path == "jobfs status"
    for name, meaning in (
        _described(document.Status, "mounts[].") if status else _described(document.WatchEvent)
    ):
        yield from (".TP", f"\\fB{_plain(name)}\\fP", _plain(meaning))


def _described(kind: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a TypedDict, and of those in it, with its meaning."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner, meaning = (hint, "") if is_typeddict(hint) else get_args(hint)
        entry = get_args(inner)[0] if get_origin(inner) is list else inner
        path = f"{prefix}{name}{'[]' * (entry is not inner)}"
        if meaning:
            yield path, meaning
        if is_typeddict(entry):
            yield from _described(entry, f"{path}.")


def _paragraphs(help: str) -> Iterator[str]:
    """A command's help; click's \\b at the head of a paragraph keeps its lines as they are."""
    for paragraph in inspect.cleandoc(help).split("\n\n"):
        yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *map(_plain, paragraph.splitlines()[1:]), ".fi")
        else:
            yield _plain(" ".join(paragraph.split()))


def _plain(text: str) -> str:
    """Text that means nothing to roff, in ASCII."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(sign if sign.isascii() else f"\\[u{ord(sign):04X}]" for sign in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text
