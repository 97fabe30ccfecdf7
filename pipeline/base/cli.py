"""Argument pieces and exit codes shared by all steps (``python -m pipeline.read_tracklets ...``)."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.base import disk, running
from pipeline.base.build import build
from pipeline.base.errors import ConfigError, UserError
from pipeline.base.files import check_place, parse_json

T = TypeVar("T")
Files = str | Path | Sequence[str | Path] | None

USER_ERROR = 2
"""Exit status of a step that ended with a :class:`UserError`."""


def parser(module_doc: str | None) -> argparse.ArgumentParser:
    """An argument parser whose help is the module's docstring."""
    return argparse.ArgumentParser(description=module_doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def config_argument(arguments: argparse.ArgumentParser) -> None:
    """Add ``--config``: the step's own section of the settings, as JSON text."""
    arguments.add_argument("--config", default="{}", help="the step's settings as JSON text")


def load(cls: type[T], text: str, where: str = "config") -> T:
    """Build a settings class from JSON text given on the command line."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"--config: not JSON ({error})") from None
    return build(cls, value, where)


def check_outputs(outs: Mapping[str, Files], ins: Mapping[str, Files]) -> None:
    """Refuse, before any work, files to write that are among those that are read, or one another, by whatever path.

    Args:
        outs, ins: by the name that the user knows: paths that were given, None or '' where none was.

    Raises:
        ConfigError: two of them are one file.
        DiskError: as `files.check_place`.
    """
    taken = {os.path.realpath(path): f"{name}={path}, which this step reads" for name, path in _each(ins)}
    for name, path in _each(outs):
        check_place(path)
        place = os.path.realpath(path)
        if place in taken:
            raise ConfigError(f"{name}={path}: is the same file as {taken[place]}; name another file to write")
        taken[place] = f"{name}={path}, which this step writes, too"


def _each(files: Mapping[str, Files]) -> list[tuple[str, str | Path]]:
    return [(name, path) for name, some in files.items() for path in ([some] if isinstance(some, str | Path) else some or []) if str(path)]


def printable(text: str) -> str:
    """One line that a terminal shows and does not obey: line ends, escape sequences and the like as Python writes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run(main: Callable[[], None]) -> None:
    """Run a step's `main`; a UserError is one sentence on stderr and exit status 2, no traceback; so is what a disk refuses.

    A step that a `snakemake` has started does nothing once that has ended: another may be at work on the same files.
    """
    try:
        with running.step():
            main()
        with disk.writing("the log of this step"):
            sys.stdout.flush()  # what it has printed, which may lie on a full disk, too
    except BrokenPipeError:
        sys.exit(1)
    except (UserError, OSError) as error:
        told = error if isinstance(error, UserError) else disk.explain(None, error)
        if told is None:
            raise
        _say(f"error: {printable(str(told))}")
        sys.exit(USER_ERROR)


def _say(line: str) -> None:
    """One line on stderr; where that lies on a full disk there is nobody to tell, and the exit status has to do."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try again at its end, and end with a status and a traceback of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
