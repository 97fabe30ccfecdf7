"""What a result was made from, as digests: notes that every step leaves, which `evaluate.trace` follows back to the sources.

In:      files that a step has read, code that it ran.   Out: plain values for the meta of what it writes.
Source:  promise R13. A note holds no path, no time and no name of a machine: equal inputs give equal notes, hence equal bytes.
         What does depend on the day and the machine (commit, device) stands in files that no digest covers, and these carry a
         seal of their own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import UserError
from pipeline.base.files import digest_bytes, digest_code, digest_file, json_bytes, read_json, write_json

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "shards", "model", "train", "evaluate")
FROM, READ, CODE, SEAL = "from", "read", "code", "seal"
"""Keys of notes: tables and weights by role; lists of a source by their path below its root; code; digest of the rest of a file."""


def made_from(**files: str | os.PathLike[str] | None) -> dict[str, str]:
    """SHA-256 of each file by its role; roles without a file are left out."""
    return {role: digest_file(path) for role, path in files.items() if path}


def code_of(*paths: str) -> dict[str, Any]:
    """Digest of code, with the files and folders of the checkout that it is over."""
    return {"of": list(paths), "digest": digest_code(*(CHECKOUT / path for path in paths))}


def commit() -> str:
    """The commit that is checked out, 'with changes' if files differ from it; '' where this is no checkout, or git is not there."""
    if not (CHECKOUT / ".git").exists():
        return ""
    found = []
    for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        if done.returncode:
            return ""
        found.append(done.stdout.strip())
    return found[0] + (" with changes" if found[1] else "")


def write_sealed(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write JSON with a digest of itself, so that every changed byte is seen."""
    write_json(path, {**value, SEAL: digest_bytes(json_bytes(value))})


def broken_seal(path: str | os.PathLike[str]) -> str:
    """What is wrong with a file of :func:`write_sealed`; '' if each of its bytes is as written."""
    try:
        value = read_json(path)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    if not isinstance(value, dict) or SEAL not in value:
        return "it has no seal: damaged, or of an older form"
    rest = {key: kept for key, kept in value.items() if key != SEAL}
    try:
        whole = json_bytes(rest), json_bytes(value)
    except ValueError:  # a number that JSON does not have
        return "it holds a value that JSON does not have"
    if digest_bytes(whole[0]) != value[SEAL]:
        return "its content is not what it was sealed with"
    return "" if whole[1] == Path(path).read_bytes() else "its bytes are not those that were written"
