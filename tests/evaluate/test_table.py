"""The printed table: every number with its protocol, sample and interval; what must not be averaged is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evaluate import score, table
from pipeline.base import tables
from pipeline.base.build import plain
from pipeline.base.errors import ScoreError, UserError
from pipeline.base.seeds import rng
from tests.evaluate.pages import protocol, scored, seal
from tests.evaluate.test_score import OF, RUN, many, row


def run(folder, stage="student", split="0", seed=0, r1=0.625, oracle=False, test=None, **more):
    here = folder / f"{stage}-{split}-{seed}-{(test or 'own').replace('/', '-')}"
    here.mkdir()
    protocols = {"mars_torchreid": protocol(r1), "mars_official": protocol(r1 / 5, "trapezoid", gallery=12180, valid=1980, **more)}
    scored(here, "oracle frames + label-derived audio" if oracle else "frames only", protocols)
    names = {"method": "m", "dataset": "set", "split": split, "seed": seed, "stage": stage}
    other = dict(zip(("test_dataset", "test_split"), (test or f"set/{split}").split("/"), strict=True))
    value = json.loads((here / "metrics.json").read_text())
    seal(here / "metrics.json", {**value, **names, **other})
    return str(here / "metrics.json")


def printed(capsys, *paths):
    table.main(list(paths))
    return capsys.readouterr().out


def test_every_number_says_what_it_is_of(tmp_path, capsys):
    out = printed(capsys, run(tmp_path))
    first, second = out.strip().split("\n\n")
    assert first.startswith("set · mars_torchreid\n")
    assert "gallery 9,330 · 1,840/1,980 queries valid · AP at hits · mean over valid queries\n" in first
    assert "\n  single split (0), single seed (0) · features: 8 values, as they are, squared euclidean\n" in first
    assert "gallery 12,180 · 1,980/1,980 queries valid · trapezoid AP" in second
    *_, row, notes = first.splitlines()
    assert re.search(r"m · student +frames only +62\.5 \[6\d\.\d, 6\d\.\d\]", row)
    alike = "none where each query that can be drawn scores the same"
    assert notes == f"  percent; [ ] 95 % bootstrap interval over queries, 100 draws, seed 0; {alike}"


def test_seeds_and_splits_are_averaged_and_counted(tmp_path, capsys):
    out = printed(capsys, *(run(tmp_path, seed=seed, r1=r1) for seed, r1 in enumerate((0.5, 0.7))))
    assert "60.0 ± 14.1 [" in out and "mean ± std of 2 runs: single split (0), 2 seeds (0, 1) ·" in out
    assert out.count("; ± sample standard deviation over runs") == 2
    out = printed(capsys, *(run(tmp_path, split=split, seed=5, r1=r1) for split, r1 in (("0", 0.5), ("1", 0.7))))
    assert "mean ± std of 2 runs: 2 splits (0, 1), single seed (5)" in out


def test_another_test_set_has_a_table_of_its_own(tmp_path, capsys):
    out = printed(capsys, run(tmp_path), run(tmp_path, test="other/7"))
    assert "\nset → other · mars_torchreid\n" in out and "single split (0), single seed (0), tested on single split (7)" in out


def test_the_word_oracle_stands_beside_the_number(tmp_path, capsys):
    out = printed(capsys, run(tmp_path, oracle=True), run(tmp_path, stage="plain"))
    rows = [line for line in out.splitlines() if "m · " in line]
    assert ["oracle" in line for line in rows] == [True, False] * 2


def test_settings_of_scoring_must_be_the_same(tmp_path):
    one, two = run(tmp_path), run(tmp_path, seed=1)
    table.main([one, two])
    value = json.loads(Path(two).read_text())
    value["scoring"]["unit"] = "identity"
    seal(Path(two), value)
    with pytest.raises(ScoreError, match="runs differ in settings of scoring"):
        table.main([one, two])


def test_one_run_twice_is_refused(tmp_path):
    one = run(tmp_path)
    with pytest.raises(ScoreError, match="given twice"):
        table.main([one, one])


def test_a_file_that_is_no_metrics_is_refused(tmp_path):
    one = Path(run(tmp_path))
    value = json.loads(one.read_text())
    for change, message in (({"seed": "x"}, "which seed"), ({"made": {"queries": "0"}}, r"not the table that metrics\.json")):
        seal(one, {**value, **change})
        with pytest.raises(ScoreError, match=message):
            table.main([str(one)])
    one.write_text("{}")
    with pytest.raises(UserError, match=r"not a metrics\.json"):
        table.main([str(one)])


def replaced(value, where, new):
    """A copy with another value in one place; ... takes the entry out."""
    inside = replaced(value[where[0]], where[1:], new) if where[1:] else new
    if isinstance(value, list):
        return [inside if i == where[0] else one for i, one in enumerate(value)]
    return {**{name: one for name, one in value.items() if name != where[0]}, **({} if inside is ... else {where[0]: inside})}


MARKET = ("protocols", "mars_torchreid")
WRONG = [
    (("made",), {}, "made: has no queries"),
    (("made",), [], r"made: found \[\], expected a mapping"),
    (("made", "queries"), 1, "made.queries: found 1, expected text"),
    (("scoring",), {}, "scoring: has no seed"),
    (("scoring", "seed"), True, "scoring.seed: found True, expected a whole number"),
    (("scoring", "unit"), "person", "scoring.unit='person'"),
    (("scoring", "resamples"), "100", "scoring: is not written out in full, each setting with its own type"),
    (("scoring", "unit"), ..., "scoring: is not written out in full"),
    (("feature",), {}, "feature: has no dim"),
    (("feature", "dim"), "8", "feature.dim: found '8', expected a whole number"),
    (("feature", "camera_embedding"), 1, "feature.camera_embedding: found 1"),
    (("heard",), {}, "heard: has no tracklets"),
    (("protocols",), {}, r"protocols: found \{\}, expected a mapping of names"),
    (("protocols",), [1], "protocols: found"),
    (MARKET, {}, "protocols.mars_torchreid: has no description"),
    ((*MARKET, "R1"), "0.9", "protocols.mars_torchreid.R1: found '0.9', expected a number from 0 to 1"),
    ((*MARKET, "R1"), 62.5, "R1: found 62.5, expected a number from 0 to 1"),
    ((*MARKET, "R1"), None, "R1: found None"),
    ((*MARKET, "mAP"), True, "mAP: found True"),
    ((*MARKET, "gallery"), 9330.0, "gallery: found 9330.0, expected a whole number"),
    ((*MARKET, "valid"), -1, "valid: found -1"),
    ((*MARKET, "valid"), 1981, "1981 queries valid of 1980"),
    ((*MARKET, "ap"), "best", "ap: found 'best', expected hit or trapezoid"),
    ((*MARKET, "averaged_over"), ["valid"], "averaged_over: found"),
    ((*MARKET, "cmc"), [1.0] * 49, "cmc: found .* expected a list of 50"),
    ((*MARKET, "cmc", 3), "1", r"cmc\[3\]: found '1'"),
    (("reranked",), {}, r"reranked: found \{\}"),
    (("reranked",), ..., "it: has no reranked"),
    (("ranked",), {}, "ranked: found"),
    (("ranked",), [{}], r"ranked\[0\]: has no identity"),
    (("headline",), "market", "headline: found 'market', expected one of protocols"),
    (("oracle",), "no", "oracle: found 'no', expected true or false"),
    (("modality",), None, "modality: found None"),
]


@pytest.mark.parametrize(("where", "new", "said"), WRONG, ids=[f"{'.'.join(map(str, one[0]))}={str(one[1])[:12]}" for one in WRONG])
def test_metrics_of_another_form_are_one_sentence(tmp_path, where, new, said):
    """Sealed, so that nothing but the form is wrong."""
    one = Path(run(tmp_path))
    table.main([str(one)])  # negative control
    seal(one, replaced(json.loads(one.read_text()), where, new))
    with pytest.raises(
        ScoreError, match=rf"^{one}: not a metrics\.json of evaluate\.score as it is now \(.*{said}.*\); score this run again$"
    ):
        table.main([str(one)])


def test_protocols_that_queries_know_nothing_of(tmp_path):
    one = Path(run(tmp_path))
    value = json.loads(one.read_text())
    for protocols in ({**value["protocols"], "market": value["protocols"]["mars_torchreid"]}, {"mars_torchreid": protocol(0.625)}):
        seal(one, {**value, "protocols": protocols})
        with pytest.raises(ScoreError, match=r"its protocols are not those of queries\.parquet beside it"):
            table.main([str(one)])


def test_edited_numbers_are_refused(tmp_path):
    """Whose intervals, from QUERIES, would still be those of the numbers before."""
    one = Path(run(tmp_path))
    table.main([str(one)])  # negative control
    before = one.read_text()
    for old, new in (('"R1": 0.625', '"R1": 0.925'), (' "seal"', '  "seal"')):
        assert old in before
        one.write_text(before.replace(old, new))
        with pytest.raises(ScoreError, match=r"not a metrics\.json as evaluate\.score wrote it \(its .*\); score this run again"):
            table.main([str(one)])
    one.write_text(json.dumps({name: value for name, value in json.loads(before).items() if name != "seal"}))
    with pytest.raises(ScoreError, match=r"not a metrics\.json as evaluate\.score wrote it \(it has no seal"):
        table.main([str(one)])


def test_one_run_has_the_intervals_of_its_metrics(tmp_path, capsys):
    """The table makes them from QUERIES, evaluate.score when it scores: the same draws over the same queries, hence the same numbers."""
    draw = rng(0, "table")
    rows = [row(f"t{i:03d}", "query" if i < 40 else "gallery", str(i % 9), i // 9 % 3, draw.normal(size=4).tolist()) for i in range(150)]
    tables.write_rows(tmp_path / "e.parquet", rows, tables.EMBEDDINGS, OF)
    (tmp_path / "config.json").write_text(json.dumps(plain(RUN)))
    files = [f"--embeddings={tmp_path / 'e.parquet'}", f"--config={tmp_path / 'config.json'}", f"--queries={tmp_path / 'queries.parquet'}"]
    for unit in ("query", "identity"):
        how = json.dumps({"unit": unit, "confidence": 0.9})
        score.main([str(tmp_path / "metrics.json"), *files, "--protocols", "pid_only", "market", f"--scoring={how}"])
        found = json.loads((tmp_path / "metrics.json").read_text())["protocols"]
        out = printed(capsys, str(tmp_path / "metrics.json"))
        assert out.index("pid_only") < out.index("market")  # the headline first
        for numbers in found.values():
            for name in ("R1", "R5", "mAP", "mINP"):
                low, high = numbers["intervals"][name]
                assert low <= numbers[name] <= high and f"{100 * numbers[name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in out
        assert "90 % bootstrap interval over " + ("queries," if unit == "query" else "identities, each with all its queries,") in out


def test_what_was_reranked_comes_last_and_says_so(tmp_path, capsys):
    tables.write_rows(tmp_path / "e.parquet", many(), tables.EMBEDDINGS, OF)
    (tmp_path / "config.json").write_text(json.dumps(plain(RUN)))
    files = [f"--embeddings={tmp_path / 'e.parquet'}", f"--config={tmp_path / 'config.json'}", f"--queries={tmp_path / 'queries.parquet'}"]
    how = json.dumps({"rerank": {"on": True, "k1": 8, "k2": 3}})
    score.main([str(tmp_path / "metrics.json"), *files, "--protocols", "market", "mars_merged", f"--scoring={how}"])
    blocks = printed(capsys, str(tmp_path / "metrics.json")).split("\n\n")
    heads = [block.splitlines()[0] for block in blocks]
    assert heads[:3] == ["d · market", "d · mars_merged", "d · market · RE-RANKED (k1 8, k2 3, weight 0.3), no headline"]
    assert blocks[0].splitlines()[-2] != blocks[2].splitlines()[-2]


def test_runs_that_are_no_whole_grid_say_so(tmp_path, capsys):
    """Split 0 with seeds 0 and 1, split 1 with seed 0: the mean over runs counts split 0 twice, and so does the interval."""
    out = printed(capsys, *(run(tmp_path, split=s, seed=n, r1=r) for s, n, r in (("0", 0, 0.9), ("0", 1, 0.9), ("1", 0, 0.3))))
    assert "mean ± std of 3 runs: 2 splits (0, 1), 2 seeds (0, 1), not all pairs of them" in out
    mean, low, high = map(float, re.search(r"frames only +(\d+\.\d) ± \d+\.\d \[(\d+\.\d), (\d+\.\d)\]", out).groups())
    assert mean == 70.0 and low < 70 < high


def test_why_there_are_no_intervals(tmp_path, capsys):
    one = Path(run(tmp_path))
    value = json.loads(one.read_text())
    for resamples, said in ((0, "no intervals (scoring.resamples is 0)"), (100, "[ ] 95 % bootstrap interval")):
        value["scoring"]["resamples"] = resamples
        seal(one, value)
        assert said in printed(capsys, str(one))
    assert "no intervals where each query that can be drawn scores the same" in printed(capsys, run(tmp_path, seed=1, r1=0.0))
