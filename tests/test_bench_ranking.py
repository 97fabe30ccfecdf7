"""The bench of ranking compares works that give the same scores, and reports every row it promises."""

from __future__ import annotations

import pytest

from tests.bench import bench_ranking, ranking_process

SIZE = (60, 400, 32)


def test_all_forms_of_scoring_give_the_same_score():
    ours = ranking_process.run("score", *SIZE)
    assert ours is not None and 0.05 < ours < 0.99  # else every form would agree
    assert ranking_process.run("plain_score", *SIZE) == pytest.approx(ours, abs=1e-5)
    assert ranking_process.run("apply", *SIZE) == pytest.approx(ours, abs=1e-12)


def test_the_step_scores_what_was_written_for_it(tmp_path):
    assert ranking_process.run("write", *SIZE, tmp_path) is None
    assert ranking_process.run("step", *SIZE, tmp_path) == pytest.approx(ranking_process.run("score", *SIZE), abs=1e-12)
    assert ranking_process.run("step", *SIZE, tmp_path) != pytest.approx(ranking_process.run("score", 60, 300, 32), abs=1e-6)


def test_both_forms_of_re_ranking_give_the_same_score_and_not_that_of_the_first_ranking():
    ours = ranking_process.run("rerank", *SIZE)
    assert ranking_process.run("plain_rerank", *SIZE) == pytest.approx(ours, abs=1e-4)
    assert abs(ours - ranking_process.run("score", *SIZE)) > 0.01


def test_what_is_measured_beside_them_does_its_work():
    assert ranking_process.run("make", *SIZE) is None
    assert isinstance(ranking_process.run("products", *SIZE), float)


@pytest.mark.slow
def test_every_row_is_measured():
    found = [*bench_ranking.rows(0.02), *bench_ranking.wide(0.02)]
    assert len(found) == 12
    assert all(row["ours"] > 0 < row["baseline"] for row in found if row["unit"] == "GB")
