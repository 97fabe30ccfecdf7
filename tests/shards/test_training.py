"""What all training loaders promise: the order of clips does not depend on workers, ranks, or where training starts."""

import hashlib
import itertools

import pytest
import torch

from pipeline.base.errors import ConfigError
from shards import order
from shards.balance import Batches
from shards.loader import TrainLoader
from tests.shards.test_loader import CPU, FakeStore, people, run_config, split

ROWS = people(identities=6)
"""Item clip<n> has 2 + n companion frames; a batch holds 16, so most are cut."""


def clips(batch):
    """For each clip a digest of all that training sees of it: pixels, label, camera, name, flags, and what each frame hears."""
    out = []
    for b, key in enumerate(batch.tracklet):
        state = hashlib.sha256(f"{key} {batch.label[b]} {batch.camera[b]} {batch.erased[b].tolist()}".encode())
        state.update(batch.frames[b].contiguous().numpy().tobytes())
        for kind, sound in batch.companions.items():
            for item in sound.align[b].tolist():
                heard = (sound.values[item].numpy().tobytes(), int(sound.lengths[item])) if item >= 0 else None
                state.update(f"{kind} {heard}".encode())
        out.append(state.hexdigest())
    return out


def together(make, ranks, epoch=0, first_step=0):
    """[steps, clips] digests, the parts of all ranks put together; `make(rank)` gives a loader."""
    parts = [[clips(batch) for batch in make(rank).batches(epoch, first_step, CPU)] for rank in range(ranks)]
    return [list(itertools.chain(*step)) for step in zip(*parts, strict=True)]


def indexed(ranks=1, workers=0, seed=0, policy="id_speaker"):
    run = run_config(seed)
    return lambda rank: TrainLoader(FakeStore(ROWS, policy), split(ROWS), run, True, workers, rank, ranks)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_ranks_do_not_change_a_clip_and_training_goes_on_with_others():
    whole = {epoch: together(indexed(), 1, epoch) for epoch in (0, 1)}
    assert len(whole[0]) == 3 and all(len(step) == len(set(step)) == 4 for step in whole[0])
    for ranks, workers in itertools.product((1, 2), (0, 1, 2, 4)):
        assert together(indexed(ranks, workers), ranks) == whole[0], (ranks, workers)
    for before, after in (((1, 0), (2, 2)), ((2, 1), (1, 4)), ((2, 4), (4, 0))):  # (ranks, workers) before and after a stop
        begun, went_on = (together(indexed(*pair), pair[0], 1, first) for pair, first in ((before, 0), (after, 2)))
        assert begun[:2] + went_on == whole[1]


def test_the_comparison_can_fail(monkeypatch):
    whole, chain = together(indexed(), 1), itertools.chain.from_iterable
    assert not set(chain(whole)) & set(chain(together(indexed(seed=1), 1)))
    assert not set(chain(whole)) & set(chain(together(indexed(), 1, epoch=1)))
    real = order.rng

    def counting_slots_from_zero(seed, purpose, *names):
        return real(seed, purpose, *names[:2], *(name % 2 if purpose == "draw" else name for name in names[2:]))

    monkeypatch.setattr(order, "rng", counting_slots_from_zero)
    forgetful = together(indexed(ranks=2), 2)
    assert all(a[:2] == b[:2] and a[2] != b[2] and a[3] != b[3] for a, b in zip(whole, forgetful, strict=True))


@pytest.mark.parametrize("policy", ["shuffled", "random_clip", "single_speaker"])
def test_speakers_that_are_drawn_for_the_batch_do_not_depend_on_ranks(policy):
    whole = together(indexed(policy=policy), 1)
    for ranks in (2, 4):
        assert together(indexed(ranks, policy=policy), ranks) == whole
    assert together(indexed(), 1) != whole


def test_a_part_holds_its_own_items_only():
    whole = next(indexed()(0).epoch(0)).companions["audio"]
    parts = [next(indexed(2)(rank).epoch(0)).companions["audio"] for rank in (0, 1)]
    assert [len(part.values) for part in parts] == [4, 4] and len(whole.values) == 8
    assert all(part.align.shape == (2, 6) and part.align.max() == 3 for part in parts)


def test_ranks_that_cannot_share_a_batch_are_refused():
    with pytest.raises(ConfigError, match=r"^3 processes cannot share batches of 2 x 2 = 4 clips equally; train with 1, 2 or 4$"):
        indexed(ranks=3)(0)


def test_a_start_at_step_one_million_plans_one_epoch_and_reads_one_batch(monkeypatch):
    made = []
    plan = Batches._make_plan
    monkeypatch.setattr(Batches, "_make_plan", lambda self, epoch: made.append(epoch) or plan(self, epoch))
    store = FakeStore(ROWS)
    loader = TrainLoader(store, split(ROWS), run_config(), True, 0)
    epoch, step = divmod(10**6, loader.steps)
    next(loader.batches(epoch, step, CPU))
    assert made == [epoch] == [333_333] and step == 1
    assert store.read["frames"] == 4 * 6


def test_host_batches_are_checked_before_they_are_changed():
    seen = []
    loader = indexed()(0)
    (batch,) = loader.batches(0, loader.steps - 1, CPU, lambda host: seen.append((host, host.augmentation)))
    ((host, changes),) = seen
    assert changes is not None and batch.augmentation is None
    assert host.companions["audio"].values.dtype == torch.float16 and batch.companions["audio"].values.dtype == torch.float32
    assert not torch.equal(host.frames, batch.frames) and torch.equal(host.erased, batch.erased)
    assert torch.equal(host.erased, changes.erase[..., 2] > 0)
