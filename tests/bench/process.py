"""What a command costs: processor time and peak memory of one process, with what it starts and waits for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from tests.conftest import REPOSITORY

LAUNCHER = """
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]))
"""
"""Starts the command from a process that holds next to nothing: the kernel counts the memory of the parent at the start of a command
as if it were the command's own."""


@dataclass(frozen=True)
class Cost:
    """Of one process."""

    cpu: float
    """Processor seconds, user and system."""
    memory: int
    """Peak resident bytes."""


def cost(*command: str) -> Cost:
    """Run `python <command>` in the root of the checkout.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, sys.executable, *command]
    done = subprocess.run(launcher, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    status, cpu, memory = json.loads(done.stdout)
    if status:
        raise RuntimeError(f"{' '.join(command)[:200]} ended with {status}: {done.stderr[-1000:]}")
    return Cost(cpu, memory)
