"""Hostile media, the fast form: some eighty clips, as many pictures, each with the checks and the controls of the full form."""

from __future__ import annotations

import pytest

from pipeline.base.config import AudioConfig
from pipeline.features import audio
from tests.torture import media_child, media_fuzz, torture_media
from tests.torture.media_trial import CAP, HANG, Result, complaints
from tests.torture.torture_media import CLIP, PICTURE, cuts, foreign, in_shards, reasons, survived


def test_hostile_clips_are_used_or_listed_and_harm_nobody(tmp_path):
    laid, _ = torture_media.clips(tmp_path / "clips", 32, large=False)
    figure, results = survived(laid.jobs("clip"), tmp_path / "alone", CLIP)
    assert figure.good(), figure
    figure = torture_media.through_dubbing([(laid, 2)], reasons(results), tmp_path / "dub", inside=True)
    assert figure.good(), figure


def test_hostile_pictures_are_packed_or_listed_and_harm_nobody(tmp_path):
    laid, _ = torture_media.pictures(tmp_path / "pictures", 36, large=False)
    jobs = [*laid.jobs("shown"), *laid.jobs("picture"), *foreign(tmp_path / "foreign"), *in_shards(laid)]  # controls are of the first kind
    figure, results = survived(jobs, tmp_path / "alone", PICTURE)
    assert figure.good(), figure
    results = results[len(laid.files) : 2 * len(laid.files)]
    figure = torture_media.through_packing([(laid, 2)], reasons(results), tmp_path / "pack", inside=True)
    assert figure.good(), figure
    figure = torture_media.through_the_loader(laid, tmp_path / "load", inside=True)
    assert figure.good(), figure


def test_cut_clips_are_found_and_whole_ones_stay(tmp_path):
    made = list(cuts(3, 2, tmp_path))
    assert made and all(figure.good() for figure in made), made


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
GOOD = Result("a file", "clip", "unreadable", 0.1, 10.0, 0.0, "why")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"outcome": "used", "detail": ""}, ""),
        ({"outcome": "odd"}, "odd"),
        ({"detail": ""}, "no detail"),
        ({"detail": "a\nb"}, "more than one line"),
        ({"seconds": HANG + 0.1}, "5.1 s"),
        ({"megabytes": CAP + 1}, "257 MB"),
        ({"decoder": CAP + 1}, "257 MB"),
        ({"outcome": "died -11"}, "died -11"),
        ({"kind": "picture", "outcome": "silent"}, "silent"),
        ({"kind": "tar", "outcome": "used"}, "taken for good"),
        ({"kind": "picture", "outcome": "used", "loader": "sample media: frame 7 (frames.check)", "check": ""}, "lets it pass"),
        ({"kind": "picture", "outcome": "used", "loader": "sample media: frame 7 (frames.check)", "check": "unreadable"}, ""),
        ({"kind": "picture", "outcome": "used", "loader": "RuntimeError", "check": "unreadable"}, "does not name the frame"),
    ],
)
def test_what_is_complained_about(changes, said):
    fields = {name: getattr(GOOD, name) for name in GOOD.__slots__}
    found = complaints([Result(**{**fields, **changes})])
    assert (not said and found == []) or said in found[0]


def test_the_same_seed_gives_the_same_files():
    goods = [b"one clip" * 300, b"another" * 400]
    made = [list(media_fuzz.fuzzed(40, goods, media_fuzz.ANY, name)) for name in ("a", "a", "b")]
    assert made[0] == made[1] != made[2]


def test_a_variant_is_broken_only_where_it_is_asked_for(tmp_path):
    before = audio.judge
    with media_child.BROKEN["takes cut clips"]():
        assert audio.judge(1.0, -20.0, 2.0, AudioConfig(), True) == ("", "")
    assert audio.judge is before and audio.judge(1.0, -20.0, 2.0, AudioConfig(), True)[0] == "truncated"
