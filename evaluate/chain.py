"""Every file behind some scores, from metrics.json back to the lists of the sources, with the digests that were noted.

In:      metrics.json in a results folder as the workflow lays it out; or what `evaluate.score_trials` or `evaluate.legacy_eval --out`
         wrote, wherever it lies near the results that it was made from.
Out:     :class:`Chain`: links, notes on code, stores.
Source:  promise R13. Read here: notes and names, never the bytes behind a digest (that is `evaluate.trace --check`).

A run may have been tested on another data set, too; these scores lie below it, in on/<dataset>-<split>/.

Each file notes what it was made from (pipeline/base/origin.py), by role and digest, never by path; where a role lies follows
from the names in config.json. A file that cannot be read ends its branch, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors import SafetensorError, safe_open

from pipeline.base import origin, tables
from pipeline.base.build import build, plain
from pipeline.base.config import MethodConfig, RunConfig
from pipeline.base.errors import UserError
from pipeline.base.files import digest_bytes, digest_file, read_json

UNREADABLE = (UserError, ValueError, TypeError, KeyError, AttributeError, OSError, pa.ArrowException, SafetensorError)
"""What reading a file that is no longer what it was may end in."""
NAMES = ("method", "dataset", "split", "seed", "stage")
Note = dict[str, Any]


@dataclass(slots=True)
class Link:
    """One file, and what another one noted of it."""

    depth: int
    name: str
    """What it is, e.g. 'INDEX'."""
    path: Path | None
    """None: the results do not say where it lies."""
    recorded: str
    """SHA-256 that `by` noted; '' where it noted none."""
    by: Path
    """File that was made from it; the file itself where it carries its own seal."""
    schema: tables.Schema | None = None
    facts: list[str] = field(default_factory=list)
    """Lines for readers."""
    outside: str = ""
    """Not in the results folder: the name under which `--at` tells where it lies."""
    again: bool = False
    """Described above already."""
    fault: str = ""
    """Why its own notes could not be read."""

    @property
    def sealed(self) -> bool:
        return self.path == self.by


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar as INDEX lists it."""

    name: str
    samples: int
    bytes: int
    digest: str
    """SHA-256 over one line 'key digest' per sample in the order of the tar: digests of samples cover every member."""


@dataclass(frozen=True, slots=True)
class Store:
    """The tars beside one INDEX."""

    index: Path
    shards: list[Shard]

    @property
    def root(self) -> str:
        """One digest for all of them."""
        return digest_bytes("".join(f"{s.name} {s.samples} {s.bytes} {s.digest}\n" for s in self.shards).encode())


TRIALS, LEGACY = "evaluate.score_trials", "evaluate.legacy_eval"
"""Who else writes scores that note what they were made from."""
NO_SCORES = {
    "config.json": "the settings of a run",
    "origin.json": "how a run was trained",
    "inputs.json": "what a report is made of",
    "machine.json": "where a run is trained",
}


