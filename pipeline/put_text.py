"""Put a text into a file, whole or not at all (a shell's `>` leaves an empty file on a full disk).

In:      the text on stdin: one argument of a command may have 128 KiB.   Out: the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.base import cli
from pipeline.base.errors import UserError
from pipeline.base.files import atomic_open


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path, help="file to write")
    args = arguments.parse_args(argv)
    text = sys.stdin.buffer.read()
    if not text.endswith(b"\n"):
        raise UserError(f"{args.out}: not written: the text on stdin ends without a line end, so some of it is missing; run the step again")
    with atomic_open(args.out) as out:
        out.write(text)


if __name__ == "__main__":
    cli.run(main)
