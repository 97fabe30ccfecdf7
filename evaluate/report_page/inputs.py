"""What a report is made of: inputs.json, and the run folders and tables that it names.

In:      inputs.json ({"settings", "versions", "runs", "datasets", "ablation"}).   Out: :class:`Inputs`.
Source:  ours. A missing file is an error that names it; only what a run does not have to have (scores of a stage that is
         not evaluated) may be absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluate.queries import DISTANCE, RERANKED, Answers, read_answers
from evaluate.report_page import form
from pipeline.base import origin, tables
from pipeline.base.build import build
from pipeline.base.config import CompanionConfig, MethodConfig
from pipeline.base.errors import ConfigError, ScoreError
from pipeline.base.files import digest_file, parse_json, read_json


@dataclass(frozen=True, slots=True)
class Run:
    """One training of one stage, and its scores if it was evaluated."""

    method: str
    dataset: str
    split: str
    seed: int
    stage: str
    log: list[dict[str, Any]]
    """Lines of metrics.jsonl that are epochs."""
    metrics: dict[str, Any] | None
    """metrics.json; None: this stage is not evaluated."""
    digest: str
    """SHA-256 of metrics.json; '' where there is none."""
    kept: dict[str, Any]
    """Which weights were handed on (train/validate.py, `Selection.hand_on`); empty: those of the last epoch, without any look."""
    answers: dict[tuple[str, str], Answers]
    """What every query came to, by ranking and protocol; empty where `metrics` is None."""
    test_dataset: str
    """Whose test half the scores are of: `dataset`, unless the network was tested on another one."""
    test_split: str

    @property
    def what(self) -> tuple[str, str, str]:
        """(test data, method, stage): runs that differ only in split and seed share it."""
        return self.tested, self.method, self.stage

    @property
    def tested(self) -> str:
        """The data set, or 'A → B': trained on A, tested on B."""
        return self.dataset if self.is_own else f"{self.dataset} → {self.test_dataset}"

    @property
    def is_own(self) -> bool:
        """Whether it is scored on the data set that it was trained on."""
        return self.test_dataset == self.dataset


@dataclass(frozen=True, slots=True)
class Data:
    """Where the tables and media of one data set lie."""

    name: str
    tracklets: Path
    splits: dict[str, Path]
    plan: Path
    index: Path
    alignment: Path | None
    probes: Path | None
    quarantine: list[Path]
    root: Path
    voices_root: Path | None
    generated: bool

    @property
    def files(self) -> list[Path]:
        """All tables of it."""
        some = [self.tracklets, *self.splits.values(), self.plan, self.index, self.alignment, self.probes, *self.quarantine]
        return [path for path in some if path is not None]

    @property
    def licence(self) -> str:
        """Terms of the frames, as the source states them in the provenance of TRACKLETS."""
        return str(tables.read_meta(self.tracklets).get("licence", "not stated"))

    @property
    def voices_licence(self) -> str | None:
        """Terms of the sound, from the provenance of ALIGNMENT; None where no sound is used."""
        if self.alignment is None:
            return None
        return str(tables.read_meta(self.alignment).get("items", {}).get("licence", "not stated"))

    @property
    def dubbed(self) -> bool:
        """Whether its tracklets hear sound that is not their own (anything but a 'recorded' alignment)."""
        return self.alignment is not None and tables.read_meta(self.alignment).get("policy") != "recorded"


@dataclass(frozen=True, slots=True)
class Ablation:
    """A table that compares stages of one method (pipeline.base.config.AblationConfig, with its splits spelt out)."""

    name: str
    method: str
    dataset: str
    question: str
    reference: str
    """Stage that the others are compared with."""
    rows: dict[str, str]
    """Stage -> what is different about it, in the order of the table."""
    splits: tuple[str, ...]
    seeds: tuple[int, ...]
    against: dict[str, str] = field(default_factory=dict)
    """Rows that are compared with another row than the reference: stage -> stage."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything the report shows comes from here."""

    settings: dict[str, Any]
    versions: dict[str, str]
    runs: list[Run]
    datasets: list[Data]
    ablation: Ablation | None
    files: tuple[Path, ...] = ()
    """Tables, logs and scores that were read, or are when they are shown."""

    def groups(self) -> list[list[Data]]:
        """Data sets, each with all its companions: entries that have the tracklets in common, in the order of inputs.json.

        The first entry of a group carries the name of the data set.
        """
        groups: dict[Path, list[Data]] = {}
        for data in self.datasets:
            groups.setdefault(data.tracklets, []).append(data)
        return list(groups.values())

    def method(self, name: str) -> MethodConfig:
        """The settings of a method.

        Raises:
            ConfigError: inputs.json holds none, or not such as `pipeline.base.config` makes.
        """
        return build(MethodConfig, self.settings["methods"].get(name, {}), f"settings.methods.{name}")

    def companion(self, name: str) -> CompanionConfig:
        """The settings of a companion; as :meth:`method`."""
        return build(CompanionConfig, self.settings["companions"].get(name), f"settings.companions.{name}")

    def protocols(self, dataset: str) -> list[str]:
        """Protocols of a data set in the order of its settings, the headline first; then any others that were scored."""
        wanted = self.settings.get("datasets", {}).get(dataset, {}).get("protocols", [])
        scored = {name for run in self.runs if run.test_dataset == dataset and run.metrics for name in run.metrics["protocols"]}
        return [name for name in wanted if name in scored] + sorted(scored - set(wanted))