class Chain:
    """All links behind one file of scores, in the order in which they are told.

    Args:
        metrics: results/runs/<method>/<dataset>-<split>/seed<n>/<stage>/metrics.json, or on/<dataset>-<split>/metrics.json there; or a file
            of `TRIALS` or `LEGACY`, whose results are looked for in the folders around it and in the working folder.
        at: where things outside the results lie, by name: roots by the name of their data set or voices, weight files by file name,
            'trials' and 'cohort'.

    Raises:
        UserError: it does not lie in a results folder, or is no such file.
    """

    def __init__(self, metrics: Path, at: Mapping[str, str]) -> None:
        self.maker, found = _maker(metrics)
        """Step that wrote the scores; '' for a metrics.json, which the workflow can make again."""
        self.links: list[Link] = []
        self.code: list[tuple[Path, Note]] = []
        """(file, its note on the code that made it)."""
        self.strangers: list[str] = []
        """Files that say they are of another run than their folder."""
        self.stores: list[Store] = []
        self.scores: Note = found
        self.metrics = metrics if self.maker else _metrics_place(metrics)
        self.results = _results_of(metrics, found) if self.maker else _run_place(self.metrics).parents[4]
        self.at = {**_settings_roots(self.results), **at}
        {TRIALS: self._follow_trials, LEGACY: self._follow_legacy}.get(self.maker, self._follow_metrics)()

    # --- one method per kind of file ----------------------------------------------------------------------------------

    def _follow_metrics(self) -> None:
        link = self._add(0, "scores", self.metrics, "", self.metrics)
        with _Reading(link):
            found = read_json(self.metrics)
            if not isinstance(found, dict) or "protocols" not in found:
                raise UserError(f"{self.metrics}: not a metrics.json of evaluate.score")
            self.scores = found
            self._own(self.metrics, found)
            saying = [f"{name}: {_numbers(numbers)}" for name, numbers in found["protocols"].items()]
            folder = _run_place(self.metrics)
            where = f", tested on {self.metrics.parent.name}" if self.metrics.parent != folder else ""
            link.facts += [" ".join(f"{name} {found.get(name)}" for name in NAMES) + f", sees {found.get('modality')}{where}", *saying]
            self._follow_config(1, folder, found, self.metrics)
            self._follow_embeddings(self.metrics.with_name("embeddings.parquet"), found)
            self._add(
                1,
                "QUERIES",
                self.metrics.with_name("queries.parquet"),
                _digests(found, "made").get("queries", ""),
                self.metrics,
                tables.QUERIES,
            )

    def _follow_trials(self) -> None:
        link = self._add(0, "scores of trials", self.metrics, "", self.metrics)
        with _Reading(link):
            found = self.scores
            self.code.append((self.metrics, found.get(origin.CODE, {})))
            trials = found["trials"]
            equal, costs = found["eer"]["toolkit"], [f"minDCF (P {cost['p_target']}) {cost['toolkit']:.4f}" for cost in found["min_dcf"]]
            link.facts += [
                " ".join(f"{name} {found.get(name)}" for name in NAMES) + f", sees {found.get('modality')}",
                ", ".join([f"{trials['name']}: EER {100 * equal:.3f} percent", *costs]) + f"; {trials['trials']} trials",
            ]
            folder = self.results / _run_of(found)
            self._follow_config(1, folder, found, self.metrics)
            self._follow_embeddings(_fitting(folder, _noted(found, "embeddings")), found)
            for role, schema in (("trials", tables.TRIALS), ("cohort", tables.EMBEDDINGS)):
                if role == "trials" or _noted(found, role):
                    place = self.at.get(role)
                    self._add(1, role, Path(place) if place else None, _noted(found, role), self.metrics, schema, outside=role)

    def _follow_legacy(self) -> None:
        link = self._add(0, "scores beside those of the released evaluator", self.metrics, "", self.metrics)
        with _Reading(link):
            self.code.append((self.metrics, self.scores.get(origin.CODE, {})))
            for found in self.scores["runs"]:
                folder, tested = self.results / _run_of(found), f"{found['test_dataset']}-{found['test_split']}"
                own = found["test_dataset"] == found["dataset"]
                where = "" if own else f", tested on {tested}"
                link.facts += [" ".join(f"{name} {found.get(name)}" for name in NAMES) + f", sees {found.get('modality')}{where}"]
                link.facts += [f"{result['scored_by']}: {_numbers(result)}" for result in found["results"]]
                self._follow_config(1, folder, found, self.metrics)
                self._follow_embeddings((folder if own else folder / "on" / _plain(tested)) / "embeddings.parquet", found)
                self._follow_tracklets(1, _plain(found["test_dataset"]), _noted(found, "tracklets"), self.metrics)

    def _follow_config(self, depth: int, folder: Path, note: Note, by: Path) -> RunConfig | None:
        link = self._add(depth, "config", folder / "config.json", _noted(note, "config"), by)
        run = None
        with _Reading(link):
            run = build(RunConfig, read_json(folder / "config.json"), "config.json")
            if not link.again:
                changed = different(run)
                link.facts.append("not at their defaults: " + (", ".join(changed) or "nothing"))
        return run

    def _follow_embeddings(self, path: Path, note: Note) -> None:
        folder = _run_place(path)
        link = self._add(1, "EMBEDDINGS", path, _noted(note, "embeddings"), self.metrics, tables.EMBEDDINGS)
        with _Reading(link):
            meta = tables.read_meta(path)
            self.code.append((path, meta.get(origin.CODE, {})))
            run = self._follow_config(2, folder, meta, path)
            if run is not None:
                self._follow_weights(2, folder, _noted(meta, "weights"), path, "weights")
                dataset, companion, split = run.dataset, run.test_companion, run.split
                if path.parent != folder:  # seen only: its shards are those without a companion
                    companion = "none"
                    dataset, _, split = path.parent.name.partition("-")
                self._follow_index(2, dataset, companion, meta, path)
                self._follow_split(2, dataset, split, _noted(meta, "split"), path)

    def _follow_weights(self, depth: int, folder: Path, recorded: str, by: Path, name: str) -> None:
        path = folder / "model.safetensors"
        link = self._add(depth, name, path, recorded, by)
        if link.again:
            return
        with _Reading(link):
            with safe_open(str(path), framework="numpy") as file:
                meta = json.loads((file.metadata() or {})["dubtrack"])
            link.facts.append(
                f"stage {meta['stage']}: {meta['network']}, {meta['epochs']} epochs, sound in training: {meta['policy'] or 'none'}"
            )
            self._follow_origin(depth + 1, folder)
            run = self._follow_config(depth + 1, folder, meta, path)
            if run is None:
                return
            self._follow_index(depth + 1, run.dataset, run.companion, meta, path)
            self._follow_split(depth + 1, run.dataset, run.split, _noted(meta, "split"), path)
            for role, stage in (("teacher", run.this.teacher), ("start", run.this.start)):
                if stage:
                    self._follow_weights(depth + 1, folder.with_name(stage), _noted(meta, role), path, role)
            if run.settings.pretrained and not run.this.start:
                self._add_pretrained(depth + 1, run.settings.pretrained, _noted(meta, "pretrained"), path)

    def _follow_origin(self, depth: int, folder: Path) -> None:
        path = folder / "origin.json"
        link = self._add(depth, "origin", path, "", path)
        made: Note = {}
        with _Reading(link):
            found = read_json(path)
            self._own(path, found)
            made = _digests(found, "made")
            versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
            link.facts.append(f"trained on {found['device']} with {versions}")
            link.facts.append(f"checkout then: commit {found['commit'] or 'not known'}, all of its code {found['checkout']['digest']}")
        for name, file in (("training log", "metrics.jsonl"), ("weights", "model.safetensors")):
            self._add(depth + 1, name, folder / file, made.get(file, ""), path)

    def _add_pretrained(self, depth: int, name: str, recorded: str, by: Path) -> None:
        cached = self.results / "pretrained" / f"{name}.safetensors"
        known = self.at.get(name)
        self._add(depth, f"pretrained {name}", Path(known) if known else cached if cached.is_file() else None, recorded, by, outside=name)

    def _follow_index(self, depth: int, dataset: str, companion: str, note: Note, by: Path) -> None:
        path = self.results / f"shards/{dataset}-{companion}/index.parquet"
        link = self._add(depth, "INDEX", path, _noted(note, "index"), by, tables.INDEX)
        if link.again:
            return
        with _Reading(link):
            meta = tables.read_meta(path)
            store = Store(path, _shards(path))
            self.stores.append(store)
            heard = meta["companion"]
            sound = (
                f"{heard['kind']}, {heard['policy']}" + (f", tokens {heard['tokens']}" if heard.get("tokens") else "") if heard else "none"
            )
            size = f"{sum(s.samples for s in store.shards):,} samples, {sum(s.bytes for s in store.shards):,} bytes"
            link.facts += [f"companion: {sound}", f"{len(store.shards)} shards, {size}, all: {store.root}"]
            link.facts += [f"{s.name}: {s.digest}" for s in store.shards]
            self._follow_tracklets(depth + 1, dataset, _noted(meta, "tracklets"), path)
            if heard:
                self._follow_alignment(depth + 1, dataset, companion, _noted(meta, "alignment"), path)

    def _follow_split(self, depth: int, dataset: str, split: str, recorded: str, by: Path) -> None:
        path = self.results / f"splits/{dataset}/{split}.parquet"
        self._follow_table(
            depth, "SPLIT", path, recorded, by, tables.SPLIT, dataset, lambda meta: self._tracklets_of(depth, dataset, meta, path)
        )

    def _follow_tracklets(self, depth: int, dataset: str, recorded: str, by: Path) -> None:
        path = self.results / f"tracklets/{dataset}.parquet"
        self._follow_table(depth, "TRACKLETS", path, recorded, by, tables.TRACKLETS, dataset)

    def _tracklets_of(self, depth: int, dataset: str, meta: Note, by: Path) -> None:
        self._follow_tracklets(depth + 1, dataset, _noted(meta, "tracklets"), by)

    def _follow_alignment(self, depth: int, dataset: str, companion: str, recorded: str, by: Path) -> None:
        path = self.results / f"alignment/{dataset}-{companion}.parquet"

        def follow(meta: Note) -> None:
            self._tracklets_of(depth, dataset, meta, path)
            collection = meta["items"]["name"]
            self._follow_table(
                depth + 1, "ITEMS", self.results / f"items/{collection}.parquet", _noted(meta, "items"), path, tables.ITEMS, collection
            )
            for role, digest in _digests(meta, origin.FROM).items():
                if role.startswith("split "):
                    self._follow_split(depth + 1, dataset, role.removeprefix("split "), digest, path)

        self._follow_table(depth, "ALIGNMENT", path, recorded, by, tables.ALIGNMENT, "", follow)

    def _follow_table(
        self,
        depth: int,
        name: str,
        path: Path,
        recorded: str,
        by: Path,
        schema: tables.Schema,
        root: str,
        follow: Callable[[Note], None] | None = None,
    ) -> None:
        """A table, its facts, the tables that `follow` finds in its meta, and the lists below `root` that it was read from."""
        link = self._add(depth, name, path, recorded, by, schema)
        if link.again:
            return
        with _Reading(link):
            meta = tables.read_meta(path)
            for fact in ("licence", "policy", "split", "queries", "split file", "source", "counts"):
                if meta.get(fact):
                    link.facts.append(f"{fact}: {json.dumps(meta[fact]) if isinstance(meta[fact], dict) else meta[fact]}")
            if follow:
                follow(meta)
            if (
                root
                and not isinstance(meta.get(origin.READ), dict)
                and (schema is not tables.TRACKLETS or meta["source"] in ("mars", "manifest"))
            ):
                raise UserError(
                    f"{path}: does not say which lists it was read from (an older form); delete it and run the same target again"
                )
            for file, digest in _digests(meta, origin.READ).items():
                place = self.at.get(root)
                self._add(depth + 1, f"list {file}", Path(place, file) if place else None, digest, path, outside=root)

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _add(
        self, depth: int, name: str, path: Path | None, recorded: str, by: Path, schema: tables.Schema | None = None, outside: str = ""
    ) -> Link:
        again = path is not None and any(link.path == path and not link.again for link in self.links)
        self.links.append(Link(depth, name, path, recorded, by, schema, outside=outside, again=again))
        return self.links[-1]

    def _own(self, path: Path, found: Note) -> None:
        """A sealed file says whose it is, what was tested if that is another data set, and by what code it was made."""
        self.code.append((path, found.get(origin.CODE, {})))
        says = [
            str(found.get("method")),
            f"{found.get('dataset')}-{found.get('split')}",
            f"seed{found.get('seed')}",
            str(found.get("stage")),
        ]
        tested = f"{found.get('test_dataset', found.get('dataset'))}-{found.get('test_split', found.get('split'))}"
        says += ["on", tested] if tested != says[1] else []
        if says != list(path.absolute().parts[-len(says) - 1 : -1]):
            self.strangers.append(
                f"{path}: is of {'/'.join(says)}, so it belongs into another folder; delete it and run the same target again"
            )


