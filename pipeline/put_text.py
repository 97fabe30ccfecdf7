"""Put a text that stands on the command line into a file, whole or not at all (a shell's `>` leaves an empty file on a full disk).

In:      the text.   Out: the file, with a line end.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.base import cli
from pipeline.base.files import atomic_open


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path, help="file to write")
    arguments.add_argument("text")
    args = arguments.parse_args(argv)
    with atomic_open(args.out) as out:
        out.write(f"{args.text}\n".encode())


if __name__ == "__main__":
    cli.run(main)
