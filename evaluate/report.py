"""Make the report: one self-contained HTML page, and its tables as Markdown and CSV.

In:      inputs.json (runs, data sets, settings, versions, for an ablation also its rows) and the files it names.
Out:     report.html, report.md, scores.csv; for an ablation also its table as CSV.
Source:  specs/datasets.md section 1.3 (what must stand beside a number). The same inputs give the same bytes: no time stamp.
"""

from __future__ import annotations

from pathlib import Path

from evaluate.queries import RERANKED
from evaluate.report_page.ablation import ablation_csv, ablation_markdown, compare
from evaluate.report_page.inputs import read_inputs
from evaluate.report_page.page import page, words
from evaluate.report_page.summary import csv_text, markdown_text, score_rows
from pipeline.base import cli
from pipeline.base.config import ReportConfig
from pipeline.base.errors import ConfigError
from pipeline.base.files import atomic_open


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path, help="HTML page to write")
    arguments.add_argument("--markdown", type=Path, required=True, help="score table as Markdown")
    arguments.add_argument("--csv", type=Path, required=True, help="score table as CSV")
    arguments.add_argument("--ablation-csv", type=Path, help="table of the ablation as CSV, where inputs.json has one")
    arguments.add_argument("--inputs", type=Path, required=True, help="inputs.json")
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    config = cli.load(ReportConfig, args.config, "report")
    outs = {"OUT": args.out, "--markdown": args.markdown, "--csv": args.csv, "--ablation-csv": args.ablation_csv}
    cli.check_outputs(outs, {"--inputs": args.inputs})
    inputs = read_inputs(args.inputs)
    cli.check_outputs(outs, {f"a file that {args.inputs} names": inputs.files})
    rows, reranked, comparison = score_rows(inputs), score_rows(inputs, RERANKED), compare(inputs)
    if args.ablation_csv and comparison is None:
        raise ConfigError(f"--ablation-csv: {args.inputs} has no ablation; leave the option out")
    first = ablation_markdown(comparison) if comparison else []
    files = {
        args.markdown: markdown_text(config.title, [*rows, *reranked], words(inputs), first),
        args.csv: csv_text([*rows, *reranked]),
        **({args.ablation_csv: ablation_csv(comparison)} if args.ablation_csv and comparison else {}),
        args.out: page(inputs, config, rows, comparison, reranked),
    }
    for path, content in files.items():
        with atomic_open(path) as out:
            out.write(content.encode("utf-8"))


if __name__ == "__main__":
    cli.run(main)
