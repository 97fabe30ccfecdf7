"""metrics.json from EMBEDDINGS: numbers with their protocol, ranked lists, and refusals."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from evaluate import protocols, score
from pipeline.base import tables
from pipeline.base.build import plain
from pipeline.base.config import MethodConfig, RerankConfig, RunConfig, ScoringConfig, StageConfig
from pipeline.base.errors import ConfigError, ScoreError, UserError
from pipeline.base.seeds import rng

STAGE = StageConfig(network="dubbernet_student")
RUN = RunConfig(
    method="m",
    dataset="d",
    split="0",
    seed=3,
    stage="student",
    companion="none",
    test_companion="none",
    kind="",
    bands=0,
    item_frames=0,
    height=32,
    width=16,
    this=STAGE,
    settings=MethodConfig(stages={"student": STAGE}, companion="none"),
)


OF = {name: getattr(RUN, name) for name in score.TRAINING_OF}
"""What meta of EMBEDDINGS says about the training."""


def row(name, role, identity, camera, position, kind="person", modality="frames"):
    vector = position if isinstance(position, list) else [position, 0.0]
    return {
        "tracklet": name,
        "modality": modality,
        "role": role,
        "identity": identity,
        "kind": kind,
        "camera": camera,
        "clips": 1,
        "vector": vector,
    }


SCENE = [
    row("q1", "query", "a", 0, 0.0),
    row("q2", "query", "b", 0, 10.0),
    row("g1", "gallery", "0000", 1, 1.0, "distractor"),
    row("g2", "gallery", "a", 1, 2.0),
    row("g3", "gallery", "a", 0, 0.5),  # the query's own camera
    row("g4", "gallery", "b", 0, 10.5),  # so is this one: q2 has no answer
    row("j1", "junk", "00-1", 1, 0.1, "junk"),
]


def made(rows=SCENE):
    return tables.table(rows, tables.EMBEDDINGS)


def metrics(embeddings, meta, protocols, **scoring):
    return score.metrics(embeddings, {**OF, **meta}, RUN, protocols, ScoringConfig(**{"resamples": 200, **scoring}))[0]


def test_numbers_by_hand():
    out = metrics(made(), {}, ["market"])
    found = out["protocols"]["market"]
    assert (found["gallery"], found["queries"], found["valid"], found["skipped_queries"]) == (4, 2, 1, 1)
    assert (found["R1"], found["R5"], found["mAP"], found["mINP"], found["ap"]) == (0.0, 1.0, 0.5, 0.5, "hit")
    assert len(found["cmc"]) == 50 and out["oracle"] is False and out["modality"] == "frames only"
    first = out["ranked"][0]
    assert (first["query"], first["chosen"], first["first_hit"]) == ("q1", "first", 2)
    assert [(e["tracklet"], e["match"], e["distance"]) for e in first["gallery"]] == [
        ("g1", False, 1.0),
        ("g2", True, 4.0),
        ("g4", False, 110.25),
    ]
    assert [entry["chosen"] for entry in out["ranked"]] == ["first", "worst"]


def test_a_number_that_is_not_defined_is_null_not_a_guess():
    """mars_official averages over all queries, and c has no answer: its AP is undefined, hence the mean, too."""
    found = metrics(made([*SCENE[:6], row("q3", "query", "c", 0, 3.0)]), {}, ["mars_official"])["protocols"]["mars_official"]
    assert found["valid"] < found["queries"] and found["mAP"] is None and found["mINP"] is None


def about(policy, label_derived=False, oracle=None):
    """Meta of EMBEDDINGS of a network that heard something."""
    return {"policy": policy, "label_derived": label_derived, "oracle": label_derived if oracle is None else oracle}


@pytest.mark.parametrize(
    ("modality", "meta", "words"),
    [
        ("frames", {}, "frames only"),
        ("frames+audio", about("silence"), "frames + silence"),
        ("frames+audio_tokens", about("silence"), "frames + silence"),
        ("frames+audio", about("recorded"), "frames + recorded sound"),
        ("frames+audio", about("noise"), "frames + noise"),
        ("frames+audio", about("id_speaker", True), "oracle frames + label-derived audio"),
        ("audio", about("id_speaker", True), "oracle audio only: label-derived audio"),
        ("audio", about("recorded"), "audio only: recorded sound"),
        ("audio_tokens", about("silence"), "audio only: silence"),
    ],
)
def test_what_was_seen_and_heard_in_words(modality, meta, words):
    out = metrics(made([{**r, "modality": modality} for r in SCENE]), {**meta, "companion": "c"}, ["market"])
    assert (out["modality"], out["oracle"]) == (words, words.startswith("oracle"))
    assert (out["trained_on"], out["companion"]) == ("none", "c")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "do not say whether it was derived from labels"),
        ({"oracle": True}, "do not say whether it was derived from labels"),
        (about("id_speaker", True, oracle=False), "expected oracle exactly where"),
        (about("silence", False, oracle=True), "expected oracle exactly where"),
        (about("id_speaker", False), "expected oracle exactly where"),  # no sound that is free of labels has this policy
    ],
)
def test_sound_of_unknown_origin_is_refused(meta, message):
    heard = made([{**r, "modality": "frames+audio"} for r in SCENE])
    with pytest.raises(ScoreError, match=message):
        metrics(heard, meta, ["market"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "table is empty"),
        ([*SCENE, row("q1", "query", "a", 0, 0.0, modality="frames+audio")], r"q1 is there 2 times"),
        ([*SCENE, row("g9", "gallery", "a", 1, [1.0, 2.0, 3.0])], "length 2, 3"),
        ([*SCENE, row("g9", "gallery", "a", 1, float("nan"))], "gallery: 1 of 5 vectors hold NaN"),
        ([*SCENE[1:], row("q0", "query", "a", 0, float("inf"))], "queries: 1 of 2 vectors hold NaN or infinity"),
        ([*SCENE, row("g9", "gallery", "a", -1, 1.0)], "market: 1 of 8 tracklets have no known camera .* g9"),
        ([*SCENE, row("g9", "gallery", "a", 1, 1.0, modality="frames+audio")], "modality frames, frames\\+audio in one table"),
        (SCENE[2:], "role 'query'"),
        ([SCENE[1], SCENE[5]], "none of 1 queries has a right answer"),
    ],
)
def test_inputs_that_would_make_a_score_meaningless_are_refused(rows, message):
    with pytest.raises(ScoreError, match=message):
        metrics(made(rows), {}, ["market"])


def test_sentences_may_ask_for_frames():
    """Text to video: queries and gallery differ in modality, by identity alone; frames that ask for text and sound are refused."""
    asking = [{**r, "modality": "text"} if r["role"] == "query" else r for r in SCENE]
    found = metrics(made(asking), {}, ["pid_only"])
    assert found["modality"] == "queries: text only; gallery: frames only" and found["protocols"]["pid_only"]["valid"] == 2
    for wrong in (
        [*asking, {**SCENE[2], "tracklet": "g9", "modality": "text"}],
        [{**r, "modality": "audio"} if r["role"] == "query" else r for r in SCENE],
    ):
        with pytest.raises(ScoreError, match="in one table"):
            metrics(made(wrong), about("silence"), ["pid_only"])


def test_an_unknown_camera_is_no_matter_where_none_is_compared():
    found = metrics(made([*SCENE, row("g9", "gallery", "a", -1, 1.0)]), {}, ["pid_only"])
    assert found["protocols"]["pid_only"]["gallery"] == 5


def test_embeddings_of_another_run_are_refused():
    with pytest.raises(ScoreError, match="seed 4"):
        metrics(made(), {"seed": 4}, ["market"])
    with pytest.raises(ScoreError, match="do not say of which stage they are"):
        score.metrics(made(), {name: value for name, value in OF.items() if name != "stage"}, RUN, ["market"], ScoringConfig())


def test_step_writes_the_same_bytes_whatever_the_order_of_rows(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(plain(RUN)))
    for name, rows in (("a", SCENE), ("b", SCENE[::-1])):
        tables.write_rows(tmp_path / f"{name}.parquet", rows, tables.EMBEDDINGS, {**OF, "oracle": False})
        arguments = [tmp_path / f"{name}.json", "--embeddings", tmp_path / f"{name}.parquet", "--config", tmp_path / "config.json"]
        score.main([*map(str, arguments), "--queries", str(tmp_path / f"{name}.queries"), "--protocols", "market", "pid_only"])
    assert (tmp_path / "a.queries").read_bytes() == (tmp_path / "b.queries").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert set(json.loads((tmp_path / "a.json").read_text())["protocols"]) == {"market", "pid_only"}


def test_step_names_an_unknown_protocol_before_it_reads_anything(tmp_path):
    with pytest.raises(UserError, match="did you mean 'market'"):
        score.main([str(tmp_path / "x"), "--queries", "none", "--embeddings", "none", "--config", "none", "--protocols", "markt"])


def test_step_refuses_a_protocol_named_twice_before_it_reads_anything(tmp_path):
    files = [str(tmp_path / "x"), "--queries", str(tmp_path / "q"), "--embeddings", "none", "--config", "none", "--protocols"]
    with pytest.raises(ScoreError, match="--protocols: 'market' is there 2 times; name each once"):
        score.main([*files, "market", "pid_only", "market"])
    with pytest.raises(UserError, match="none: no such file"):  # negative control
        score.main([*files, "market", "pid_only"])


def test_step_leaves_its_inputs_alone(tmp_path):
    config, embeddings = tmp_path / "config.json", tmp_path / "e.parquet"
    config.write_text(json.dumps(plain(RUN)))
    tables.write_rows(embeddings, SCENE, tables.EMBEDDINGS, {**OF, "oracle": False})
    before = config.read_bytes(), embeddings.read_bytes()
    (tmp_path / "link").symlink_to("e.parquet")
    given = ["--embeddings", str(embeddings), "--config", str(config), "--protocols", "market"]
    for out, queries, said in (
        ("config.json", "q", "OUT=.* is the same file as --config="),
        ("link", "q", "OUT=.* is the same file as --embeddings="),
        ("m", "e.parquet", "--queries=.* is the same file as --embeddings="),
        ("m", "m", "--queries=.* is the same file as OUT=.*, which this step writes, too"),
    ):
        with pytest.raises(ConfigError, match=said):
            score.main([str(tmp_path / out), "--queries", str(tmp_path / queries), *given])
    assert (config.read_bytes(), embeddings.read_bytes()) == before and not (tmp_path / "m").exists()
    score.main([str(tmp_path / "m"), "--queries", str(tmp_path / "q"), *given])  # negative control


def test_ranked_lists_agree_with_the_ranks():
    random = np.random.default_rng(0)
    rows = [row(f"t{i:03d}", "query" if i < 20 else "gallery", str(i % 6), i // 6 % 3, random.normal(size=4).tolist()) for i in range(120)]
    out = metrics(made(rows), {}, ["market"])
    for entry in out["ranked"]:
        hits = [i for i, cell in enumerate(entry["gallery"], 1) if cell["match"]]
        assert (hits[0] if hits else None) == (entry["first_hit"] if entry["first_hit"] <= 10 else None)


def list_of_each_query_is_its_ranking(width):
    """Whether the lists of tied integers hold right answers exactly where the counted ranks say."""
    draw = rng(8, "ties", width)
    rows = [
        row(f"t{i:03d}", "query" if i < 24 else "gallery", str(i % 6), i // 6 % 3, draw.integers(0, 3, width).astype(float).tolist())
        for i in range(300)
    ]
    ranked = metrics(made(rows), {}, ["market"], resamples=0)["ranked"]
    first = [next((i for i, cell in enumerate(entry["gallery"], 1) if cell["match"]), None) for entry in ranked]
    return first == [entry["first_hit"] if entry["first_hit"] <= score.ENTRIES else None for entry in ranked]


@pytest.mark.parametrize("width", [4, 16, 64])
def test_ranked_lists_of_tied_vectors_agree_with_the_ranks(width):
    assert list_of_each_query_is_its_ranking(width)


def test_lists_by_a_product_of_one_row_would_not(monkeypatch):
    """Negative control: as float32 rounds them, equal distances come in another order."""

    def rounded(left, i, right, j):
        a, b = left[i[:1]] - right.mean(axis=0), right[j] - right.mean(axis=0)
        return ((a**2).sum(1) + (b**2).sum(1) - 2 * (b @ a.T)[:, 0]).astype(np.float64)

    monkeypatch.setattr(protocols, "pair_distances", rounded)
    assert not all(list_of_each_query_is_its_ranking(width) for width in (16, 64))


def test_vectors_of_length_1_where_the_settings_say_so():
    """q1 is nearest to g1 as they are; by direction alone g2 is nearer."""
    rows = [row("q1", "query", "a", 0, [1.0, 0.0]), row("g1", "gallery", "x", 1, [1.0, 0.4]), row("g2", "gallery", "a", 1, [9.0, 0.1])]
    found = {normalise: metrics(made(rows), {}, ["market"], normalise=normalise) for normalise in (False, True)}
    assert [found[n]["protocols"]["market"]["R1"] for n in (False, True)] == [0.0, 1.0]
    assert [found[n]["feature"]["normalised"] for n in (False, True)] == [False, True]
    with pytest.raises(ScoreError, match="the vector of g9 is 0"):
        metrics(made([*rows, row("g9", "gallery", "b", 1, [0.0, 0.0])]), {}, ["market"], normalise=True)


def test_junk_may_be_0_because_nobody_ranks_it():
    rows = [row("q1", "query", "a", 0, [1.0, 0.0]), row("g1", "gallery", "a", 1, [0.0, 2.0])]
    rows += [row("j1", "junk", "00-1", 1, [0.0, 0.0], "junk"), row("j2", "junk", "00-1", 1, [0.0, 3.0], "junk")]
    found = score.normalised(score.subjects_of(made(rows)))
    assert found.vector.tolist() == [[0, 1], [0, 0], [0, 1], [1, 0]]
    assert metrics(made(rows), {}, ["market", "mars_official"], normalise=True)["protocols"]["mars_official"]["mAP"] == 1
    rows[2]["kind"] = "distractor"
    with pytest.raises(ScoreError, match="the vector of j1 is 0"):
        score.normalised(score.subjects_of(made(rows)))


def test_scaling_piece_by_piece_changes_no_bit(monkeypatch):
    whole = score.normalised(score.subjects_of(made(many()))).vector
    monkeypatch.setattr(score, "ROWS", 7)
    assert score.normalised(score.subjects_of(made(many()))).vector.tobytes() == whole.tobytes()
    assert np.sqrt((whole.astype(float) ** 2).sum(1)) == pytest.approx(1, abs=1e-6)


def test_vectors_are_taken_from_a_table_in_order_without_a_copy():
    """A large table would be held twice; in pieces or out of order they are copied, and are the same."""
    table = made(many())
    found = score.subjects_of(table)
    held = table.column("vector").chunk(0).flatten().to_numpy()
    assert np.shares_memory(found.vector, held)
    for other in (table.take(np.arange(table.num_rows)[::-1]), pa.concat_tables([table.slice(0, 31), table.slice(31)])):
        copied = score.subjects_of(other)
        assert not np.shares_memory(copied.vector, held)
        assert copied.vector.tobytes() == found.vector.tobytes() and copied.tracklet == found.tracklet
        assert all((getattr(copied, name) == getattr(found, name)).all() for name in ("role", "identity", "kind", "camera"))


def test_each_query_is_written_down():
    """QUERIES holds what the means are over: by hand for SCENE, in which q2 has no answer."""
    _, table = score.metrics(made(), OF, RUN, ["market", "mars_official"], ScoringConfig(resamples=0))
    found = {(r["protocol"], r["query"]): r for r in table.to_pylist()}
    one, two = found["market", "q1"], found["market", "q2"]
    assert (one["good"], one["removed"], one["first"], one["ap"], one["inp"]) == (1, 1, 2, 0.5, 0.5)
    assert (two["good"], two["removed"], two["first"], two["ap"], two["inp"]) == (0, 1, 0, None, None)
    assert found["mars_official", "q1"]["inp"] is None  # not defined by that protocol
    assert table.column("ranking").unique().to_pylist() == ["distance"]


def many(count=90):
    random = np.random.default_rng(3)
    centre = random.normal(size=(9, 4))
    return [
        row(f"t{i:03d}", "query" if i < 18 else "gallery", str(i % 9), i // 9 % 3, (centre[i % 9] + random.normal(size=4)).tolist())
        for i in range(count)
    ]


def test_reranked_scores_stand_apart_and_change_no_other():
    plainly = score.metrics(made(many()), OF, RUN, ["market", "mars_merged"], ScoringConfig(resamples=100))
    how = ScoringConfig(resamples=100, rerank=RerankConfig(on=True, k1=8, k2=3))
    out, table = score.metrics(made(many()), OF, RUN, ["market", "mars_merged"], how)
    assert plainly[0]["reranked"] is None and out["protocols"] == plainly[0]["protocols"] and out["ranked"] == plainly[0]["ranked"]
    assert list(out["reranked"]) == ["market"]  # a gallery that holds the queries is not re-ranked
    assert out["reranked"]["market"]["mAP"] != out["protocols"]["market"]["mAP"]
    assert out["reranked"]["market"]["gallery"] == out["protocols"]["market"]["gallery"]
    kinds = {(r["ranking"], r["protocol"]) for r in table.to_pylist()}
    assert kinds == {("distance", "market"), ("distance", "mars_merged"), ("reranked", "market")}
    means = [r["ap"] for r in table.to_pylist() if r["ranking"] == "reranked" and r["ap"] is not None]
    assert np.mean(means) == pytest.approx(out["reranked"]["market"]["mAP"], abs=1e-12)
