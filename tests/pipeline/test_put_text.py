"""A text that a rule was given, in a file."""

import io
import json
import os
import re
import subprocess
import sys

import pytest

from pipeline import put_text
from pipeline.base.errors import UserError
from tests.conftest import REPOSITORY

LONG = json.dumps([{"title": "it's {a} %s \\n 'é' $(no)", "number": number} for number in range(6000)], indent=1, ensure_ascii=False)
"""Longer than one argument of a command may be (128 KiB)."""


def give(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_the_text_as_it_is(tmp_path, monkeypatch):
    give(monkeypatch, '{"a": "é"}\n'.encode())
    put_text.main([str(tmp_path / "new" / "machine.json")])
    assert (tmp_path / "new" / "machine.json").read_bytes() == '{"a": "é"}\n'.encode()


@pytest.mark.parametrize("data", [b"", b'{"a": '])
def test_half_a_text_is_refused(tmp_path, monkeypatch, data):
    give(monkeypatch, data)
    with pytest.raises(UserError, match="ends without a line end, so some of it is missing"):
        put_text.main([str(tmp_path / "file")])
    assert not (tmp_path / "file").exists()


def ruled(folder, line):
    """Run a rule with this shell line; its exit status and its log."""
    (folder / "text.json").write_text(LONG, encoding="utf-8")
    (folder / "Snakefile").write_text(
        f"""
rule:
    output:
        "out/inputs.json",
    log:
        "a.log",
    params:
        inputs=lambda wildcards: open("text.json", encoding="utf-8").read(),
    shell:
        {line}
"""
    )
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        folder / "Snakefile",
        "--directory",
        folder,
        "--cores",
        "1",
        "--",
        "out/inputs.json",
    ]
    done = subprocess.run(command, cwd=folder, env=with_modules(), capture_output=True, text=True, check=False, timeout=120)
    log = folder / "a.log"
    return done.returncode, (log.read_text() if log.exists() else "") + done.stderr


def with_modules():
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": f"{REPOSITORY / '.venv/bin'}:{os.environ['PATH']}"}


def line_of_the_rule():
    return re.search(r"^ +(\".*pipeline\.put_text.*\")$", (REPOSITORY / "workflow/rules/evaluate.smk").read_text(), re.M)[1]


def test_the_line_of_the_rule_takes_a_long_text(tmp_path):
    assert len(LONG.encode()) > 200_000
    status, text = ruled(tmp_path, line_of_the_rule())
    assert status == 0, text
    assert (tmp_path / "out/inputs.json").read_bytes() == f"{LONG}\n".encode()


def test_a_text_on_the_command_line_would_be_too_long(tmp_path):
    status, text = ruled(tmp_path, '"python -m pipeline.put_text {output} {params.inputs:q} > {log} 2>&1"')
    assert status != 0 and "Argument list too long" in text


def test_an_error_ends_the_job_with_its_sentence_in_the_log(tmp_path):
    line = line_of_the_rule()
    broken = line.replace(r"%s\\n", "%s")  # the text has lost its end
    assert broken != line
    status, text = ruled(tmp_path, broken)
    assert status != 0 and not (tmp_path / "out/inputs.json").exists()
    assert "error: out/inputs.json: not written: the text on stdin ends without" in (tmp_path / "a.log").read_text()
    assert "Traceback" not in text
