"""Matching against brute force and Hall's condition, runs and draws by hand; golden facts A1 and A2 (specs/dubbernet.md 11.4)."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations_with_replacement, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline import align_companion, read_items, read_split, read_tracklets
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
from pipeline.base.errors import AllocationError
from pipeline.base.seeds import rng
from pipeline.base.tables import ALIGNMENT, TRACKLETS, read, read_meta
from tests.pipeline.sources import trees
from tests.size import common_voice


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


def deficiency(wanted: Sequence[int], there: Sequence[int]) -> int:
    """How many identities no matching can serve: the largest excess of identities that need some number of clips over speakers that
    have it (Hall's condition where the sets of sufficient speakers are nested; the excess is the certificate)."""
    needed, have = np.sort(np.asarray(wanted)), np.sort(np.asarray(there))
    identities = len(needed) - np.searchsorted(needed, needed)
    speakers_there = len(have) - np.searchsorted(have, needed)
    return max(0, int((identities - speakers_there).max()))


def random_cases(count: int, largest: int = 6) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Needs and clips of up to so many identities and speakers, with many ties."""
    numbers = rng(0, "test", "cases")
    for _ in range(count):
        sizes = numbers.integers(1, largest + 1, size=2)
        yield tuple(numbers.integers(1, 6, sizes[0]).tolist()), tuple(numbers.integers(0, 7, sizes[1]).tolist())


def test_random_cases_serve_as_many_as_any_assignment_and_the_deficiency_says_how_many():
    verdicts = Counter()
    for wanted, there in random_cases(300, largest=4):
        found = match(needs(*wanted), speakers(*there))
        assert len(found.owners) == most_served(wanted, there) == len(wanted) - deficiency(wanted, there)
        assert len(found.owners) + len(found.unserved) == len(wanted)
        verdicts[len(found.unserved)] += 1
    assert len(verdicts) > 3  # all of them served, and some, one, two of them not


@pytest.mark.parametrize(("order", "fit"), list(product(("need", "identity"), ("best", "largest_first"))))
@pytest.mark.parametrize("reuse", [False, True])
def test_who_gets_whom_is_what_the_docstring_says_whatever_the_input_order(order, fit, reuse):
    """Against a plain loop: identities by falling need and name (or by name), the free speaker by clips and published order."""
    shuffle = random.Random(0)
    for wanted, there in random_cases(100):
        free = {speaker for speaker in speakers(*there) if speaker.clips}
        expected, without, repeated = {}, [], []
        for who, need in sorted(needs(*wanted).items(), key=lambda pair: (-pair[1], pair[0]) if order == "need" else pair[0]):
            enough = [speaker for speaker in free if speaker.clips >= need]
            most = max((speaker.clips for speaker in free), default=0)
            if not enough and not (reuse and free):
                without.append(Unserved(who, need, most))
                continue
            if not enough or fit == "largest_first":
                repeated += [] if enough else [who]
                enough = [speaker for speaker in free if speaker.clips == most]
            chosen = min(enough, key=lambda speaker: (speaker.clips, speaker.order))
            free.remove(chosen)
            expected[who] = chosen.owner
        mixed = shuffle.sample(speakers(*there), len(there))
        found = match(dict(shuffle.sample(list(needs(*wanted).items()), len(wanted))), mixed, order, fit, reuse)
        assert (found.owners, found.unserved, found.reused) == (expected, without, repeated)


def left_over(there: Sequence[Speaker], owners: Iterable[str]) -> list[int]:
    """How many free speakers have at least 1, 2, 3, ... clips."""
    taken = set(owners)
    return [sum(s.clips >= size for s in there if s.owner not in taken) for size in range(1, 8)]


def test_no_other_choice_that_serves_the_same_identities_leaves_more_speakers_of_any_size():
    wasteful = 0
    for wanted, there in random_cases(150, largest=5):
        everybody, voices = needs(*wanted), speakers(*there)
        found = match(everybody, voices)
        ours = left_over(voices, found.owners.values())
        for chosen in permutations(voices, len(found.owners)):
            if all(speaker.clips >= everybody[who] for who, speaker in zip(found.owners, chosen, strict=True)):
                theirs = left_over(voices, (speaker.owner for speaker in chosen))
                assert all(a >= b for a, b in zip(ours, theirs, strict=True))
        largest = match(everybody, voices, fit="largest_first")
        wasteful += largest.owners.keys() == found.owners.keys() and left_over(voices, largest.owners.values()) < ours
    assert wasteful > 10  # negative control: largest first leaves less


@pytest.mark.parametrize("kept", [1.0, 0.15, 0.01])
def test_at_full_size_as_many_are_served_as_halls_condition_allows(kept):
    """1,261 identities on 99,289 speakers, or on the part of them that cannot serve all; the published greedy is caught."""
    numbers = rng(0, "test", "full size")
    wanted = np.minimum(numbers.lognormal(4.6, 0.8, 1261), 3500).astype(int) + 1
    speaker_count = common_voice.SPEAKERS
    there = numbers.permutation(common_voice.sizes(common_voice.CLIPS, speaker_count))[: round(speaker_count * kept)]
    voices = [Speaker(f"spk_{k}", k, clips) for k, clips in enumerate(there.tolist())]
    everybody = {f"{k:04d}": need for k, need in enumerate(wanted.tolist())}
    found = match(everybody, voices)
    clips = {voice.owner: voice.clips for voice in voices}
    assert all(clips[owner] >= everybody[who] for who, owner in found.owners.items())
    assert len(set(found.owners.values())) == len(found.owners) == 1261 - len(found.unserved)
    assert len(found.unserved) == deficiency(wanted, there)
    assert (not found.unserved) == (kept == 1.0)
    greedy = match(everybody, voices, order="identity", fit="largest_first")
    assert len(greedy.unserved) > deficiency(wanted, there)


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


def test_serving_some_first_leaves_speakers_for_the_rest():
    """Whoever is matched first (training): the rest is served by who is left, if one matching of all could serve all."""
    served = {"best": 0, "largest_first": 0}
    possible = 0
    for wanted, there in product(product((1, 2, 3, 4), repeat=4), combinations_with_replacement((1, 2, 3, 4, 5), 5)):
        everybody = needs(*wanted)
        if match(everybody, speakers(*there)).unserved:
            continue
        possible += 1
        for fit in served:
            first = match({who: everybody[who] for who in "12"}, speakers(*there), fit=fit)
            left = [speaker for speaker in speakers(*there) if speaker.owner not in first.owners.values()]
            then = match({who: everybody[who] for who in "34"}, left, fit=fit)
            served[fit] += not (first.unserved or then.unserved)
    assert served["best"] == possible > served["largest_first"]  # negative control: largest first wastes speakers


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
    later = str(unserved_error(many[-2:], 5, 4, 3, AlignmentConfig(), spent=7))
    assert later.startswith(
        "2 of 5 test identities have no speaker with enough usable clips (training has taken 7 of the speakers, 3 clips quarantined): 0623 "
    )
    assert "more speakers than the 4 left for 5 identities" in later


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


# --- golden facts -----------------------------------------------------------------------------------------------------

TREE = {
    "bbox_train": ["0001C1T0001:8", "0001C2T0002:7", "0003C1T0001:13"],
    "bbox_test": ["00-1C1T0001:2", "0000C2T0001:7", "0002C1T0001:6", "0002C1T0002:5", "0002C2T0003:20", "0004C1T0001:5"],
}
"""Tracklets and their frames. Runs of 6 inside tracklets: 0001 needs 2 + 2 clips, 0003 needs 3, 0002 needs 1 + 1 + 4, 0004 needs 1."""
TABLES = {
    "track_train_info": [[1, 8, 1, 1], [9, 15, 1, 2], [16, 28, 3, 1]],
    "track_test_info": [[1, 2, -1, 1], [3, 9, 0, 2], [10, 15, 2, 1], [16, 20, 2, 1], [21, 40, 2, 2], [41, 45, 4, 1]],
}
QUERIES = [4, 5]
NEEDS = {"0001": 4, "0003": 3, "0002": 6, "0004": 1}
CLIPS = {"ann": 7, "bob": 5, "cat": 4, "dan": 1, "eve": 1}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MARS and a small Common Voice, as they are shipped."""
    folder = tmp_path_factory.mktemp("shipped")
    (folder / "mars").mkdir()
    trees.mars(folder / "mars", TREE, TABLES, QUERIES)
    (folder / "en" / "clips").mkdir(parents=True)
    lines = ["client_id\tpath\tsentence"]
    for speaker, count in CLIPS.items():
        for k in range(count):
            lines.append(f"{speaker}\t{speaker}_{k}.mp3\tx")
            noise = 0.1 * rng(0, speaker, k).standard_normal(9600)
            soundfile.write(folder / "en" / "clips" / f"{speaker}_{k}.mp3", noise, 16000)
    (folder / "en" / "train.tsv").write_text("\n".join(lines) + "\n")
    return folder


def allocate(shipped: Path, out: Path, **alignment: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All steps from folders to the manifest `out`/a.parquet: its rows, each with its identity, and its meta."""
    out.mkdir()
    data = json.dumps({"source": "mars", "splits": ["official"], "generated": True})
    mars = ["--dataset", "mars", "--root", str(shipped / "mars"), "--config", data]
    read_tracklets.main([f"{out}/t.parquet", *mars])
    read_split.main([f"{out}/s.parquet", *mars, "--split", "official", "--tracklets", f"{out}/t.parquet"])
    read_items.main([f"{out}/i.parquet", "--name", "voices", "--root", str(shipped / "en"), "--source", "common_voice"])
    tables = ["--tracklets", f"{out}/t.parquet", "--splits", f"{out}/s.parquet", "--items", f"{out}/i.parquet"]
    sound = ["--root", str(shipped / "en"), "--seed", "0", "--config", json.dumps({"alignment": alignment})]
    align_companion.main([f"{out}/a.parquet", "--probes", f"{out}/p.parquet", *tables, *sound])
    identity = {row["tracklet"]: row["identity"] for row in read(out / "t.parquet", TRACKLETS).to_pylist()}
    rows = [{**row, "identity": identity[row["tracklet"]]} for row in read(out / "a.parquet", ALIGNMENT).to_pylist()]
    return rows, read_meta(out / "a.parquet")


def speakers_of(rows: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Identity -> whom it hears."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["identity"], set()).add(row["item"].split("_")[0])
    return found


def test_a1_one_speaker_per_identity_and_one_identity_per_speaker(shipped, tmp_path):
    """Test identities too, on request: then the voices of training and test are those of different speakers."""
    rows, meta = allocate(shipped, tmp_path / "train")
    assert speakers_of(rows) == {"0001": {"cat"}, "0003": {"bob"}}  # the smallest that suffices, largest need first
    assert not meta["oracle"]
    rows, meta = allocate(shipped, tmp_path / "all", oracle_test_audio=True)
    assert speakers_of(rows) == {"0001": {"cat"}, "0002": {"ann"}, "0003": {"bob"}, "0004": {"dan"}}  # nobody twice
    assert meta["oracle"]


def test_a1_no_clip_twice_within_an_identity_unless_reused(shipped, tmp_path):
    rows, _ = allocate(shipped, tmp_path / "a", oracle_test_audio=True)
    assert {who: len({row["item"] for row in rows if row["identity"] == who}) for who in NEEDS} == NEEDS
    assert len({row["item"] for row in rows}) == len(rows) == sum(NEEDS.values())
    # runs of 3 frames: training needs 3 + 3 clips (0001, served by ann) and 5 (0003, bob), test 2 + 2 + 7 (0002) and 2 (0004)
    with pytest.raises(AllocationError, match=r"1 of 2 test identities .*: 0002 needs 11, best has 4\. "):
        allocate(shipped, tmp_path / "b", oracle_test_audio=True, run=3)
    rows, meta = allocate(shipped, tmp_path / "c", oracle_test_audio=True, run=3, reuse=True)
    assert speakers_of(rows) == {"0001": {"ann"}, "0002": {"cat"}, "0003": {"bob"}, "0004": {"dan"}}  # still one to one
    times = {who: sorted(Counter(row["item"] for row in rows if row["identity"] == who).values()) for who in NEEDS}
    assert times == {"0001": [1] * 6, "0002": [2, 3, 3, 3], "0003": [1] * 5, "0004": [2]}  # in turn
    assert sorted(reused["identity"] for reused in meta["reused"]) == ["0002", "0004"]


def test_a1_runs_never_cross_tracklets(shipped, tmp_path):
    """Every run is of one tracklet, six frames or the rest; with parity's scope a clip is heard on both sides of a border."""
    rows, _ = allocate(shipped, tmp_path / "ours", oracle_test_audio=True)
    for name, frames in (text.split(":") for half in TREE.values() for text in half if text[:4] in NEEDS):
        starts = range(0, int(frames), 6)
        expected = [(first, min(first + 6, int(frames)) - 1) for first in starts]
        assert [(row["first"], row["last"]) for row in rows if row["tracklet"] == name] == expected
    parity, _ = allocate(shipped, tmp_path / "parity", group_scope="identity")
    crossing = Counter(item for item, _ in {(row["item"], row["tracklet"]) for row in parity})
    assert max(Counter(item for item, _ in {(row["item"], row["tracklet"]) for row in rows}).values()) == 1
    assert max(crossing.values()) == 2  # negative control: 0001 has 8 + 7 frames


def test_a1_the_same_bytes_again_and_from_shuffled_listings(shipped, tmp_path, monkeypatch):
    names = ("t", "s", "i", "a", "p")
    allocate(shipped, tmp_path / "first", oracle_test_audio=True)
    allocate(shipped, tmp_path / "again", oracle_test_audio=True)
    real, orders = os.scandir, []

    class Shuffled:
        """A listing in another order than the file system's."""

        def __init__(self, path: str = ".") -> None:
            self.entries = sorted(real(path), key=lambda entry: entry.name)
            random.Random(len(orders)).shuffle(self.entries)
            orders.append([entry.name for entry in self.entries])

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    allocate(shipped, tmp_path / "shuffled", oracle_test_audio=True)
    assert sum(order != sorted(order) for order in orders) > 5  # the shuffle was felt
    for name in names:
        made = {(tmp_path / turn / f"{name}.parquet").read_bytes() for turn in ("first", "again", "shuffled")}
        assert len(made) == 1, name


def test_a1_a_rerun_with_another_setting_gives_other_bytes(shipped, tmp_path):
    """Negative control of the test above."""
    made = set()
    for number, settings in enumerate(({}, {"oracle_test_audio": True}, {"run": 8}, {"policy": "random_clip"})):
        allocate(shipped, tmp_path / str(number), **settings)
        made.add((tmp_path / str(number) / "a.parquet").read_bytes())
    assert len(made) == 4


@pytest.mark.real_data
def test_a2_needs_of_all_mars_identities(golden):
    """floor(N / 6) + 1 clips over all N frames of an identity, as the released scripts count."""
    loadmat = pytest.importorskip("scipy.io").loadmat

    def needs(half: str) -> dict[int, int]:
        frames: Counter[int] = Counter()
        for first, last, person, _ in loadmat(golden / "mars_info" / f"tracks_{half}_info.mat")[f"track_{half}_info"].tolist():
            frames[person] += last - first + 1
        return {person: clips_needed(n, -1, 6, "identity") for person, n in frames.items()}

    train, test = needs("train"), needs("test")
    assert (len(train), sum(train.values()), max(train.items(), key=lambda item: item[1])) == (625, 85_354, (5, 3_774))
    assert (test.pop(0), test.pop(-1)) == (24_624, 3_897)  # distractors and junk, who get no speaker
    assert (len(test), sum(test.values()), max(test.items(), key=lambda item: item[1])) == (634, 85_372, (272, 3_874))
