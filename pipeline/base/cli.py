"""Argument pieces and exit codes shared by all steps (``python -m pipeline.read_tracklets ...``)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TypeVar

from pipeline.base import running
from pipeline.base.build import build
from pipeline.base.errors import ConfigError, UserError

T = TypeVar("T")

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
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--config: not JSON ({error})") from None
    return build(cls, value, where)


def run(main: Callable[[], None]) -> None:
    """Run a step's `main`; a UserError is one sentence on stderr and exit status 2, no traceback.

    A step that a `snakemake` has started does nothing once that has ended: another may be at work on the same files.
    """
    try:
        with running.step():
            main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except BrokenPipeError:
        sys.exit(1)
