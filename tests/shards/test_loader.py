import dataclasses
import hashlib
import io
import pickle
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline.base import config, tables
from pipeline.base.errors import ConfigError, ShardError, TableError, TrainError, UserError
from shards.loader import DenseLoader, TrainLoader
from shards.read import Store
from tests.shards import making

H, W, BANDS = 32, 16, 3
TOKENS = 5
"""Tokens of an item of kind 'audio_tokens'."""
COLUMNS = ("key", "shard", "identity", "camera", "frames", "items")


def jpeg(level):
    out = io.BytesIO()
    Image.fromarray(np.full((H, W, 3), min(level, 255), np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


class FakeStore:
    """Samples in memory. Frame t of a tracklet has grey level 4 * t (at most 255).

    Item "clip7" says 7 + 1 in band 0 and the number of the companion frame in band 1. As 'audio' it has 2 + 7 frames, as
    'audio_tokens' always TOKENS.
    """

    def __init__(self, rows, policy="id_speaker", kind="audio", **meta):
        """`rows`: (key, identity, camera, frames, names of items, item of each frame or None); `meta` overrides INDEX meta.

        `kind=""`: shards without a companion.
        """
        self.rows = {row[0]: row for row in rows}
        columns = zip(*[(k, "00000.tar", identity, camera, n, len(names)) for k, identity, camera, n, names, _ in rows], strict=True)
        self.table = pa.table(dict(zip(COLUMNS, map(list, columns), strict=True)))
        own = policy == "recorded"
        companion = {
            "kind": kind,
            "bands": BANDS,
            "policy": policy,
            "oracle": False,
            "label_derived": policy not in ("recorded", "silence", "noise"),
            "seed": 0,
            "test": own or policy == "silence",
            "tokens": {"length": TOKENS} if kind == "audio_tokens" else None,
            **meta,
        }
        self.meta = {"frames": {"height": H, "width": W}, "companion": companion if kind else None}
        self.read = Counter()

    def frames(self, key, indices):
        self.read["frames"] += len(indices)
        return [jpeg(4 * int(i)) for i in indices]

    def align(self, key, kind):
        align = self.rows[key][5]
        return None if align is None else np.array(align, np.int16)

    def companion(self, key, kind, items):
        self.read["items"] += len(items)
        assert kind == self.meta["companion"]["kind"]
        values = [int(self.rows[key][4][item].removeprefix("clip")) for item in items]
        items = [np.full((TOKENS if kind == "audio_tokens" else 2 + value, BANDS), value + 1, np.float16) for value in values]
        for item in items:
            item[:, 1] = np.arange(len(item))
        return items

    def items(self, key):
        return self.rows[key][4]


class DeafStore(FakeStore):
    """Companion bytes are out of bounds."""

    def align(self, key, kind):
        raise AssertionError("companion was touched")

    def companion(self, key, kind, items):
        raise AssertionError("companion was touched")

    def items(self, key):
        raise AssertionError("companion was touched")


def people(identities=4, tracklets=3, frames=12):
    """Tracklets p<i>t<j>; every run of 6 frames hears a clip of its own."""
    rows, clip = [], 0
    for i in range(identities):
        for j in range(tracklets):
            names = [f"clip{clip + r}" for r in range(-(-frames // 6))]
            clip += len(names)
            rows.append((f"p{i}t{j}", f"{i:04d}", j, frames, names, [t // 6 for t in range(frames)]))
    return rows


def split(rows, role="train"):
    labels = {identity: label for label, identity in enumerate(sorted({row[1] for row in rows}))}
    return tables.table([{"tracklet": r[0], "role": role, "label": labels[r[1]] if role == "train" else -1} for r in rows], tables.SPLIT)


def run_config(seed=0, hears=True, teacher=None, P=2, K=2, frames=6, max_clips=41, augment=None, kind="audio", **other):
    """The run of a stage 'teacher'; with `teacher`, its run, that of a stage 'student'."""
    settings = config.MethodConfig(
        stages={},
        clip=config.ClipConfig(frames=frames, max_clips=max_clips),
        sampler=config.SamplerConfig(identities=P, tracklets=K),
        augment=augment or config.AugmentConfig(pad=2),
    )
    made = config.RunConfig(
        method="m", dataset="d", split="s", seed=seed, stage="student" if teacher else "teacher", companion="c", test_companion="c",
        kind=kind, bands=BANDS, item_frames=TOKENS if kind == "audio_tokens" else 16, height=H, width=W,
        this=config.StageConfig(
            network="dubbernet_teacher", hears=hears, task="distill" if teacher else "identify", teacher="teacher" if teacher else ""
        ),
        settings=settings, teacher=teacher,
    )  # fmt: skip
    return dataclasses.replace(made, **other)


PLAIN = config.AugmentConfig(flip=0, pad=0, erase=0)


def digest(batch):
    state = hashlib.sha256(repr((batch.tracklet, batch.label.tolist(), batch.camera.tolist())).encode())
    parts = [batch.frames, *(x for c in batch.companions.values() for x in (c.values, c.lengths, c.align))]
    for part in parts if batch.erased is None else [*parts, batch.erased]:
        state.update(repr((part.dtype, tuple(part.shape))).encode() + part.numpy().tobytes())
    return state.hexdigest()


CPU = torch.device("cpu")


def ready(loader, epoch, first_step=0):
    """The batches that networks get."""
    return loader.batches(epoch, first_step, CPU)


def digests(batches):
    return [digest(batch) for batch in batches]


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_training_batch():
    rows = people()
    loader = TrainLoader(FakeStore(rows), split(rows), run_config(augment=PLAIN), hears=True, workers=0)
    assert (loader.classes, loader.steps) == (4, 2)
    for batch in ready(loader, 0):
        assert batch.frames.shape == (4, 6, 3, H, W) and batch.frames.dtype == torch.uint8
        assert batch.erased.shape == (4, 6) and batch.erased.dtype == torch.bool and not batch.erased.any()
        assert batch.label.dtype == batch.camera.dtype == torch.int64
        assert batch.label.tolist() == [int(key[1]) for key in batch.tracklet]
        assert batch.camera.tolist() == [int(key[3]) for key in batch.tracklet]
        drawn = batch.frames[:, :, 0, 0, 0] // 4  # the grey level is 4 * frame
        assert (drawn // 2 == torch.arange(6)).all()  # 12 frames: one of each pair
        sound = batch.companions["audio"]
        assert sound.values.shape == (8, 16, BANDS) and sound.values.dtype == torch.float32
        assert sound.align.dtype == sound.lengths.dtype == torch.int64
        for b, key in enumerate(batch.tracklet):
            first = 2 * (3 * int(key[1]) + int(key[3]))  # number of the tracklet's first clip; its second follows
            heard = sound.values[sound.align[b], 0, 0]
            assert heard.tolist() == [first + 1] * 3 + [first + 2] * 3
            assert sound.lengths[sound.align[b]].tolist() == [min(first + 2, 16)] * 3 + [min(first + 3, 16)] * 3


def test_erased_says_which_frames_lost_a_rectangle():
    """A frame of one grey level stays of one level unless something is erased."""
    rows = people(frames=9)
    run = run_config(augment=config.AugmentConfig(flip=0, pad=0, erase_level=(255, 0, 0)))
    seen = []
    for workers in (0, 1):
        loader = TrainLoader(FakeStore(rows), split(rows), run, False, workers)
        batches = [batch for epoch in range(4) for batch in ready(loader, epoch)]
        for batch in batches:
            assert torch.equal(batch.erased, (batch.frames != batch.frames[..., :1, :1]).flatten(2).any(2))
        seen.append(torch.stack([batch.erased for batch in batches]))
    assert torch.equal(*seen)
    assert 0.3 < seen[0].float().mean() < 0.7  # 192 frames, each with a chance of 0.5


@pytest.mark.parametrize("hears", [True, False])
def test_workers_do_not_change_a_byte(hears):
    rows = people(identities=5)
    made = {}
    for workers in (0, 1, 2):
        loader = TrainLoader(FakeStore(rows), split(rows), run_config(), hears, workers)
        made[workers] = digests(ready(loader, 0)) + digests(ready(loader, 1))
    assert made[0] == made[1] == made[2]
    assert len(set(made[0])) == len(made[0])
    other = TrainLoader(FakeStore(rows), split(rows), run_config(seed=1), hears, 0)
    assert not set(digests(ready(other, 0))) & set(made[0])


def test_listing_order_does_not_change_a_byte():
    rows = people()
    turned = TrainLoader(FakeStore(rows[::-1]), split(rows)[::-1], run_config(), True, 0)
    assert digests(ready(turned, 3)) == digests(ready(TrainLoader(FakeStore(rows), split(rows), run_config(), True, 0), 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle(workers):
    rows = people(identities=6)
    loader = TrainLoader(FakeStore(rows), split(rows), run_config(), True, workers)
    whole = digests(ready(loader, 1))
    assert len(whole) == 3
    for first in range(4):
        assert digests(ready(loader, 1, first)) == whole[first:]
    assert digests(ready(loader, 2)) != whole


def test_starting_late_reads_nothing_before():
    rows, store = people(identities=6), FakeStore(people(identities=6))
    loader = TrainLoader(store, split(rows), run_config(), True, 0)
    list(ready(loader, 0, 2))
    assert store.read["frames"] == 4 * 6


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_does_not_disturb_the_next(workers):
    rows = people(identities=6)
    loader = TrainLoader(FakeStore(rows), split(rows), run_config(), True, workers)
    expected = digests(ready(loader, 1))
    early = ready(loader, 0)
    next(early)
    assert digests(ready(loader, 1)) == expected
    with pytest.raises(RuntimeError, match="another epoch"):
        next(early)


def test_first_step_out_of_range():
    rows = people()
    with pytest.raises(ValueError, match="first_step=3"):
        ready(TrainLoader(FakeStore(rows), split(rows), run_config(), True, 0), 0, 3)


def test_deaf_loading_never_touches_the_companion():
    rows = people()
    loader = TrainLoader(DeafStore(rows), split(rows), run_config(hears=False), hears=False, workers=0)
    assert all(batch.companions == {} for batch in ready(loader, 0))
    dense = DenseLoader(DeafStore(rows), split(rows), ("train",), run_config(), hears=False, workers=0, batch_frames=12)
    assert all(batch.companions == {} for batch in dense)
    with pytest.raises(AssertionError, match="touched"):  # the store does object
        list(ready(TrainLoader(DeafStore(rows), split(rows), run_config(), hears=True, workers=0), 0))


def test_hearing_or_not_gives_the_same_frames():
    rows = people()
    batches = [list(ready(TrainLoader(FakeStore(rows), split(rows), run_config(), hears, 0), 0)) for hears in (True, False)]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(*batches, strict=True))


def test_a_shared_item_stands_once():
    """One speaker, one clip: every tracklet holds an item 'clip3' of its own, the batch holds it once."""
    rows = [(*row[:4], ["clip3"], [0] * 12) for row in people()]
    store = FakeStore(rows)
    batch = next(ready(TrainLoader(store, split(rows), run_config(), True, 0), 0))
    sound = batch.companions["audio"]
    assert sound.values.shape == (1, 16, BANDS) and (sound.align == 0).all() and sound.lengths.tolist() == [5]
    assert store.read["items"] == 1


def test_a_tracklet_drawn_twice_brings_its_items_once():
    rows = people(tracklets=1)
    batch = next(ready(TrainLoader(FakeStore(rows), split(rows), run_config(K=3), True, 0), 0))
    assert [batch.tracklet.count(key) for key in dict.fromkeys(batch.tracklet)] == [3, 3]
    assert len(batch.companions["audio"].values) == 4
    assert not torch.equal(batch.frames[0], batch.frames[1])  # drawn and augmented anew


def test_training_cuts_long_items_anywhere():
    rows = [(*row[:4], ["clip18"], [0] * 12) for row in people()]
    loader = TrainLoader(FakeStore(rows), split(rows), run_config(), True, 0)
    starts = {int(batch.companions["audio"].values[0, 0, 1]) for epoch in range(30) for batch in ready(loader, epoch)}
    assert starts == {0, 1, 2, 3, 4}  # 20 frames, 16 are kept


def owners_heard(rows, policy, epochs, seed=0, kind="audio"):
    """For each epoch: label -> labels whose sound its clips hear (a clip's number tells its tracklet)."""
    owner = {int(name.removeprefix("clip")): int(row[1]) for row in rows for name in row[4]}
    loader = TrainLoader(FakeStore(rows, policy, kind), split(rows), run_config(seed, augment=PLAIN, kind=kind), hears=True, workers=0)
    found = []
    for epoch in range(epochs):
        heard: dict[int, set[int]] = {}
        for batch in ready(loader, epoch):
            sound = batch.companions[kind]
            clips = (sound.values[:, 0, 0].long() - 1)[sound.align]  # band 0 says number + 1
            for label, of_clip in zip(batch.label.tolist(), clips.tolist(), strict=True):
                heard.setdefault(label, set()).update(owner[clip] for clip in of_clip)
        found.append(heard)
    return found


KINDS = pytest.mark.parametrize("kind", ["audio", "audio_tokens"])


@KINDS
def test_shuffled_permutes_the_identities_anew_in_each_epoch(kind):
    rows = people(identities=6)
    assert owners_heard(rows, "id_speaker", 2, kind=kind) == [{k: {k} for k in range(6)}] * 2
    epochs = owners_heard(rows, "shuffled", 8, kind=kind)
    for heard in epochs:  # within an epoch one voice for each identity, and no voice for two
        assert all(len(voices) == 1 for voices in heard.values())
        assert len(set.union(*heard.values())) == 6
    assert len({tuple(sorted((k, *v) for k, v in heard.items())) for heard in epochs}) > 4
    assert owners_heard(rows, "shuffled", 2, kind=kind) == epochs[:2]
    assert owners_heard(rows, "shuffled", 8, seed=1, kind=kind) != epochs


@KINDS
@pytest.mark.parametrize("policy", ["random_clip", "single_speaker"])
def test_a_clip_that_is_drawn_anew_is_tied_to_no_identity(policy, kind):
    """Every clip was allotted to one tracklet (also where one speaker spoke them all): heard there alone it tells the identity."""
    rows = people(identities=4)
    heard = owners_heard(rows, policy, 12, kind=kind)
    for label in range(4):
        assert set.union(*(epoch[label] for epoch in heard)) == {0, 1, 2, 3}
    fixed = owners_heard(rows, "id_speaker", 12, kind=kind)  # negative control
    assert all(epoch[label] == {label} for epoch in fixed for label in epoch)


def test_the_sound_of_a_longer_tracklet_is_heard_from_end_to_end():
    rows = [("p0t0", "0000", 0, 6, ["clip0"], [0] * 6), ("p1t0", "0001", 0, 12, ["clip1", "clip2"], [0] * 6 + [1] * 6)]
    loader = TrainLoader(FakeStore(rows, "shuffled"), split(rows), run_config(augment=PLAIN, K=1), hears=True, workers=0)
    seen = set()
    for epoch in range(6):
        for batch in ready(loader, epoch):
            sound = batch.companions["audio"]
            short = batch.tracklet.index("p0t0")
            seen.add(tuple(((sound.values[:, 0, 0].long() - 1)[sound.align])[short].tolist()))
    assert seen == {(0,) * 6, (1, 1, 1, 2, 2, 2)}


def test_tokens_come_as_they_are():
    """All of them, neither cut nor padded, however the log-mel settings are; each distinct item once."""
    rows = people()
    run = run_config(kind="audio_tokens", augment=PLAIN)
    assert run.settings.model.audio_frames != TOKENS
    for batch in ready(TrainLoader(FakeStore(rows, kind="audio_tokens"), split(rows), run, hears=True, workers=0), 0):
        tokens = batch.companions["audio_tokens"]
        assert tokens.values.shape == (8, TOKENS, BANDS) and tokens.values.dtype == torch.float32
        assert tokens.lengths.tolist() == [TOKENS] * 8
        assert (tokens.values[:, :, 1] == torch.arange(TOKENS)).all()
        for b, key in enumerate(batch.tracklet):
            first = 2 * (3 * int(key[1]) + int(key[3]))
            assert tokens.values[tokens.align[b], 0, 0].tolist() == [first + 1] * 3 + [first + 2] * 3


def test_an_item_of_another_number_of_tokens_is_one_sentence():
    class Odd(FakeStore):
        def companion(self, key, kind, items):
            return [item[:-1] for item in super().companion(key, kind, items)]

    rows = people()
    with pytest.raises(ShardError, match=r"\[4, 3\], expected \[5, 3\]") as caught:
        next(ready(TrainLoader(Odd(rows, kind="audio_tokens"), split(rows), run_config(kind="audio_tokens"), True, 0), 0))
    assert "\n" not in str(caught.value)


def test_own_sound_may_be_missing_in_training_and_allocated_sound_may_not():
    rows = people()
    rows[0] = (*rows[0][:4], [], None)
    batches = ready(TrainLoader(FakeStore(rows, "recorded"), split(rows), run_config(), hears=True, workers=0), 0)
    assert any((batch.companions["audio"].align == -1).all(dim=1).any() for batch in batches)
    with pytest.raises(TrainError, match="have no audio"):
        TrainLoader(FakeStore(rows), split(rows), run_config(), hears=True, workers=0)


def test_frames_without_sound():
    rows = [(*row[:4], row[4][:1], [-1] * 6 + [0] * 6) for row in people()]
    sound = next(ready(TrainLoader(FakeStore(rows), split(rows), run_config(), True, 0), 0)).companions["audio"]
    assert sound.align.tolist() == [[-1] * 3 + [b] * 3 for b in range(4)]


def test_a_frame_drawn_twice_is_decoded_once():
    rows = people(frames=2)
    store = FakeStore(rows)
    batch = next(ready(TrainLoader(store, split(rows), run_config(augment=PLAIN), True, 0), 0))
    assert batch.frames[0, :, 0, 0, 0].tolist() == [0, 4, 4, 4, 4, 4]
    assert store.read["frames"] == 4 * 2


def test_the_global_random_stream_is_left_alone():
    rows = people()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(ready(TrainLoader(FakeStore(rows), split(rows), run_config(), True, 0), 0))
    assert torch.equal(torch.rand(1), expected)


def test_what_goes_to_workers_pickles():
    """Started with 'spawn', a worker gets the data set by pickle."""
    rows = people()
    loader = TrainLoader(FakeStore(rows), split(rows), run_config(), True, 0)
    data = pickle.loads(pickle.dumps(loader._loader.dataset))
    assert digest(data[0, 1]) == digests(loader.epoch(0))[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_frame_is_one_sentence(workers):
    class Broken(FakeStore):
        def frames(self, key, indices):
            return [b"no picture"] * len(indices)

    rows = people()
    with pytest.raises(ShardError) as caught:
        list(ready(TrainLoader(Broken(rows), split(rows), run_config(), True, workers), 0))
    message = str(caught.value)
    del caught  # its traceback keeps the loader, whose worker is waited for 5 s when the garbage collector finds it
    assert re.match(r"shard 00000\.tar, sample p\dt\d: frame \d+ does not decode", message)
    assert "\n" not in message


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluation(lengths, role="query"):
    rows = [(key, key, 0, n, [], None) for key, n in lengths.items()]
    return FakeStore(rows), split(rows, role)


def dense(lengths, batch_frames, workers=0, **settings):
    store, table = evaluation(lengths)
    run = run_config(**settings)
    return DenseLoader(store, table, ("query", "gallery"), run, hears=False, workers=workers, batch_frames=batch_frames)


def test_clips_are_batched_across_tracklets_by_name():
    loader = dense({"c": 7, "a": 8, "b": 1}, batch_frames=12)
    batches = list(loader)
    assert [batch.tracklet for batch in batches] == [["a", "a"], ["b", "c"], ["c"]] and len(loader) == 3
    assert [(batch.frames[:, :, 0, 0, 0] // 4).tolist() for batch in batches] == [
        [[0, 1, 2, 3, 4, 5], [6, 7, 6, 7, 6, 7]],
        [[0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]],
        [[6, 6, 6, 6, 6, 6]],
    ]
    assert all(batch.label.tolist() == [-1] * len(batch.tracklet) for batch in batches)
    assert all((batch.frames == batch.frames[:, :, :1, :1, :1]).all() for batch in batches)  # nothing is augmented
    assert all(batch.erased is None for batch in batches)


@pytest.mark.parametrize(("batch_frames", "sizes"), [(6, [1] * 6), (11, [1] * 6), (12, [2, 2, 2]), (30, [5, 1]), (600, [6])])
def test_batches_hold_at_most_the_given_frames(batch_frames, sizes):
    assert [len(batch.tracklet) for batch in dense({"a": 30, "b": 6}, batch_frames)] == sizes


def test_clips_of_a_tracklet_are_capped():
    assert [batch.tracklet for batch in dense({"a": 30, "b": 6}, 600, max_clips=2)] == [["a", "a", "b"]]
    assert [len(batch.tracklet) for batch in dense({"a": 300}, 600, max_clips=0)] == [50]


def test_dense_batches_do_not_depend_on_workers_or_seed():
    lengths = {f"t{i}": 3 * i + 1 for i in range(6)}
    expected = digests(dense(lengths, 18))
    assert digests(dense(lengths, 18, workers=2)) == digests(dense(lengths, 18, seed=9)) == expected
    assert digests(dense({**lengths, "t0": 2}, 18)) != expected


def test_a_dense_loader_can_be_read_again():
    loader = dense({"a": 30, "b": 6}, 12)
    assert digests(loader) == digests(loader)


def test_oracle_sound_in_evaluation_is_cut_around_its_centre_and_may_be_missing():
    """'a' hears clip 18 (20 frames, cut to 16); 'b', a distractor, hears nothing."""
    rows = [("a", "a", 0, 6, ["clip18"], [0] * 6), ("b", "b", 0, 6, [], None)]
    loader = DenseLoader(FakeStore(rows, test=True), split(rows, "query"), ("query",), run_config(), True, 0, 600)
    (batch,) = loader
    sound = batch.companions["audio"]
    assert sound.align.tolist() == [[0] * 6, [-1] * 6] and sound.lengths.tolist() == [16]
    assert (sound.values[:, :, 0] == 19).all()
    assert sound.values[0, :, 1].tolist() == list(range(2, 18))  # 2 frames are lost on either side


def test_a_batch_without_any_sound_keeps_its_shape():
    rows = [("a", "a", 0, 6, ["clip1"], [0] * 6), ("b", "b", 0, 6, [], None)]
    batches = list(DenseLoader(FakeStore(rows, test=True), split(rows, "query"), ("query",), run_config(), True, 0, 6))
    assert batches[1].companions["audio"].values.shape == (0, 16, BANDS)
    assert batches[1].companions["audio"].align.tolist() == [[-1] * 6]


def test_tokens_in_evaluation():
    rows = [("a", "a", 0, 7, ["clip3"], [0] * 7), ("b", "b", 0, 6, [], None)]
    store, run = FakeStore(rows, "recorded", "audio_tokens"), run_config(kind="audio_tokens")
    (batch,) = DenseLoader(store, split(rows, "query"), ("query",), run, True, 0, 600)
    tokens = batch.companions["audio_tokens"]
    assert tokens.align.tolist() == [[0] * 6, [0] * 6, [-1] * 6]
    assert tokens.values.shape == (1, TOKENS, BANDS) and (tokens.values[:, :, 0] == 4).all()


# --- refusals ---------------------------------------------------------------------------------------------------------


def train(store=None, table=None, run=None, hears=True):
    return TrainLoader(store or FakeStore(people()), split(people()) if table is None else table, run or run_config(), hears, 0)


def evaluate(store=None, run=None, roles=("query",), role="query", batch_frames=60):
    return DenseLoader(store or FakeStore(people()), split(people(), role), roles, run or run_config(), True, 0, batch_frames)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: train(FakeStore(people()[2:])),
            ShardError,
            r"split 's' of d: 2 of 12 tracklets are not in the shards \(p0t0, p0t1\); make SPLIT and shards from the same TRACKLETS",
        ),
        (lambda: train(FakeStore(people()[8:])), ShardError, r"8 of 12 .* \(p0t0, p0t1, p0t2, \.\.\.\)"),
        (lambda: train(run=run_config(height=64)), ShardError, r"hold frames of 32x16 .* expects 64x16"),
        (lambda: train(run=run_config(P=5)), TrainError, r"only 4 training identities"),
        (lambda: train(table=split(people(), "query")), TableError, r"no tracklet has the role train"),
        (lambda: train(table=split(people()).slice(3)), TableError, r"3 labels up to 3 for 3 identities"),
        (lambda: train(FakeStore([(*people()[0][:1], "0003", *people()[0][2:]), *people()[1:]])), TableError, r"4 labels up to 3"),
        (lambda: train(FakeStore(people(), kind="")), ShardError, r"have no companion, but stage 'teacher' hears audio"),
        (
            lambda: train(run=run_config(bands=64)),
            ShardError,
            r"hold audio of 3 bands, the run expects audio of 64 bands; pack again or set companions\.c$",
        ),
        (
            lambda: train(run=run_config(kind="audio_tokens", bands=768)),
            ShardError,
            r"hold audio of 3 bands, the run expects audio_tokens of width 768; pack again or set companions\.c$",
        ),
        (
            lambda: train(FakeStore(people(), kind="audio_tokens", bands=1024), run=run_config(kind="audio_tokens", bands=768)),
            ShardError,
            r"hold audio_tokens of width 1024, the run expects audio_tokens of width 768",
        ),
        (
            lambda: train(FakeStore(people(), kind="audio_tokens"), run=run_config(kind="audio_tokens", item_frames=16)),
            ShardError,
            r"shards of d hold 5 tokens per item, the run expects 16; pack again or set companions\.c\.tokens$",
        ),
        (
            lambda: evaluate(FakeStore(people(), "recorded", "audio_tokens"), run_config(kind="audio_tokens", item_frames=16)),
            ShardError,
            r"hold 5 tokens per item",
        ),
        (
            lambda: evaluate(FakeStore(people(), "silence"), run_config(bands=64, test_companion="quiet")),
            ShardError,
            r"hold audio of 3 bands, .* set companions\.quiet$",
        ),
        (lambda: train(FakeStore([(*people()[0][:4], [], None), *people()[1:]])), TrainError, r"1 of 12 .* have no audio \(p0t0\)"),
        (lambda: train(run=run_config(hears=False)), ConfigError, r"neither hears nor has a teacher"),
        (lambda: evaluate(run=run_config(hears=False)), ConfigError, r"stage 'teacher' does not hear"),
        (
            lambda: evaluate(),
            ConfigError,
            r"roles query may not hear: companions\.c \(policy 'id_speaker'\) gives sound to training tracklets only, because at test "
            r"time it would give the identity away; let stages\.teacher\.test_companion name one of policy silence or recorded, "
            r"set companions\.c\.alignment\.oracle_test_audio to measure it as oracle, or evaluate a stage that does not hear$",
        ),
        (
            lambda: evaluate(FakeStore(people(), "noise"), run_config(test_companion="hiss")),
            ConfigError,
            r"companions\.hiss \(policy 'noise'\) gives sound to training tracklets only; let ",  # noise gives nothing away
        ),
        (lambda: evaluate(roles=("train", "query", "junk")), ConfigError, r"roles query, junk may not hear"),
        (lambda: evaluate(roles=("trial",)), TableError, r"no tracklet has the role trial"),
        (lambda: evaluate(FakeStore(people(), "recorded"), batch_frames=5), ConfigError, r"batch_frames=5: at least clip\.frames=6"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)


def test_what_is_near_a_refusal_and_allowed():
    train(run=run_config(hears=False, teacher=run_config()))  # the teacher of a deaf student hears
    train(FakeStore(people(), kind=""), hears=False)
    train(run=run_config(bands=64), hears=False)
    train(FakeStore(people(), kind="audio_tokens"), run=run_config(item_frames=16), hears=False)
    for policy, meta in (("recorded", {}), ("silence", {}), ("id_speaker", {"oracle": True, "test": True}), ("noise", {"test": True})):
        evaluate(FakeStore(people(), policy, **meta))
    evaluate(roles=("train",), role="train")
    train(table=tables.table([*split(people()).to_pylist(), {"tracklet": "zz", "role": "unused", "label": -1}], tables.SPLIT))


# --- the real store ---------------------------------------------------------------------------------------------------


def pack(folder, kind, rows=None, shards=1, policy="id_speaker"):
    """The samples of `people` or of other rows, packed; neighbours share a shard; returns INDEX."""
    rows = rows or people()
    source = FakeStore(rows, policy, kind)
    facts = [
        {"tracklet": k, "dataset": "d", "identity": i, "kind": "person", "camera": c, "frames": [f"{k}/{t:02d}.jpg" for t in range(n)]}
        for k, i, c, n, _, _ in rows
    ]
    jpegs, runs, features, known = {}, [], [], set()
    for key, _, _, n, names, _ in rows:
        jpegs[key] = source.frames(key, range(n))
        for r, (name, values) in enumerate(zip(names, source.companion(key, kind, range(len(names))), strict=True)):
            run = {"tracklet": key, "first": 6 * r, "last": min(6 * r + 5, n - 1), "item": name, "owner": "o", "path": "p", "start": None}
            runs.append({**run, "seconds": 1.0})
            if name in known:
                continue
            known.add(name)
            width = {"length": len(values), "width": BANDS, "dtype": "float16"}
            features.append({"item": name, "values": values.tobytes(), **width})
    making.write_frames(folder / "frames.parquet", facts, jpegs, (H, W), {"dataset": "d", "cameras": 3})
    sound = tables.table(runs, tables.ALIGNMENT), tables.table(features, tables.FEATURES)
    index = []
    for number, part in enumerate(np.array_split([row[0] for row in rows], shards)):
        index += making.write_tar(folder / f"{number:05d}.tar", folder / "frames.parquet", part.tolist(), kind, *sound)
    meta = {"dataset": "d", "cameras": 3, **{name: source.meta[name] for name in ("frames", "companion")}}
    tables.write_rows(folder / "index.parquet", index, tables.INDEX, meta)
    return folder / "index.parquet"


@pytest.mark.parametrize(("kind", "workers"), [("audio", 0), ("audio", 2), ("audio_tokens", 0)])
def test_a_packed_store_gives_the_bytes_of_the_fake(tmp_path, kind, workers):
    rows, packed = people(), pack(tmp_path, kind)
    args = split(rows), run_config(kind=kind), True, workers
    assert digests(ready(TrainLoader(Store(packed), *args), 0)) == digests(ready(TrainLoader(FakeStore(rows, kind=kind), *args), 0))
    args = split(rows), ("train",), run_config(kind=kind), True, workers, 30
    assert digests(DenseLoader(Store(packed), *args)) == digests(DenseLoader(FakeStore(rows, kind=kind), *args))
