"""Write the JSON schema of all settings, by which Snakemake checks the YAML files.

In:      the settings classes (pipeline/base/config.py).   Out: workflow/schemas/config.schema.json.
A test fails when the file in the repository is stale; ``make schema`` writes it anew.
"""

from __future__ import annotations

from pipeline.base import cli
from pipeline.base.build import schema
from pipeline.base.config import Settings
from pipeline.base.files import write_json


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", help="schema file to write")
    args = arguments.parse_args(argv)
    write_json(args.out, schema(Settings))


if __name__ == "__main__":
    cli.run(main)
