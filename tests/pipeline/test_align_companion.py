"""Who hears what: needs, policies, quarantine and replacement, on tables and clips made here and on real ones."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import soundfile

from pipeline.align_companion import align, main
from pipeline.base.build import build
from pipeline.base.config import CompanionConfig, VoicesConfig
from pipeline.base.errors import AllocationError, ConfigError, SourceError
from pipeline.base.seeds import rng
from pipeline.base.tables import ALIGNMENT, ITEMS, PROBES, SPLIT, TRACKLETS, read, read_meta, table, write
from pipeline.sources.common_voice import read_items

RATE = 8000


def companion(**alignment: Any) -> CompanionConfig:
    return build(CompanionConfig, {"alignment": alignment})


def tracklets(*lengths: tuple[str, str, int], kind: str = "person") -> pa.Table:
    """(tracklet, identity, frames)."""
    rows = [
        {"tracklet": t, "dataset": "made", "identity": who, "kind": kind, "camera": 0, "frames": [f"{t}/{k:04d}.jpg" for k in range(n)]}
        for t, who, n in lengths
    ]
    return table(rows, TRACKLETS)


def split(roles: dict[str, str]) -> pa.Table:
    return table([{"tracklet": t, "role": role, "label": 0 if role == "train" else -1} for t, role in roles.items()], SPLIT)


def training(made: pa.Table) -> list[pa.Table]:
    return [split(dict.fromkeys(made.column("tracklet").to_pylist(), "train"))]


def item(owner: str, order: int, rank: int = 0, **other: Any) -> dict[str, Any]:
    row = {"item": f"{owner}_{order}", "kind": "audio", "owner": owner, "owner_order": rank, "order": order, "path": f"{owner}_{order}.wav"}
    return {**row, "start": None, "seconds": None, "bytes": 1, "first": None, "last": None, **other}


def speak(path: Path, seconds: float = 0.6, level: float = 0.1) -> None:
    soundfile.write(path, level * rng(0, path.name).standard_normal(round(seconds * RATE)), RATE, subtype="FLOAT")


def voices(root: Path, **clips: int) -> pa.Table:
    """Speakers with so many clips each, written to `root`."""
    rows = [item(owner, k, rank) for rank, (owner, count) in enumerate(clips.items()) for k in range(count)]
    for row in rows:
        speak(root / row["path"])
    return table(rows, ITEMS)


def heard(rows: list[dict[str, Any]]) -> list[tuple[str, int, int, str]]:
    return sorted((r["tracklet"], r["first"], r["last"], r["item"]) for r in rows)


# --- id_speaker ------------------------------------------------------------------------------------------------------


def test_one_speaker_per_identity_and_every_clip_once(tmp_path):
    made = tracklets(("a1", "a", 8), ("a2", "a", 6), ("b1", "b", 5))
    rows, probes, meta = align(made, training(made), voices(tmp_path, x=1, y=3), tmp_path, companion(), 0, 2)
    assert heard(rows) == [("a1", 0, 5, "y_0"), ("a1", 6, 7, "y_1"), ("a2", 0, 5, "y_2"), ("b1", 0, 4, "x_0")]
    assert {(r["seconds"], r["start"]) for r in rows} == {(0.6, None)}
    assert len(probes) == 4
    assert all(p["usable"] for p in probes)
    expected = {
        "policy": "id_speaker",
        "oracle": False,
        "label_derived": True,
        "test": False,
        "unserved": [],
        "dubbed": ["train"],
        "reused": [],
        "run": 6,
    }
    assert expected.items() <= meta.items()
    assert meta["counts"] == {"tracklets": 3, "rows": 4, "items": 4, "owners": 2, "probed": 4, "quarantined": {}}


def test_only_clips_that_would_be_used_are_decoded(tmp_path):
    made = tracklets(("a1", "a", 6))
    items = voices(tmp_path, x=5)
    (tmp_path / "x_3.wav").write_bytes(b"broken")
    _, probes, _ = align(made, training(made), items, tmp_path, companion(), 0, 1)
    assert [p["item"] for p in probes] == ["x_0"]


def test_a_quarantined_clip_is_replaced_by_the_next_one(tmp_path):
    made = tracklets(("a1", "a", 18))
    items = voices(tmp_path, x=6)
    (tmp_path / "x_0.wav").unlink()
    speak(tmp_path / "x_2.wav", level=0.0)
    speak(tmp_path / "x_3.wav", seconds=0.2)
    rows, probes, meta = align(made, training(made), items, tmp_path, companion(), 0, 2)
    assert [r["item"] for r in rows] == ["x_1", "x_4", "x_5"]
    assert {p["item"]: p["reason"] for p in probes if not p["usable"]} == {"x_0": "missing", "x_2": "silent", "x_3": "short"}
    assert meta["counts"]["quarantined"] == {"missing": 1, "short": 1, "silent": 1}


def test_a_claimed_length_that_is_not_there_is_quarantined(tmp_path):
    made = tracklets(("a1", "a", 6))
    for k in range(2):
        speak(tmp_path / f"x_{k}.wav")
    items = table([item("x", 0, seconds=0.8), item("x", 1, seconds=0.6)], ITEMS)
    rows, probes, _ = align(made, training(made), items, tmp_path, companion(), 0, 1)
    assert [r["item"] for r in rows] == ["x_1"]
    assert probes[0]["reason"] == "truncated"
    assert probes[0]["detail"] == "0.600 s decoded, 0.800 s claimed"


def test_a_speaker_left_with_too_few_clips_is_matched_again(tmp_path):
    """'a' needs 2 and first gets y (2 clips), 'b' needs 1 and gets x. One clip of y is broken: y now suits 'b' only."""
    made = tracklets(("a1", "a", 12), ("b1", "b", 6))
    items = voices(tmp_path, x=1, y=2, z=3)
    (tmp_path / "y_0.wav").write_bytes(b"broken")
    rows, probes, _ = align(made, training(made), items, tmp_path, companion(), 0, 2)
    assert heard(rows) == [("a1", 0, 5, "z_0"), ("a1", 6, 11, "z_1"), ("b1", 0, 5, "x_0")]
    assert {p["item"] for p in probes} == {"x_0", "y_0", "y_1", "z_0", "z_1"}


def test_a_speaker_who_cannot_suffice_any_more_is_not_decoded_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.align_companion.BATCH", 2)
    made = tracklets(("a1", "a", 36))
    items = voices(tmp_path, x=6, y=8)
    for name in ("x_1", "y_0"):
        (tmp_path / f"{name}.wav").write_bytes(b"broken")
    rows, probes, _ = align(made, training(made), items, tmp_path, companion(), 0, 2)
    assert [r["item"] for r in rows] == [f"y_{k}" for k in range(1, 7)]
    assert [p["item"] for p in probes] == ["x_0", "x_1", *(f"y_{k}" for k in range(7))]


def test_everybody_unserved_is_listed_with_what_would_help(tmp_path, capsys):
    made = tracklets(("a1", "a", 18), ("b1", "b", 60), ("c1", "c", 6))
    with pytest.raises(AllocationError) as error:
        align(made, training(made), voices(tmp_path, x=2, y=1), tmp_path, companion(), 0, 1)
    text = str(error.value)
    assert "2 of 3 identities" in text
    assert "b needs 10, best has 2; a needs 3, best has 2" in text
    assert "companions.<name>.alignment.reuse: true" in text
    assert "2 there are for 3 identities" in text
    assert "\n" not in text
    assert "b needs 10" in capsys.readouterr().out


def test_reuse_lets_clips_repeat_and_says_whose(tmp_path):
    made = tracklets(("a1", "a", 30), ("b1", "b", 6))
    items = voices(tmp_path, x=3, y=1)
    (tmp_path / "x_1.wav").write_bytes(b"broken")
    rows, _, meta = align(made, training(made), items, tmp_path, companion(reuse=True), 0, 1)
    assert [r["item"] for r in rows if r["tracklet"] == "a1"] == ["x_0", "x_2", "x_0", "x_2", "x_0"]
    assert meta["reused"] == [{"identity": "a", "needs": 5, "clips": 2, "owner": "x"}]


def test_reuse_does_not_share_a_speaker(tmp_path):
    made = tracklets(("a1", "a", 6), ("b1", "b", 6))
    with pytest.raises(AllocationError, match=r"b needs 1, no speaker left.*more speakers than the 1"):
        align(made, training(made), voices(tmp_path, x=9), tmp_path, companion(reuse=True), 0, 1)


def test_no_usable_clip_at_all_ends(tmp_path):
    made = tracklets(("a1", "a", 6))
    items = voices(tmp_path, x=2, y=2)
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    for policy in ("id_speaker", "shuffled", "random_clip", "single_speaker"):
        for reuse in (False, True):
            with pytest.raises(AllocationError):
                align(made, training(made), items, tmp_path, companion(policy=policy, reuse=reuse), 0, 1)


def test_an_empty_filter_is_refused_before_anything_is_decoded(tmp_path):
    made = tracklets(("a1", "a", 6))
    config = build(CompanionConfig, {"audio": {"bands": 128, "high_hz": 8000}})
    with pytest.raises(ConfigError, match="mel band 3"):
        align(made, training(made), voices(tmp_path, x=1), tmp_path, config, 0, 1)


def test_settings_of_tokens_are_checked_before_anything_is_decoded(tmp_path):
    made = tracklets(("a1", "a", 6))
    items = voices(tmp_path, x=1)
    (tmp_path / "x_0.wav").unlink()
    config = build(CompanionConfig, {"kind": "audio_tokens", "tokens": {"encoder": "precomputed"}})
    with pytest.raises(ConfigError, match=r"tokens\.store is empty"):
        align(made, training(made), items, tmp_path, config, 0, 1)
    speak(tmp_path / "x_0.wav")
    silent = build(CompanionConfig, {"kind": "audio_tokens", "audio": {"bands": 128, "high_hz": 8000}})  # kind 'audio' refuses that bank
    assert align(made, training(made), items, tmp_path, silent, 0, 1)[2]["kind"] == "audio_tokens"


# --- who is dubbed ---------------------------------------------------------------------------------------------------


def test_test_identities_distractors_and_junk_are_not_dubbed(tmp_path):
    persons = tracklets(("a1", "a", 6), ("b1", "b", 6), ("c1", "c", 6), ("d1", "d", 6))
    made = table(
        persons.to_pylist()
        + tracklets(("z1", "0000", 6), kind="distractor").to_pylist()
        + tracklets(("j1", "00-1", 6), kind="junk").to_pylist(),
        TRACKLETS,
    )
    first = split({"a1": "train", "b1": "query", "c1": "gallery", "d1": "unused", "z1": "gallery", "j1": "junk"})
    second = split({"a1": "gallery", "b1": "train", "c1": "query", "d1": "unused", "z1": "gallery", "j1": "junk"})
    items = voices(tmp_path, v=1, w=1, x=1, y=1, z=1)

    def dubbed(splits: list[pa.Table], **settings: Any) -> tuple[list[str], dict[str, Any]]:
        rows, _, meta = align(made, splits, items, tmp_path, companion(**settings), 0, 1)
        assert len({r["owner"] for r in rows}) == len(rows)  # train and test never share a speaker
        return sorted(r["tracklet"] for r in rows), meta

    assert dubbed([first])[0] == ["a1"]
    assert dubbed([first, second])[0] == ["a1", "b1"]
    names, meta = dubbed([first], oracle_test_audio=True)
    assert names == ["a1", "b1", "c1"]
    assert (meta["oracle"], meta["test"], meta["dubbed"]) == (True, True, ["gallery", "query", "train"])
    assert meta["label_derived"]
    with pytest.raises(AllocationError, match="nobody to dub"):
        dubbed([split({"a1": "query"})])


# --- scope -----------------------------------------------------------------------------------------------------------


def test_runs_over_an_identity_cross_tracklets_and_share_the_clip(tmp_path):
    made = tracklets(("a1", "a", 4), ("a2", "a", 7))
    items = voices(tmp_path, x=2)
    rows, _, meta = align(made, training(made), items, tmp_path, companion(group_scope="identity"), 0, 1)
    assert heard(rows) == [("a1", 0, 3, "x_0"), ("a2", 0, 1, "x_0"), ("a2", 2, 6, "x_1")]
    assert meta["group_scope"] == "identity"
    with pytest.raises(AllocationError, match="a needs 3, best has 2"):
        align(made, training(made), items, tmp_path, companion(), 0, 1)


def test_scope_identity_asks_for_one_clip_more_than_it_uses(tmp_path):
    made = tracklets(("a1", "a", 12))
    with pytest.raises(AllocationError, match="a needs 3, best has 2"):
        align(made, training(made), voices(tmp_path, x=2), tmp_path, companion(group_scope="identity"), 0, 1)


# --- controls --------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    made = tracklets(*((f"{who}{k}", who, 18) for who in "abcd" for k in range(2)))
    return made, training(made), voices(tmp_path, w=8, x=7, y=6, z=9), tmp_path


def test_shuffled_packs_what_id_speaker_packs(many):
    """The control happens at load time, where the identities can be permuted anew in each epoch (tests/shards/test_loader.py)."""
    dubbed, _, _ = align(*many, companion(), 0, 1)
    mixed, _, meta = align(*many, companion(policy="shuffled"), 0, 1)
    assert mixed == dubbed
    assert (meta["policy"], meta["label_derived"]) == ("shuffled", True)


def test_random_clip_draws_only_usable_clips(many):
    _, _, _, root = many
    for path in sorted(root.glob("z_*.wav")):
        path.write_bytes(b"broken")
    rows, probes, meta = align(*many, companion(policy="random_clip"), 0, 2)
    assert len(rows) == 24
    assert "z" not in {r["owner"] for r in rows}
    assert meta["counts"]["quarantined"].keys() == {"unreadable"}
    assert {r["item"] for r in rows} <= {p["item"] for p in probes if p["usable"]}
    assert heard(rows) == heard(align(*many, companion(policy="random_clip"), 0, 1)[0])


def test_single_speaker_is_the_one_with_most_clips_and_cycles(many):
    rows, _, meta = align(*many, companion(policy="single_speaker"), 0, 1)
    assert [r["item"] for r in rows] == [f"z_{k % 9}" for k in range(24)]
    assert meta["speaker"] == "z"


def test_silence_and_noise_need_no_file_and_say_nothing_of_the_identity(many):
    made, splits, items, root = many
    for policy, names in (("silence", ["silence"] * 3), ("noise", ["noise_0", "noise_1", "noise_2"])):
        rows, probes, meta = align(made, splits, items.slice(0, 0), root, companion(policy=policy, group_scope="identity"), 0, 1)
        assert [r["item"] for r in rows] == names * 8
        assert {(r["owner"], r["path"], r["seconds"]) for r in rows} == {("", "", 5.0)}
        assert (probes, meta["label_derived"], meta["oracle"], meta["test"]) == ([], False, False, policy == "silence")


def test_everybody_hears_the_same_silence(tmp_path):
    """Also who is in no split, distractors and junk: at test, a network that is used to hearing something hears this."""
    kinds = {"a1": "person", "b1": "person", "c1": "person", "z1": "distractor", "j1": "junk"}
    made = table([row for name, kind in kinds.items() for row in tracklets((name, name[0], 7), kind=kind).to_pylist()], TRACKLETS)
    splits = [split({"a1": "train", "b1": "query", "z1": "gallery", "j1": "junk"})]
    nobody = table([], ITEMS)
    rows, _, meta = align(made, splits, nobody, tmp_path, companion(policy="silence"), 0, 1)
    assert heard(rows) == [run for name in sorted(kinds) for run in ((name, 0, 5, "silence"), (name, 6, 6, "silence"))]
    assert (meta["test"], meta["oracle"], meta["label_derived"], meta["dubbed"]) == (True, False, False, [])
    rows, _, meta = align(made, splits, nobody, tmp_path, companion(policy="silence", oracle_test_audio=True), 0, 1)
    assert (len(rows), meta["test"], meta["oracle"]) == (10, True, False)  # nothing in silence tells a label


def test_noise_at_test_does_not_tell_who_is_a_distractor(tmp_path):
    """With oracle_test_audio everybody hears noise by the place of the run alone; without it only training hears."""
    kinds = {"a1": "person", "b1": "person", "c1": "person", "z1": "distractor", "j1": "junk"}
    made = table([row for name, kind in kinds.items() for row in tracklets((name, name[0], 7), kind=kind).to_pylist()], TRACKLETS)
    splits = [split({"a1": "train", "b1": "query", "z1": "gallery", "j1": "junk"})]  # c1 is in no split
    nobody = table([], ITEMS)
    rows, _, meta = align(made, splits, nobody, tmp_path, companion(policy="noise", oracle_test_audio=True), 0, 1)
    assert heard(rows) == [run for name in sorted(kinds) for run in ((name, 0, 5, "noise_0"), (name, 6, 6, "noise_1"))]
    assert (meta["test"], meta["oracle"], meta["label_derived"], meta["dubbed"]) == (True, False, False, [])
    rows, _, meta = align(made, splits, nobody, tmp_path, companion(policy="noise"), 0, 1)
    assert heard(rows) == [("a1", 0, 5, "noise_0"), ("a1", 6, 6, "noise_1")]
    assert (meta["test"], meta["dubbed"]) == (False, ["train"])


@pytest.mark.parametrize("broken", [(), ("x_0", "x_1", "z_0")])
@pytest.mark.parametrize("fit", ["best", "largest_first"])
@pytest.mark.parametrize("order", ["need", "identity"])
@pytest.mark.parametrize("policy", ["id_speaker", "shuffled"])
def test_test_identities_get_the_speakers_that_training_leaves(tmp_path, policy, order, fit, broken):
    """'a' (test) needs 3 clips and comes first by need and by name; 'b' (training) needs 2 and is served before it."""
    made = tracklets(("a1", "a", 12), ("a2", "a", 6), ("b1", "b", 12))
    roles = split({"a1": "query", "a2": "gallery", "b1": "train"})
    items = voices(tmp_path, x=3, y=4, z=5)
    for name in broken:
        (tmp_path / f"{name}.wav").write_bytes(b"broken")

    def rows(roles: pa.Table, oracle: bool) -> list[dict[str, Any]]:
        config = companion(policy=policy, order=order, fit=fit, oracle_test_audio=oracle)
        return align(made, [roles], items, tmp_path, config, 0, 2)[0]

    def owners(rows: list[dict[str, Any]], identity: str) -> set[str]:
        return {row["owner"] for row in rows if row["tracklet"][0] == identity}

    plain, oracle = rows(roles, False), rows(roles, True)
    assert oracle[: len(plain)] == plain and {row["tracklet"] for row in plain} == {"b1"}
    assert [len(owners(oracle, who)) for who in "ab"] == [1, 1]  # query and gallery share the voice
    assert not owners(oracle, "a") & owners(plain, "b")
    assert len({row["item"] for row in oracle}) == 5
    together = rows(training(made)[0], False)  # negative control: then the test identity has the voice that 'b' trains with
    assert owners(together, "a") == owners(plain, "b")


@pytest.mark.parametrize("policy", ["random_clip", "single_speaker", "noise"])
def test_other_controls_train_on_the_same_rows_with_oracle(many, policy):
    made, _, items, root = many
    for path in sorted(root.glob("z_*.wav"))[::2]:
        path.write_bytes(b"broken")
    roles = [split({f"{who}{k}": "gallery" if who in "ac" else "train" for who in "abcd" for k in range(2)})]
    plain, oracle = (
        align(made, roles, items, root, companion(policy=policy, oracle_test_audio=wanted), 0, 1)[0] for wanted in (False, True)
    )
    assert (len(plain), len(oracle)) == (12, 24)
    assert heard([row for row in oracle if row["tracklet"][0] in "bd"]) == heard(plain)
    if policy == "single_speaker":
        assert {row["owner"] for row in oracle} == {"z"}


def test_a_tracklet_of_training_keeps_its_voice_where_its_identity_is_tested_too(tmp_path):
    """A list of files may do that: at test the identity then has another voice, as everybody has."""
    made = tracklets(("a1", "a", 6), ("a2", "a", 6), ("a3", "a", 6))
    roles = split({"a1": "train", "a2": "query", "a3": "gallery"})
    rows, _, _ = align(made, [roles], voices(tmp_path, x=1, y=2), tmp_path, companion(oracle_test_audio=True), 0, 1)
    assert heard(rows) == [("a1", 0, 5, "x_0"), ("a2", 0, 5, "y_0"), ("a3", 0, 5, "y_1")]


def test_unserved_identities_of_either_phase_are_listed(tmp_path):
    made = tracklets(("a1", "a", 18), ("b1", "b", 12), ("c1", "c", 24))
    items = voices(tmp_path, x=2, y=1)
    config = companion(oracle_test_audio=True)
    with pytest.raises(AllocationError) as error:
        align(made, [split({"a1": "query", "b1": "train", "c1": "gallery"})], items, tmp_path, config, 0, 1)
    text = str(error.value)
    assert text.startswith(
        "2 of 2 test identities have no speaker with enough usable clips (training has taken 1 of the speakers, 0 clips quarantined): "
        "c needs 4, best has 1; a needs 3, best has 1. "
    )
    assert "more speakers than the 1 left for 2 identities" in text and "\n" not in text
    with pytest.raises(AllocationError, match=r"^1 of 1 identities have no speaker .* \(0 clips quarantined\): a needs 3, best has 2\. "):
        align(made, [split({"a1": "train", "b1": "query"})], items, tmp_path, config, 0, 1)


def test_reused_clips_of_both_phases_are_noted(tmp_path):
    made = tracklets(("a1", "a", 18), ("b1", "b", 12))
    roles = split({"a1": "train", "b1": "query"})
    _, _, meta = align(made, [roles], voices(tmp_path, x=2, y=1), tmp_path, companion(oracle_test_audio=True, reuse=True), 0, 1)
    assert [(r["identity"], r["owner"], r["needs"], r["clips"]) for r in meta["reused"]] == [("a", "x", 3, 2), ("b", "y", 2, 1)]


def test_who_only_tests_is_dubbed_without_training(tmp_path):
    made = tracklets(("a1", "a", 6), ("b1", "b", 6))
    roles = split({"a1": "query", "b1": "gallery"})
    rows, _, _ = align(made, [roles], voices(tmp_path, x=1, y=1), tmp_path, companion(oracle_test_audio=True), 0, 1)
    assert heard(rows) == [("a1", 0, 5, "x_0"), ("b1", 0, 5, "y_0")]


@pytest.mark.parametrize(("policy", "oracle"), [("id_speaker", True), ("shuffled", True), ("random_clip", True), ("noise", False)])
def test_oracle_is_label_derived_sound_at_test(tmp_path, policy, oracle):
    made = tracklets(("a1", "a", 6), ("b1", "b", 6))
    splits = [split({"a1": "train", "b1": "query"})]
    items = voices(tmp_path, x=1, y=1)
    for wanted, who in ((False, ["a1"]), (True, ["a1", "b1"])):
        rows, _, meta = align(made, splits, items, tmp_path, companion(policy=policy, oracle_test_audio=wanted), 0, 1)
        assert sorted(row["tracklet"] for row in rows) == who
        assert (meta["test"], meta["oracle"]) == (wanted, wanted and oracle)


# --- recorded --------------------------------------------------------------------------------------------------------


def own(tracklet: str, order: int, first: int | None, last: int | None, **other: Any) -> dict[str, Any]:
    return item(tracklet, order, first=first, last=last, **other)


def test_recorded_sound_follows_its_ranges(tmp_path):
    made = tracklets(("t1", "a", 9), ("t2", "b", 4), ("t3", "c", 4))
    ranges = [("t1", 0, 0, 3, 0.0, 1.0), ("t1", 1, 4, 8, 1.0, 0.7), ("t2", 0, None, None, None, None)]
    rows = [own(t, k, first, last, path="all.wav", start=start, seconds=length) for t, k, first, last, start, length in ranges]
    items = table(rows, ITEMS)
    speak(tmp_path / "all.wav", 2.0)
    rows, _, meta = align(made, training(made), items, tmp_path, companion(policy="recorded"), 0, 1)
    assert heard(rows) == [("t1", 0, 3, "t1_0"), ("t1", 4, 8, "t1_1"), ("t2", 0, 3, "t2_0")]
    assert [(r["start"], r["seconds"]) for r in rows] == [(0.0, 1.0), (1.0, 0.7), (None, 2.0)]
    assert (meta["label_derived"], meta["oracle"], meta["test"]) == (False, False, True)
    assert (meta["tracklets_without_sound"], meta["runs_replaced"]) == (1, 0)


def test_recorded_sound_that_is_broken_is_replaced_by_its_neighbour(tmp_path):
    made = tracklets(("t1", "a", 6), ("t2", "b", 2))
    items = table([own("t1", k, 2 * k, 2 * k + 1) for k in range(3)] + [own("t2", 0, 0, 1)], ITEMS)
    for name in ("t1_0", "t1_2"):
        speak(tmp_path / f"{name}.wav")
    rows, probes, meta = align(made, training(made), items, tmp_path, companion(policy="recorded"), 0, 1)
    assert heard(rows) == [("t1", 0, 1, "t1_0"), ("t1", 2, 3, "t1_0"), ("t1", 4, 5, "t1_2")]
    assert (meta["tracklets_without_sound"], meta["runs_replaced"], len(probes)) == (1, 1, 4)


def test_frames_between_recorded_ranges_are_silent_and_counted(tmp_path):
    made = tracklets(("t1", "a", 9))
    items = table([own("t1", 0, 1, 3), own("t1", 1, 5, 6)], ITEMS)
    for name in ("t1_0", "t1_1"):
        speak(tmp_path / f"{name}.wav")
    rows, _, meta = align(made, training(made), items, tmp_path, companion(policy="recorded"), 0, 1)
    assert heard(rows) == [("t1", 1, 3, "t1_0"), ("t1", 5, 6, "t1_1")]
    assert meta["frames_without_sound"] == 4  # 0, 4, 7, 8


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(0, 4), (4, 8)], r"4\.\.8; expected one within 5\.\.8"),
        ([(0, 9)], r"0\.\.9; expected one within 0\.\.8"),
        ([(3, 2)], r"3\.\.2; expected one within 0\.\.8"),
    ],
)
def test_recorded_ranges_do_not_overlap_or_leave_the_tracklet(tmp_path, ranges, message):
    made = tracklets(("t1", "a", 9))
    items = table([own("t1", k, first, last) for k, (first, last) in enumerate(ranges)], ITEMS)
    with pytest.raises(SourceError, match=message):
        align(made, training(made), items, tmp_path, companion(policy="recorded"), 0, 1)


def test_recorded_sound_of_an_unknown_tracklet_is_an_error(tmp_path):
    made = tracklets(("t1", "a", 9))
    with pytest.raises(SourceError, match="'t9'"):
        align(made, [], table([own("t9", 0, None, None)], ITEMS), tmp_path, companion(policy="recorded"), 0, 1)


# --- the step --------------------------------------------------------------------------------------------------------


def test_the_step_gives_the_same_bytes_whatever_the_order_and_the_threads(many, tmp_path, capsys):
    made, splits, items, root = many
    (root / "z_1.wav").write_bytes(b"broken")
    write(tmp_path / "t.parquet", made, TRACKLETS, {"dataset": "d"})
    write(tmp_path / "s.parquet", splits[0], SPLIT)
    seen = set()
    for turn in (0, 1):
        rows = items.to_pylist()
        random.Random(turn).shuffle(rows)
        write(tmp_path / "i.parquet", pa.Table.from_pylist(rows, ITEMS.arrow), ITEMS, {"table": "made"})
        arguments = [str(tmp_path / f"a{turn}.parquet"), "--probes", str(tmp_path / f"p{turn}.parquet"), "--tracklets"]
        arguments += [str(tmp_path / "t.parquet"), "--splits", str(tmp_path / "s.parquet"), "--items", str(tmp_path / "i.parquet")]
        arguments += ["--root", str(root), "--seed", "3", "--threads", str(turn + 1)]
        main([*arguments, "--config", json.dumps({"alignment": {"policy": "shuffled"}})])
        seen.add((tmp_path / f"a{turn}.parquet").read_bytes() + (tmp_path / f"p{turn}.parquet").read_bytes())
    assert len(seen) == 1
    assert (
        "25 clips probed, quarantined: 1 unreadable; 4 speakers, 24 items for 24 runs of 8 tracklets (shuffled)" in capsys.readouterr().out
    )
    meta = read_meta(tmp_path / "a0.parquet")
    assert (meta["policy"], meta["seed"], meta["items"]["table"]) == ("shuffled", 3, "made")
    assert str(tmp_path) not in json.dumps(meta)
    assert read(tmp_path / "a0.parquet", ALIGNMENT).num_rows == 24
    assert read(tmp_path / "p0.parquet", PROBES).num_rows == 25


# --- real tables -----------------------------------------------------------------------------------------------------


def common_voice(folder: Path, name: str) -> pa.Table:
    return read_items(folder, VoicesConfig(table=name))[0]


def real_mars(folder: Path) -> pa.Table:
    frames = defaultdict(list)
    for path in sorted(folder.glob("bbox_train/*/*.jpg")):
        frames[path.name[:11]].append(str(path.relative_to(folder)))
    rows = [
        {"tracklet": t, "dataset": "mars", "identity": t[:4], "kind": "person", "camera": int(t[5]) - 1, "frames": f}
        for t, f in frames.items()
    ]
    return table(rows, TRACKLETS)


@pytest.mark.real_data
def test_three_english_speakers_serve_three_mars_persons_in_exactly_one_way(real_data):
    """Counted over the identity the persons need 44, 9 and 6 clips and the speakers have 47, 9 and 6; per tracklet 48, 10 and 6."""
    made = real_mars(real_data / "real_mini" / "mars")
    folder = real_data / "common_voice_mini" / "en"
    items = common_voice(folder, "train.tsv")
    arguments = (made, training(made), items, folder)
    counts = {owner: items.column("owner").to_pylist().count(owner) for owner in set(items.column("owner").to_pylist())}
    for order, fit in (("need", "best"), ("need", "largest_first"), ("identity", "largest_first")):
        rows, _, meta = align(*arguments, companion(group_scope="identity", order=order, fit=fit), 0, 2)
        pairs = {(r["tracklet"][:4], counts[r["owner"]]) for r in rows}
        assert pairs == {("0001", 47), ("0003", 9), ("0007", 6)}
        assert sum(r["last"] - r["first"] + 1 for r in rows) == 339
        assert meta["counts"]["items"] == 44 + 9 + 5  # 30 frames are five runs
        assert meta["counts"]["quarantined"] == {}
    with pytest.raises(AllocationError) as error:
        align(*arguments, companion(), 0, 2)
    assert "1 of 3 identities" in str(error.value)  # 0003 could then have the speaker that is too small for 0001
    assert "0001 needs 48, best has 47" in str(error.value)
    rows, _, meta = align(*arguments, companion(reuse=True), 0, 2)
    assert [(r["identity"], r["needs"], r["clips"]) for r in meta["reused"]] == [("0001", 48, 47), ("0003", 10, 9)]
    assert {(r["tracklet"][:4], counts[r["owner"]]) for r in rows} == {("0001", 47), ("0003", 9), ("0007", 6)}


@pytest.mark.real_data
def test_twi_and_persian_tables_serve_small_persons(real_data):
    made = tracklets(*((f"{who}1", who, 30) for who in "abc"))
    folder = real_data / "common_voice_mini" / "fa"
    items = common_voice(folder, "other.tsv")
    rows, probes, meta = align(made, training(made), items, folder, companion(), 0, 2)
    assert meta["counts"]["owners"] == 3
    assert {p["rate"] for p in probes} == {32000}
    assert len({r["item"] for r in rows}) == 15
    folder = real_data / "common_voice_mini" / "tw"
    items = common_voice(folder, "train.tsv")
    rows, probes, meta = align(made, training(made), items, folder, companion(policy="single_speaker"), 0, 2)
    assert (len(rows), len(probes), meta["counts"]["quarantined"]) == (15, 15, {})
    with pytest.raises(AllocationError, match="no speaker left"):
        align(made, training(made), items, folder, companion(), 0, 2)


@pytest.mark.real_data
def test_a_real_silent_clip_is_replaced(real_data):
    """common_voice_fa_37158825 is 2.6 s of nothing (-88 dBFS)."""
    folder = real_data / "common_voice_mini" / "fa"
    items = common_voice(folder, "other.tsv")
    rows = items.to_pylist()
    owner = next(r["owner"] for r in rows if r["item"] == "common_voice_fa_37158825")
    mine = table([{**r, "order": -r["order"]} for r in rows if r["owner"] == owner], ITEMS)  # it comes last: turn the order round
    made = tracklets(("a1", "a", 6 * (mine.num_rows - 1)))
    rows, probes, meta = align(made, training(made), mine, folder, companion(), 0, 1)
    assert meta["counts"]["quarantined"] == {"silent": 1}
    assert len(probes) == mine.num_rows
    assert "common_voice_fa_37158825" not in {r["item"] for r in rows}
