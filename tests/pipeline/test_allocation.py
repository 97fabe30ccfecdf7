"""Matching against brute force and Hall's condition, runs and draws by hand."""

from __future__ import annotations

from itertools import permutations, product

import pytest

from pipeline.allocation import (
    Piece,
    Speaker,
    Unserved,
    clips_needed,
    drawn,
    match,
    runs_by_identity,
    runs_by_tracklet,
    unserved_error,
)
from pipeline.base.config import AlignmentConfig
from pipeline.base.seeds import rng


def speakers(*counts: int) -> list[Speaker]:
    """Speakers a, b, c, ... in published order."""
    return [Speaker(chr(97 + k), k, count) for k, count in enumerate(counts)]


def needs(*counts: int) -> dict[str, int]:
    """Identities 1, 2, 3, ..."""
    return {str(k + 1): count for k, count in enumerate(counts)}


def most_served(wanted: tuple[int, ...], there: tuple[int, ...]) -> int:
    """By trying every assignment: how many identities can be served at once."""
    padded = list(there) + [-1] * len(wanted)
    return max(sum(w <= t for w, t in zip(wanted, p, strict=False)) for p in permutations(padded, len(wanted)))


def hall(wanted: tuple[int, ...], there: tuple[int, ...]) -> bool:
    """The sets of sufficient speakers are nested, so Hall's condition is: the k-th largest suffices for the k-th largest need."""
    return len(there) >= len(wanted) and all(
        w <= t for w, t in zip(sorted(wanted, reverse=True), sorted(there, reverse=True), strict=False)
    )


def test_best_fit_by_falling_need_serves_as_many_as_any_assignment_could():
    checked = impossible = 0
    for wanted, there in product(product((1, 2, 3), repeat=3), product((1, 2, 3, 4), repeat=3)):
        found = match(needs(*wanted), speakers(*there))
        assert len(found.owners) == most_served(wanted, there)
        assert (not found.unserved) == hall(wanted, there)
        impossible += bool(found.unserved)
        checked += 1
    assert checked == 27 * 64
    assert 0 < impossible < checked


def test_larger_random_cases_keep_halls_condition_and_injectivity():
    numbers = rng(0, "test", "match")
    verdicts = set()
    for _ in range(300):
        wanted = tuple(int(x) for x in numbers.integers(1, 40, size=20))
        there = tuple(int(x) for x in numbers.integers(1, 60, size=24))
        owners = {f"s{k}": count for k, count in enumerate(there)}
        found = match(needs(*wanted), [Speaker(o, k, c) for k, (o, c) in enumerate(owners.items())])
        assert len(set(found.owners.values())) == len(found.owners)
        assert all(owners[owner] >= needs(*wanted)[who] for who, owner in found.owners.items())
        assert (not found.unserved) == hall(wanted, there)
        verdicts.add(not found.unserved)
    assert verdicts == {True, False}


def test_published_greedy_fails_where_the_default_succeeds():
    """Needs 2 and 5, speakers with 5 and 3 clips: by name and largest first, '1' takes the speaker that '2' needs."""
    wanted, there = needs(2, 5), speakers(5, 3)
    assert match(wanted, there).owners == {"2": "a", "1": "b"}
    parity = match(wanted, there, order="identity", fit="largest_first")
    assert parity.owners == {"1": "a"}
    assert parity.unserved == [Unserved("2", 5, 3)]


def test_best_fit_leaves_the_large_speakers_over():
    assert match(needs(4), speakers(9, 5, 4)).owners == {"1": "c"}
    assert match(needs(4), speakers(9, 5, 4), fit="largest_first").owners == {"1": "a"}


@pytest.mark.parametrize("fit", ["best", "largest_first"])
def test_ties_follow_the_published_order_whatever_the_input_order(fit):
    there = speakers(7, 7, 7)
    for order in permutations(there):
        assert match(needs(3, 3), order, fit=fit).owners == {"1": "a", "2": "b"}