def read_inputs(path: Path) -> Inputs:
    """Read inputs.json and the run folders it names.

    Raises:
        ConfigError: inputs.json lacks an entry, or has one that is not of its form.
        ScoreError: a log line or metrics.json is not what `fit` and `score` write.
    """
    value = read_json(path)
    try:
        runs = [_run(entry) for entry in value["runs"]]
        datasets = [_data(name, entry) for name, entry in value["datasets"].items()]
        ablation = None if value["ablation"] is None else build(Ablation, value["ablation"], "ablation")
        files = [*(file for entry in value["runs"] for file in _files(entry)), *(file for data in datasets for file in data.files)]
        return Inputs(dict(value["settings"]), dict(value["versions"]), runs, datasets, ablation, tuple(files))
    except KeyError as error:
        raise ConfigError(f"{path}: the entry {error} is missing; see evaluate/report_page/inputs.py for the form") from None


def _files(entry: Mapping[str, Any]) -> tuple[Path, Path, Path]:
    """Training log, scores and QUERIES of a run."""
    folder = Path(entry["folder"])
    test_dataset, test_split = entry.get("test_dataset", entry["dataset"]), entry.get("test_split", entry["split"])
    there = folder if test_dataset == entry["dataset"] else folder / "on" / f"{test_dataset}-{test_split}"
    return folder / "metrics.jsonl", there / "metrics.json", there / "queries.parquet"


def _run(entry: Mapping[str, Any]) -> Run:
    test_dataset, test_split = entry.get("test_dataset", entry["dataset"]), entry.get("test_split", entry["split"])
    trained, scored, _ = _files(entry)
    lines = [line for line in _lines(trained) if isinstance(line, dict)]
    log = [line for line in lines if "epoch" in line and "terms" in line]
    kept: dict[str, Any] = next((line["kept"] for line in lines if line.get("done") and "kept" in line), {})
    metrics, answers, digest = None, dict[tuple[str, str], Answers](), ""
    if entry["scored"]:  # a file left over from other settings is none of this report's
        metrics, answers = read_scores(scored)
        digest = digest_file(scored)
    names = (entry["method"], entry["dataset"], entry["split"], entry["seed"], entry["stage"])
    return Run(*names, log, metrics, digest, kept, answers, test_dataset, test_split)


def read_scores(path: Path) -> tuple[dict[str, Any], dict[tuple[str, str], Answers]]:
    """metrics.json, and what every query came to, by ranking and protocol (QUERIES beside it).

    Raises:
        ScoreError: not a metrics.json of evaluate.score, not as it was written, or QUERIES is not the one that it was written with.
    """
    metrics = read_json(path)
    if broken := origin.broken_seal(path):
        raise ScoreError(f"{path}: not a metrics.json as evaluate.score wrote it ({broken}); score this run again")
    if told := form.wrong(metrics):
        raise ScoreError(f"{path}: not a metrics.json of evaluate.score as it is now ({told}); score this run again")
    answers = read_answers(path.with_name("queries.parquet"), metrics["made"]["queries"])
    scored = {(DISTANCE, name) for name in metrics["protocols"]} | {(RERANKED, name) for name in metrics["reranked"] or {}}
    if answers.keys() != scored:
        raise ScoreError(f"{path}: its protocols are not those of queries.parquet beside it; score this run again")
    return metrics, answers


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except FileNotFoundError:
        raise ScoreError(f"{path}: no such file; every run has a training log, so train this stage first") from None
    except ValueError as error:
        raise ScoreError(f"{path}: a line is not JSON ({error}); train this stage again") from None


def _data(name: str, entry: Mapping[str, Any]) -> Data:
    def maybe(key: str) -> Path | None:
        return None if entry[key] is None else Path(entry[key])

    return Data(
        name,
        Path(entry["tracklets"]),
        {split: Path(path) for split, path in entry["splits"].items()},
        Path(entry["plan"]),
        Path(entry["index"]),
        maybe("alignment"),
        maybe("probes"),
        [Path(path) for path in entry["quarantine"]],
        Path(entry["root"]),
        maybe("voices_root"),
        bool(entry["generated"]),
    )


def grouped(runs: Iterable[Run]) -> dict[tuple[str, str, str], list[Run]]:
    """Runs by (test data, method, stage), groups in order of first appearance, runs in order of split and seed."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.what, []).append(run)
    return {
        what: sorted(group, key=lambda run: (len(run.split), run.split, run.seed, len(run.test_split), run.test_split))
        for what, group in groups.items()
    }
