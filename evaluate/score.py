"""Score embeddings by one or more named protocols.

In:      EMBEDDINGS (one vector per tracklet of roles query, gallery, junk) and config.json of the run; settings of scoring.
Out:     metrics.json: per protocol CMC, mAP, mINP with gallery, valid queries and bootstrap intervals; some ranked lists for the report;
         and what `evaluate.trace` starts from: digests of the inputs and the code, under a seal over the whole file.
         QUERIES: what every single query came to, from which all these numbers are means.
Source:  specs/datasets.md section 8. Every number is stored with what it is a number of; nothing is rounded except the
         distances of the ranked lists (6 digits).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate import queries as per_query
from evaluate.bootstrap import SEED
from evaluate.distance import Vectors
from evaluate.protocols import CMC_RANKS, Outcome, Subjects, apply, first_entries, protocol_named
from evaluate.queries import DISTANCE, RANKS, RERANKED
from evaluate.rerank import reranked_distances
from pipeline.base import cli, origin, tables
from pipeline.base.build import build, plain
from pipeline.base.code import SCORING
from pipeline.base.config import RerankConfig, RunConfig, ScoringConfig
from pipeline.base.errors import ScoreError
from pipeline.base.files import digest_file, read_json

LISTS = 12
"""Ranked lists stored: that many from the first valid queries, and that many from the worst by AP."""
ENTRIES = 10
"""Gallery entries per ranked list."""
ROWS = 4096
"""Vectors that are read or scaled at once: 12 MB for D=768."""
TRAINING_OF = ("method", "dataset", "split", "seed", "stage")
"""What tells one training from another."""
IDENTITY = (*TRAINING_OF, "test_dataset", "test_split")
"""What a metrics.json is of: the training, and the test set (which is the training's own, unless it was scored on another)."""
ORACLE = "oracle"
"""The word for numbers from label-derived audio at test time."""


def subjects_of(embeddings: pa.Table) -> Subjects:
    """EMBEDDINGS as arrays, in the order of the tracklet names.

    Raises:
        ScoreError: no row, a tracklet twice, vectors of different lengths.
    """
    if not embeddings.num_rows:
        raise ScoreError("embeddings: the table is empty; check the split's roles")
    names = embeddings.column("tracklet").to_pylist()
    if any(a > b for a, b in pairwise(names)):  # as `evaluate.embed` writes them they are in order, and a sorted copy is a second table
        embeddings = embeddings.sort_by([("tracklet", "ascending")])
        names = embeddings.column("tracklet").to_pylist()
    twice = next((a for a, b in pairwise(names) if a == b), None)
    if twice is not None:
        found = embeddings.filter(pc.equal(embeddings.column("tracklet"), twice)).column("modality").to_pylist()
        raise ScoreError(
            f"embeddings: tracklet {twice} is there {len(found)} times (modality {', '.join(found)}); expected one vector each"
        )
    vectors = embeddings.column("vector")
    lengths = np.unique(pc.list_value_length(vectors).to_numpy())
    if len(lengths) != 1 or lengths[0] == 0:
        raise ScoreError(f"embeddings: vectors of length {', '.join(map(str, lengths))}; expected one length above 0 for all rows")
    pa.default_memory_pool().release_unused()  # the bytes of the file: with them, the vectors would be held three times
    pieces = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in vectors.chunks]

    def column(name: str) -> np.ndarray:
        return np.array(embeddings.column(name).to_pylist(), dtype=str)

    return Subjects(
        names,
        role=column("role"),
        identity=column("identity"),
        kind=column("kind"),
        camera=embeddings.column("camera").to_numpy().astype(np.int64),
        vector=(pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(len(names), int(lengths[0])),
    )


def normalised(subjects: Subjects) -> Subjects:
    """The same with vectors of length 1; junk, which is never ranked, may be 0 and stays so.

    Raises:
        ScoreError: any other vector is 0, which has no direction.
    """
    vector = np.empty_like(subjects.vector)
    for first in range(0, len(vector), ROWS):
        some = slice(first, first + ROWS)
        length = np.sqrt(np.einsum("nd,nd->n", subjects.vector[some], subjects.vector[some], dtype=np.float64))
        nowhere = np.flatnonzero((length == 0) & (subjects.kind[some] != "junk"))
        if len(nowhere):
            name = subjects.tracklet[first + int(nowhere[0])]
            raise ScoreError(f"embeddings: the vector of {name} is 0, so it cannot be scaled to length 1; set scoring.normalise to false")
        vector[some] = subjects.vector[some] / np.where(length > 0, length, 1)[:, None]
    return replace(subjects, vector=vector)


def scores(subjects: Subjects, protocols: Sequence[str], how: ScoringConfig, tested: tuple[str, str]) -> tuple[dict[str, Any], pa.Table]:
    """The parts ``protocols``, ``reranked`` and ``ranked`` of metrics.json, and QUERIES; the first protocol makes the ranked lists.

    Args:
        tested: data set and split.
    """
    outcomes = [apply(protocol_named(name), subjects) for name in protocols]
    found = {DISTANCE: outcomes}
    if how.rerank.on:  # a gallery that holds the queries would make each its own first neighbour twice
        asked = [o for o in outcomes if "query" not in o.protocol.gallery_roles]
        if not asked:
            raise ScoreError(
                f"scoring.rerank.on: the galleries of {', '.join(protocols)} hold the queries, and such are not re-ranked; score by another "
                "protocol as well, or set it to false"
            )
        found[RERANKED] = [apply(o.protocol, subjects, partial(_reranked, how=how.rerank)) for o in asked]
    queries = tables.table(
        [row for ranking, some in found.items() for o in some for row in per_query.rows(ranking, o, subjects)], tables.QUERIES
    )
    numbers = {ranking: {o.protocol.name: _numbers(o, subjects, how, tested) for o in some} for ranking, some in found.items()}
    return {
        "protocols": numbers[DISTANCE],
        RERANKED: numbers.get(RERANKED),
        "ranked": _ranked(outcomes[0], subjects),
    }, queries


def _reranked(queries: Vectors, gallery: Vectors, how: RerankConfig) -> Iterator[np.ndarray]:
    return reranked_distances(queries, gallery, how.k1, how.k2, how.weight)


def _numbers(outcome: Outcome, subjects: Subjects, how: ScoringConfig, tested: tuple[str, str]) -> dict[str, Any]:
    """One protocol's entry. A number that the protocol does not define here is null, with the reason in skipped_queries."""
    summary, protocol = outcome.summary, outcome.protocol
    cmc = summary.cmc
    answers = per_query.answers(outcome, subjects).over(protocol.averaged_over)
    return {
        "description": protocol.description,
        "gallery": outcome.gallery_size,
        "gallery_definition": protocol.gallery_definition,
        "queries": summary.queries,
        "valid": summary.valid,
        "skipped_queries": summary.queries - summary.valid,
        "ap": protocol.ap,
        "averaged_over": protocol.averaged_over,
        **{f"R{k}": float(cmc[k - 1]) for k in RANKS},
        "mAP": _defined(summary.mean_ap),
        "mINP": _defined(summary.mean_inp) if protocol.ap == "hit" else None,
        "intervals": per_query.over_runs(tested[0], {tested[1]: [answers]}, how),
        "cmc": [float(value) for value in cmc[:CMC_RANKS]],
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _ranked(outcome: Outcome, subjects: Subjects) -> list[dict[str, Any]]:
    result = outcome.per_query
    valid = np.flatnonzero(result.valid)
    worst = valid[np.argsort(result.ap[valid], kind="stable")][:LISTS]
    chosen = [("first", int(q)) for q in valid[:LISTS]] + [("worst", int(q)) for q in worst]
    return [
        {
            "chosen": why,
            **_about(subjects, int(outcome.query[q])),
            "query": subjects.tracklet[int(outcome.query[q])],
            "ap": float(result.ap[q]),
            "first_hit": int(result.first[q]),
            "right_answers": int(result.good[q]),
            "gallery": [
                {
                    **_about(subjects, row),
                    "tracklet": subjects.tracklet[row],
                    "distance": float(f"{distance:.6g}"),
                    "match": match,
                }
                for row, distance, match in first_entries(outcome, subjects, q, ENTRIES)
            ],
        }
        for why, q in chosen
    ]


def _about(subjects: Subjects, row: int) -> dict[str, Any]:
    return {"identity": str(subjects.identity[row]), "camera": int(subjects.camera[row])}


TEXT = "text"
ALONE = {"frames": "frames only", TEXT: "text only"}
"""Modalities without sound, in words."""
SOUNDS = {"recorded": "recorded sound", "silence": "silence", "noise": "noise"}
"""What a test tracklet may hear that is not derived from labels, by policy of the alignment."""


def seen(modality: str, meta: Mapping[str, Any]) -> str:
    """What the network had before it at test time, in words that cannot be taken for one another.

    Args:
        modality: of EMBEDDINGS: 'frames', 'text', 'frames+<kind>', or '<kind>' of a network that only hears.
        meta: of EMBEDDINGS; without sound none is needed.

    Returns:
        'frames only', 'text only', 'frames + silence', 'frames + recorded sound', 'oracle frames + label-derived audio', 'audio only: silence',
        'oracle audio only: label-derived audio', and so on.

    Raises:
        ScoreError: sound was heard, and the meta does not say which, or contradicts itself.
    """
    if modality in ALONE:
        return ALONE[modality]
    if not {"oracle", "label_derived", "policy"} <= meta.keys():
        raise ScoreError(
            "embeddings heard sound but do not say whether it was derived from labels (oracle, label_derived, policy); "
            "make them with evaluate.embed"
        )
    if meta["oracle"] != meta["label_derived"] or not (meta["label_derived"] or meta["policy"] in SOUNDS):
        raise ScoreError(
            f"embeddings say oracle={meta['oracle']}, label_derived={meta['label_derived']}, policy '{meta['policy']}': expected oracle "
            "exactly where sound of test identities was derived from labels; make them with evaluate.embed"
        )
    sound = "label-derived audio" if meta["label_derived"] else SOUNDS[meta["policy"]]
    return ("oracle " if meta["oracle"] else "") + (f"frames + {sound}" if modality.startswith("frames+") else f"audio only: {sound}")


def what_it_saw(embeddings: pa.Table, meta: Mapping[str, Any]) -> str:
    """:func:`seen` of a whole table; whoever wrote it, the word oracle goes wherever a number goes.

    Raises:
        ScoreError: vectors of several modalities between which distances mean nothing (sentences that ask for frames may differ from
            what answers); as :func:`seen`.
    """
    asks = pc.equal(embeddings.column("role"), "query")
    sides = [embeddings.filter(chosen).column("modality").unique().to_pylist() for chosen in (asks, pc.invert(asks))]
    found = list(dict.fromkeys(name for side in sides for name in side))
    if max(map(len, sides)) > 1 or (len(found) > 1 and TEXT not in found):
        raise ScoreError(
            f"embeddings: vectors of modality {', '.join(found)} in one table; distances between them mean nothing, so give one"
        )
    words = f"queries: {seen(sides[0][0], meta)}; gallery: {seen(sides[1][0], meta)}" if len(found) > 1 else seen("".join(found), meta)
    return words if not meta.get("oracle") or words.startswith(ORACLE) else f"{ORACLE} {words}"


def check_origin(meta: Mapping[str, Any], run: RunConfig) -> None:
    """Refuse embeddings of another run than config.json describes.

    Raises:
        ScoreError: names what differs, or what the embeddings do not say.
    """
    for name in TRAINING_OF:
        if name not in meta:
            raise ScoreError(f"embeddings do not say of which {name} they are; make them with evaluate.embed")
        if meta[name] != getattr(run, name):
            raise ScoreError(f"embeddings are of {name} {meta[name]!r}, config.json is of {getattr(run, name)!r}; give both of one run")


def test_set_of(meta: Mapping[str, Any], run: RunConfig) -> tuple[str, str]:
    """Data set and split that embeddings are of: the run's own, unless they were made on another one."""
    return meta.get("test_dataset", run.dataset), meta.get("test_split", run.split)


def metrics(
    embeddings: pa.Table, meta: dict[str, Any], run: RunConfig, protocols: Sequence[str], how: ScoringConfig
) -> tuple[dict[str, Any], pa.Table]:
    """All of metrics.json but its digests, and QUERIES."""
    subjects = subjects_of(embeddings)
    embeddings = embeddings.drop_columns(["vector"])
    pa.default_memory_pool().release_unused()
    check_origin(meta, run)
    saw = what_it_saw(embeddings, meta)
    if how.normalise:
        subjects = normalised(subjects)
    test_dataset, test_split = test_set_of(meta, run)
    numbers, queries = scores(subjects, protocols, how, (test_dataset, test_split))
    return {
        **{name: getattr(run, name) for name in TRAINING_OF},
        "test_dataset": test_dataset,
        "test_split": test_split,
        "modality": saw,
        "oracle": bool(meta.get("oracle", False)),
        "trained_on": run.companion,
        "companion": meta.get("companion"),
        "heard": None if meta.get("heard") is None else {"tracklets": embeddings.num_rows, "with_sound": meta["heard"]},
        "feature": {
            "dim": subjects.vector.shape[1],
            "normalised": how.normalise,
            "distance": "squared euclidean",
            "camera_embedding": meta.get("camera_embedding"),
        },
        "scoring": {**plain(how), "seed": SEED},
        "headline": protocols[0],
        **numbers,
    }, queries


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", help="metrics.json to write")
    arguments.add_argument("--queries", required=True, help="QUERIES table to write")
    arguments.add_argument("--embeddings", required=True, help="EMBEDDINGS table")
    arguments.add_argument("--config", required=True, help="config.json of the run")
    arguments.add_argument("--protocols", required=True, nargs="+", metavar="NAME", help="names in evaluate/protocols.py; first: headline")
    arguments.add_argument("--scoring", default="{}", help="settings of scoring (pipeline/base/config.py, ScoringConfig) as JSON text")
    args = arguments.parse_args(argv)
    for name in args.protocols:
        protocol_named(name)
        if args.protocols.count(name) > 1:
            raise ScoreError(f"--protocols: '{name}' is there {args.protocols.count(name)} times; name each once")
    cli.check_outputs({"OUT": args.out, "--queries": args.queries}, {"--embeddings": args.embeddings, "--config": args.config})
    how = cli.load(ScoringConfig, args.scoring, "scoring")
    run = build(RunConfig, read_json(args.config), args.config)
    # no name for the table here: once its vectors are arrays, `metrics` is to be the last that holds them
    made, queries = metrics(
        tables.read(args.embeddings, tables.EMBEDDINGS, rows_at_once=ROWS), tables.read_meta(args.embeddings), run, args.protocols, how
    )
    note = {origin.FROM: origin.made_from(config=args.config, embeddings=args.embeddings), origin.CODE: origin.code_of(*SCORING)}
    tables.write(args.queries, queries, tables.QUERIES, {name: made[name] for name in IDENTITY} | note)
    origin.write_sealed(args.out, {**made, **note, "made": {"queries": digest_file(args.queries)}})


if __name__ == "__main__":
    cli.run(main)