def test_everybody_who_is_unserved_is_listed():
    found = match(needs(9, 8, 1, 1), speakers(5, 2))
    assert found.unserved == [Unserved("1", 9, 5), Unserved("2", 8, 5)]
    assert found.owners == {"3": "b", "4": "a"}
    # more identities than speakers: the last ones find nobody
    assert match(needs(1, 1, 1), speakers(5, 5)).unserved == [Unserved("3", 1, 0)]
    # a speaker without clips is nobody, also with reuse
    assert match(needs(1), speakers(0), reuse=True).unserved == [Unserved("1", 1, 0)]


def test_the_error_is_one_sentence_whatever_the_number():
    many = [Unserved(f"{k:04d}", 9, 5 if k < 600 else 0) for k in range(625)]
    text = str(unserved_error(many, 625, 600, 3, AlignmentConfig(fit="largest_first")))
    assert text.startswith(
        "625 of 625 identities have no speaker with enough usable clips (3 clips quarantined): 0000 needs 9, best has 5;"
    )
    assert "; and 595 more (see the log). What helps: companions.<name>.alignment.reuse: true" in text
    assert "more speakers than the 600 there are" in text
    assert "alignment.order: need and .fit: best" in text
    assert "reuse" not in str(unserved_error(many[-1:], 1, 1, 0, AlignmentConfig()))  # repeating clips makes no speakers


def test_reuse_gives_the_largest_free_speaker_and_says_so():
    found = match(needs(9, 8, 5), speakers(5, 6, 6, 5), reuse=True)
    assert found.owners == {"1": "b", "2": "c", "3": "a"}
    assert found.reused == ["1", "2"]
    assert not found.unserved


def test_runs_restart_at_each_tracklet():
    assert runs_by_tracklet({"t2": 3, "t1": 8}, 6) == [(Piece("t1", 0, 5),), (Piece("t1", 6, 7),), (Piece("t2", 0, 2),)]


def test_runs_of_an_identity_cross_tracklets_in_path_order():
    frames = {"t2": ["b/0", "b/1", "b/2"], "t1": ["a/0", "a/1"]}
    assert runs_by_identity(frames, 4) == [(Piece("t1", 0, 1), Piece("t2", 0, 1)), (Piece("t2", 2, 2),)]


def test_runs_of_an_identity_split_where_path_order_is_not_time_order():
    """'f10' sorts before 'f9': the run is cut into pieces that are consecutive in time."""
    assert runs_by_identity({"t": ["f9", "f10", "f11"]}, 3) == [(Piece("t", 1, 2), Piece("t", 0, 0))]


@pytest.mark.parametrize(("frames", "runs", "tracklet", "identity"), [(259, 48, 48, 44), (50, 10, 10, 9), (30, 6, 6, 6), (5, 1, 1, 1)])
def test_clips_needed(frames, runs, tracklet, identity):
    assert clips_needed(frames, runs, 6, "tracklet") == tracklet
    assert clips_needed(frames, runs, 6, "identity") == identity


def test_drawn_follows_seed_and_names_and_stays_in_the_pool():
    pool = [5, 7, 9]
    assert set(drawn(pool, 200, 1, "0001", 0)) == set(pool)
    assert drawn(pool, 20, 1, "0001", 0) == drawn(pool, 20, 1, "0001", 0)
    assert len({tuple(drawn(pool, 20, 1, who, turn)) for who in ("0001", "0002") for turn in (0, 1)}) == 4


@pytest.mark.real_data
def test_needs_of_all_mars_identities_match_the_published_counts(real_data):
    """specs/dubbernet.md 11.4, A2: floor(N / 6) + 1 clips over all frames of an identity."""
    loadmat = pytest.importorskip("scipy.io").loadmat
    info = real_data / "splits" / "mars" / "info"

    def counts(name: str, key: str) -> dict[int, int]:
        frames: dict[int, int] = {}
        for first, last, person, _ in loadmat(info / name)[key].astype(int):
            frames[person] = frames.get(person, 0) + last - first + 1
        return {person: clips_needed(n, -1, 6, "identity") for person, n in frames.items()}

    train = counts("tracks_train_info.mat", "track_train_info")
    test = counts("tracks_test_info.mat", "track_test_info")
    assert (len(train), sum(train.values()), train[5]) == (625, 85_354, 3_774)
    assert (test.pop(0), test.pop(-1)) == (24_624, 3_897)
    assert (len(test), sum(test.values()), test[272]) == (634, 85_372, 3_874)
