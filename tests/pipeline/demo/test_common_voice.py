"""The Common-Voice-like set: tables without quoting, clips that serve every identity, and one broken clip of each kind."""

from __future__ import annotations

import csv
import io
from collections import Counter

import numpy as np
import pytest
import soundfile

from pipeline.base.config import DemoConfig
from pipeline.demo import common_voice, ilidsvid, mars, prid2011

HEADER = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "variant",
    "locale",
    "segment",
]


def rows(root, name: str) -> list[dict[str, str]]:
    """A table read as released: tabs, no quoting."""
    lines = (root / f"{name}.tsv").read_text().split("\n")
    assert lines[-1] == "" and lines[0].split("\t") == HEADER
    cells = [line.split("\t") for line in lines[1:-1]]
    assert all(len(c) == 13 for c in cells)
    return [dict(zip(HEADER, c, strict=True)) for c in cells]


@pytest.fixture
def root(made):
    return made[0] / "common_voice/en"


def test_tables(root):
    train, test = rows(root, "train"), rows(root, "test")
    assert {r["client_id"] for r in train}.isdisjoint(r["client_id"] for r in test)
    assert sorted(r["path"] for r in rows(root, "validated")) == sorted(r["path"] for r in train + test)
    assert all(len(r["client_id"]) == 128 and int(r["client_id"], 16) >= 0 for r in train)
    assert rows(root, "dev") == rows(root, "other") == rows(root, "invalidated") == []
    durations = (root / "clip_durations.tsv").read_text().splitlines()
    assert durations[0] == "clip\tduration[ms]" and len(durations) - 1 == len(train + test)


def test_some_sentences_have_one_quotation_mark_and_mislead_a_quoting_reader(root):
    text = (root / "train.tsv").read_text()
    assert any(r["sentence"].count('"') % 2 for r in rows(root, "train"))
    quoting = list(csv.reader(io.StringIO(text), delimiter="\t"))
    assert len(quoting) - 1 < len(rows(root, "train"))


def test_broken_clips_are_there_and_are_what_they_are_called(root):
    claimed = dict(line.split("\t") for line in (root / "clip_durations.tsv").read_text().splitlines()[1:])
    found = Counter()
    rates = set()
    for row in rows(root, "train"):
        path = root / "clips" / row["path"]
        if not path.exists():
            found["missing"] += 1
            continue
        samples, rate = soundfile.read(path, dtype="float32")
        rates.add(rate)
        seconds, said = len(samples) / rate, int(claimed[row["path"]]) / 1000
        if seconds < 0.75 * said:
            found["truncated"] += 1
        elif seconds < 0.5:
            found["short"] += 1
        elif np.sqrt(np.mean(samples**2)) < 1e-3:
            found["silent"] += 1
        else:
            found["good"] += 1
            assert abs(seconds - said) < 0.08 and np.abs(samples).max() <= 1
    good = found.pop("good")
    assert found == {"missing": 1, "truncated": 1, "short": 1, "silent": 1} and good > 20
    assert rates == {32000, 48000}


@pytest.mark.parametrize("config", [DemoConfig(), DemoConfig(seed=1, frames=(2, 40), tracklets=7)])
def test_every_identity_can_have_its_own_speaker(config: DemoConfig):
    parts = [source.plan(config) for source in (mars, ilidsvid, prid2011)]
    voices = common_voice.plan(config, [part.needs for part in parts])
    lines = [line.split("\t") for line in voices.files["common_voice/en/train.tsv"].decode().splitlines()[1:]]
    usable = {path.rsplit("/", 1)[1] for path, clip in voices.clips if not clip.defect}
    counts = sorted(Counter(client for client, path, *_ in lines if path in usable).values(), reverse=True)
    assert len(counts) == config.speakers
    for part in parts:
        needs = sorted(part.needs, reverse=True)
        assert all(has >= need for has, need in zip(counts, needs, strict=False))
    # Negative control: with one clip fewer than needed somewhere, the comparison fails.
    assert not all(has >= need for has, need in zip([parts[0].needs[0] - 1] * 99, parts[0].needs[:1], strict=False))


def test_sizes_by_hand():
    config = DemoConfig(train_identities=2, test_identities=2, pairs=4, speakers=6)
    # Needs by rank: max(5, 4), max(3, 4), 2, 1, then two speakers whom nobody needs and who have a few clips (2 and 1). Two spare
    # clips where there is a need; the first speaker gets half as many again.
    assert common_voice.sizes(config, [(3, 5), (4, 1, 4, 2)]) == [10, 6, 4, 3, 2, 1]


def test_a_broken_clip_is_the_first_of_its_speaker(root):
    first: dict[str, str] = {}
    for row in rows(root, "train"):
        first.setdefault(row["client_id"], row["path"])
    assert sum(not (root / "clips" / path).exists() for path in first.values()) == 1
    assert sum(row["sentence_id"].startswith("0000") for row in rows(root, "train")) == 4