class _Reading:
    """A block that reads a link's own notes; what cannot be read becomes its fault."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UNREADABLE):
            self.link.fault = self.link.fault or str(error).removeprefix(f"{self.link.path}: ").splitlines()[0]
            return True
        return False


def _run_folder(metrics: Path) -> Path | None:
    """The folder of the run whose scores lie there, in its own folder or below it; None: this is no place for scores."""
    folder = metrics.parents[2] if len(metrics.parents) > 2 and metrics.parent.parent.name == "on" else metrics.parent
    return folder if len(folder.parts) > 5 and folder.parents[3].name == "runs" else None


def _run_place(file: Path) -> Path:
    """As :func:`_run_folder`, of a file that is known to have one."""
    folder = _run_folder(file)
    assert folder is not None
    return folder


def _metrics_place(metrics: Path) -> Path:
    if ".." in metrics.parts:
        metrics = metrics.resolve()
    elif _run_folder(metrics) is None:
        metrics = metrics.absolute()
    if _run_folder(metrics) is None or metrics.name != "metrics.json":
        raise UserError(
            f"{metrics}: expected results/runs/<method>/<dataset>-<split>/seed<n>/<stage>/metrics.json, or of a test on another data "
            "set .../<stage>/on/<dataset>-<split>/metrics.json"
        )
    return metrics


def _maker(path: Path) -> tuple[str, Note]:
    """The step that wrote a file of scores, and what it holds; ('', {}) for a metrics.json, in whatever state that is.

    Raises:
        UserError: it holds no scores, or cannot be read.
    """
    instead = "give a metrics.json, or what evaluate.score_trials or evaluate.legacy_eval --out wrote"
    near = (path if path.is_dir() else path.parent) / "metrics.json"
    if near.is_file():
        instead = f"give {near}"
    is_metrics = path.name == "metrics.json"
    found: Any = None
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(1)
        try:
            found = read_json(path) if start == b"{" else None
        except UserError as error:
            if not is_metrics:
                raise UserError(f"{error}; {instead}") from None
    elif not is_metrics:
        raise UserError(f"{path}: {'is no file' if path.exists() else 'no such file'}; {instead}")
    if isinstance(found, dict) and origin.SEAL in found:
        if isinstance(found.get("trials"), dict) and "min_dcf" in found:
            return TRIALS, found
        if isinstance(found.get("runs"), list) and "note" in found:
            return LEGACY, found
    if not (is_metrics or (isinstance(found, dict) and "protocols" in found)):
        raise UserError(f"{path}: {f'is {NO_SCORES[path.name]} and ' if path.name in NO_SCORES else ''}holds no scores; {instead}")
    return "", {}


def _plain(name: Any) -> str:
    """A name that is one part of a path.

    Raises:
        UserError: it would lead elsewhere.
    """
    if not isinstance(name, str | int) or isinstance(name, bool) or str(name) in ("", ".", "..") or set(str(name)) & {"/", "\0"}:
        raise UserError(f"{name!r} is no name of a run, a stage, a data set or a split")
    return str(name)


def _run_of(note: Note) -> Path:
    """Folder of the run that a note is of, from the results folder."""
    method, dataset, split, seed, stage = (_plain(note.get(name)) for name in NAMES)
    return Path("runs", method, f"{dataset}-{split}", f"seed{seed}", stage)


def _results_of(path: Path, found: Note) -> Path:
    """The results folder that scores were made from: where their runs lie, around the file or in the working folder.

    Raises:
        UserError: it is not found, or the file does not say of which runs it is.
    """
    try:
        runs = [_run_of(note) for note in found.get("runs", [found])]
    except (UserError, AttributeError) as error:
        raise UserError(f"{path}: does not say of which run it is ({error}); make it again") from None
    for near in _around(path):
        if runs and all((near / run).is_dir() for run in runs):
            return near
    raise UserError(
        f"{path}: was made from {', '.join(map(str, runs)) or 'no run'}, which is in no results folder around it; put it into the folder of "
        "its results, or work in the folder that holds them"
    )


def _around(path: Path) -> Iterable[Path]:
    for folder in (*path.absolute().parents, Path.cwd()):
        yield from (folder, folder / "results")


def _fitting(folder: Path, digest: str) -> Path:
    """Which EMBEDDINGS of a run have a digest: its own, unless it is those of a test on another data set."""
    own = folder / "embeddings.parquet"
    others = sorted(folder.glob("on/*/embeddings.parquet"))
    return next((path for path in (own, *others) if others and path.is_file() and digest_file(path) == digest), own)


def _digests(note: Note, key: str) -> dict[str, str]:
    found = note.get(key)
    return {str(role): str(digest) for role, digest in found.items()} if isinstance(found, dict) else {}


def _noted(note: Note, role: str) -> str:
    return _digests(note, origin.FROM).get(role, "")


def _numbers(of: Note) -> str:
    values = " ".join(
        f"{name} {'–' if of[name] is None else f'{100 * of[name]:.1f}'}" for name in ("R1", "R5", "R10", "R20", "mAP", "mINP")
    )
    return f"{values} (percent; gallery {of['gallery']}, {of['valid']}/{of['queries']} queries valid, AP {of['ap']})"


def _shards(index: Path) -> list[Shard]:
    table = tables.read(index, tables.INDEX, ["shard", "key", "size", "digest"])
    rows: dict[str, list[tuple[str, int, str]]] = {}
    for shard, *row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        rows.setdefault(shard, []).append((row[0], row[1], row[2]))
    return [
        Shard(name, len(of), sum(size for _, size, _ in of), digest_bytes("".join(f"{key} {digest}\n" for key, _, digest in of).encode()))
        for name, of in rows.items()
    ]


def different(run: RunConfig) -> list[str]:
    """Settings of a run that are not at their defaults, e.g. 'optim.lr=0.0004'; without the stages."""
    default, used = (_flat(plain(settings)) for settings in (MethodConfig(stages={}), run.settings))
    return [
        f"{name}={json.dumps(value)}"
        for name, value in used.items()
        if default.get(name, {}) != value and not name.startswith(("stages", "main"))
    ]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {key: leaf for part, inner in value.items() for key, leaf in _flat(inner, f"{name}.{part}" if name else str(part)).items()}


def _settings_roots(results: Path) -> dict[str, str]:
    """Where sources and weight files lie, as the settings of the newest report say; nothing where there is no report."""
    found: dict[str, str] = {}
    reports = [path for path in (*results.glob("ablations/*/inputs.json"), results / "report/inputs.json") if path.is_file()]
    for file in sorted(reports, key=lambda path: path.stat().st_mtime_ns):
        try:
            settings = read_json(file)["settings"]
            named = {name: root for name, root in settings["roots"].items() if root}
            weights = [
                one["pretrained"]
                for method in settings["methods"].values()
                for one in (method, *(s["changes"] for s in method["stages"].values()))
                if one.get("pretrained")
            ]
        except UNREADABLE:
            continue
        for name, place in (*named.items(), *((Path(path).name, path) for path in weights if "/" in path)):
            found[name] = str(results.parent / Path(place).expanduser())
    return found
