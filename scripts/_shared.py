"""The wheel's files beside the package: man pages, and completions for three shells, generated from the program's own help.

They have the usual places below a prefix: share/man/man1, share/bash-completion/completions, ….
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

#: By shell: the file below a prefix in which it looks for completions.
COMPLETIONS = {
    "bash": "share/bash-completion/completions/jobfs",
    "zsh": "share/zsh/site-functions/_jobfs",
    "fish": "share/fish/vendor_completions.d/jobfs.fish",
}


class SharedFiles(BuildHookInterface[BuilderConfig]):
    """Adds these files to the wheel. An editable wheel gets none, because they would not follow the source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the files and add them to the build. Raises SystemExit for a Python that the program does not support."""
        # pip does not check this before it builds: without the check, the program itself would fail with a traceback.
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
        """Delete the files, which the wheel now contains."""
        if version != "editable":
            self._made.cleanup()


def files() -> Iterator[tuple[str, str]]:
    """Yield the place of each file below a prefix, and its text."""
    from jobfs.cli import COMMANDS, jobfs
    from jobfs.cli.install import SHELLS, completion_script
    from jobfs.cli.options import HELP_ALL

    group = jobfs.make_context("jobfs", [], resilient_parsing=True)
    # The contexts of all commands share this.
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
    """Return a command's man page in roff: its help. `line` describes the command in one line; `commands` its subcommands."""
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
    """Yield the description of a command's --json documents: the text and the types of their module."""
    from jobfs import document

    yield from _paragraphs((document.__doc__ or "").replace("`", ""))
    status = path == "jobfs status"
    for name, meaning in (
        _described(document.Status, "mounts[].") if status else _described(document.WatchEvent)
    ):
        yield from (".TP", f"\\fB{_plain(name)}\\fP", _plain(meaning))


def _described(kind: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every field of a TypedDict and of nested ones, with its meaning."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner, meaning = (hint, "") if is_typeddict(hint) else get_args(hint)
        entry = get_args(inner)[0] if get_origin(inner) is list else inner
        path = f"{prefix}{name}{'[]' * (entry is not inner)}"
        if meaning:
            yield path, meaning
        if is_typeddict(entry):
            yield from _described(entry, f"{path}.")


def _paragraphs(help: str) -> Iterator[str]:
    r"""Yield a command's help in roff; in a paragraph that begins with click's \\b, the lines are kept."""
    for paragraph in inspect.cleandoc(help).split("\n\n"):
        yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *map(_plain, paragraph.splitlines()[1:]), ".fi")
        else:
            yield _plain(" ".join(paragraph.split()))


def _plain(text: str) -> str:
    """Return the text in ASCII, without any meaning to roff."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(sign if sign.isascii() else f"\\[u{ord(sign):04X}]" for sign in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text
