"""Trainings in processes of their own, which a test may kill.

They are forked from a server that has the libraries loaded (importing torch takes longer than the trainings here) and that has never
trained: PyTorch refuses a backward pass in the fork of a process whose autograd has threads, and which test starts them depends on
what ran before.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "tests.train.tiny", "train.fit"])


def started(call: Callable[..., object], *given: object, errors: Path | None = None) -> BaseProcess:
    """`call(*given)` running in a new process, its stderr at the end of a file if one is named; all of it importable by name or picklable."""
    process = _CONTEXT.Process(target=_run, args=(errors, call, given))
    process.start()
    return process


def _run(errors: Path | None, call: Callable[..., object], given: tuple[object, ...]) -> None:
    if errors:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    multiprocessing.set_start_method("fork", force=True)  # for its loader's processes, as in a process that was not made here
    call(*given)
