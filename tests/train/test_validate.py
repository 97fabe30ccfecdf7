"""Held-out training identities: who they are, what a look says, that it leaves no trace, and which weights are kept."""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from pipeline.base import tables
from pipeline.base.batch import Batch
from pipeline.base.config import ValidationConfig
from pipeline.base.errors import ConfigError, ShardError, TrainError
from shards.loader import TrainLoader
from shards.read import Store
from tests.train.tiny import network as make_network
from tests.train.tiny import pack, run_config
from train import validate
from train.optim import make_optimiser
from train.tasks import Identify
from train.trainer import backward
from train.validate import Best, Selection, Validator, hold_out, make_validator, why_no_look

CPU = torch.device("cpu")


def tables_of(seen: dict[str, str], more=()):
    """SPLIT and INDEX: identity -> its cameras, one tracklet each; `more` are SPLIT rows of other roles."""
    names = [(f"{identity}C{camera}", identity, int(camera)) for identity, cameras in seen.items() for camera in cameras]
    label = {identity: i for i, identity in enumerate(sorted(seen))}
    place = {"shard": "0.tar", "kind": "person", "frames": 1, "items": 0, "size": 1, "members": [], "digest": ""}
    split = [{"tracklet": n, "role": "train", "label": label[identity]} for n, identity, _ in names]
    index = [{"key": n, "identity": identity, "camera": c, "offset": i, **place} for i, (n, identity, c) in enumerate(names)]
    return tables.table([*split, *more], tables.SPLIT), tables.table(index, tables.INDEX)


def roles(split):
    return {row["tracklet"]: (row["role"], row["label"]) for row in split.to_pylist()}


SEEN = {"a": "01", "b": "0", "c": "12", "d": "01"}


def test_identities_of_two_cameras_leave_the_training_and_labels_close_up():
    """b has one camera and always trains; of a, c, d two leave."""
    split, index = tables_of(SEEN, [{"tracklet": "test", "role": "query", "label": -1}])
    found = set()
    for seed in range(20):
        left, held = hold_out(split, index, 2, seed)
        (stays,) = {"a", "c", "d"} - {row["tracklet"][0] for row in held.to_pylist()}
        found.add(stays)
        label = {identity: i for i, identity in enumerate(sorted("b" + stays))}
        assert roles(left) == {
            "test": ("query", -1),
            **{n: ("train", label[n[0]]) if n[0] in label else ("unused", -1) for n in ("aC0", "aC1", "bC0", "cC1", "cC2", "dC0", "dC1")},
        }
        assert roles(held) == {n: ("query", -1) for n in roles(left) if roles(left)[n][0] == "unused"}
    assert found == {"a", "c", "d"}  # the seed decides, and every one can be meant


def test_a_function_of_the_seed_and_of_what_the_tables_say():
    split, index = tables_of(SEEN)
    turned = split.take(list(reversed(range(split.num_rows)))), index.take(list(reversed(range(index.num_rows))))
    assert [t.to_pylist() for t in hold_out(*turned, 1, 3)] == [t.to_pylist() for t in hold_out(split, index, 1, 3)]
    assert len({str(hold_out(split, index, 1, seed)[1].to_pylist()) for seed in range(20)}) == 3


def test_none_held_out_changes_nothing():
    split, index = tables_of(SEEN)
    left, held = hold_out(split, index, 0, 0)
    assert roles(left) == roles(split) and held.num_rows == 0


@pytest.mark.parametrize(
    ("count", "least", "message"),
    [
        (4, 0, r"validation\.identities=4: only 3 of 4 training identities were seen by two cameras or more; set it to 3 or less"),
        (3, 2, r"validation\.identities=3: leaves 1 of 4 training identities, and a batch needs 2; set it to 2 or less"),
    ],
)
def test_too_few_identities(count, least, message):
    with pytest.raises(TrainError, match=message):
        hold_out(*tables_of(SEEN), count, 0, least)
    hold_out(*tables_of(SEEN), 2, 0, 2)  # control


def test_tracklets_that_were_not_packed():
    split, index = tables_of(SEEN)
    with pytest.raises(ShardError, match=r"1 of 7 training tracklets are not in the shards \(aC0"):
        hold_out(split, index.slice(1), 1, 0)


class Places(torch.nn.Module):
    """The first two pixels of a clip are its feature; counts calls."""

    hears, kind = False, ""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def check(self, batch):
        pass

    def embed(self, batch):
        assert not self.training
        torch.rand(1)  # whatever a network draws
        return batch.frames[:, 0, 0, 0, :2].float()


def clips(places: dict[str, int]) -> list[Batch]:
    frames = torch.zeros(len(places), 1, 3, 4, 4, dtype=torch.uint8)
    frames[:, 0, 0, 0, 0] = torch.tensor(list(places.values()), dtype=torch.uint8)
    return [Batch(frames, torch.full((len(places),), -1), torch.zeros(len(places), dtype=torch.int64), list(places))]


def test_a_look_by_hand():
    """On a line: aC0 0, bC0 1, aC1 3, bC1 7, aC0 again at 200 (a second tracklet of its camera).

    aC0: b 1 is nearer than a 3 (own camera gone): AP 1/2. aC1: b 2, a 3: AP over (2nd, and 200 as 4th): (1/2 + 2/4) / 2.
    bC0: a 1, a 2, b 6: 1/3. bC1: a 4, b 6: 1/2. aC0 at 200: b 193, a 197: 1/2.
    """
    split, index = tables_of({"a": "01", "b": "01"}, [{"tracklet": "aC0x", "role": "train", "label": 0}])
    more = {**index.to_pylist()[0], "key": "aC0x", "offset": 99}
    index = tables.table([*index.to_pylist(), more], tables.INDEX)
    _, held = hold_out(split, index, 2, 0, least=0)
    batches = clips({"aC0": 0, "bC0": 1, "aC1": 3, "bC1": 7, "aC0x": 200})
    network = Places().train()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found = Validator(batches, held, index, CPU).look(network)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert network.training
    assert found["mAP"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 5)
    assert (found["rank1"], found["valid"], found["queries"], found["identities"]) == (0, 5, 5, 2)
    assert validate.in_words(found) == "2 held-out identities: mAP 46.7%, rank-1 0.0% (5 of 5 queries valid)"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    index, split = pack(tmp_path_factory.mktemp("data"), classes=4)
    return Store(index), tables.read(split, tables.SPLIT)


def weights_after(packed, stage: str, looks: bool, workers: int = 0) -> dict[str, torch.Tensor]:
    """Three epochs of a few steps, with drop paths, with or without a look after each."""
    store, split = packed
    run = run_config(stage)
    left, held = hold_out(split, store.table, 2, run.seed)
    network = make_network(run)
    validator = make_validator(store, held, run, False, CPU, workers) if looks else None
    task, loader = Identify(network, run.settings), TrainLoader(store, left, run, False, 0)
    optimiser = make_optimiser(task, run.settings.optim)
    torch.manual_seed(0)
    for epoch in (1, 2, 3):
        for batch in loader.epoch(epoch):
            optimiser.zero_grad()
            backward(task, task, batch, dict.fromkeys(task.names, 1.0), "fp32", 1)
            optimiser.step()
        if validator:
            found = validator.look(network)
            assert found["queries"] == found["valid"] == 4 and 0.25 < found["mAP"] <= 1
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("workers", [0, 1])
def test_looks_leave_the_training_as_it_is(packed, workers):
    without = weights_after(packed, "visual", looks=False)
    with_looks = weights_after(packed, "visual", looks=True, workers=workers)
    assert all(torch.equal(with_looks[name], tensor) for name, tensor in without.items())


def test_control_a_careless_look_changes_the_training(packed, monkeypatch):
    """The same comparison finds a look that leaves the network in evaluation mode."""

    @contextmanager
    def careless(module, device):
        module.eval()
        yield

    without = weights_after(packed, "visual", looks=False)
    monkeypatch.setattr(validate, "aside", careless)
    careless_looks = weights_after(packed, "visual", looks=True)
    assert any(not torch.equal(careless_looks[name], tensor) for name, tensor in without.items())


def test_a_network_that_hears_labels_is_not_looked_at(packed):
    """The loader refuses the sound, too."""
    store, split = packed
    run = run_config("teacher")
    _, held = hold_out(split, store.table, 2, 0)
    assert "sound of policy 'id_speaker'" in why_no_look(True, store.meta["companion"])
    with pytest.raises(ConfigError, match="may not hear"):
        make_validator(store, held, run, True, CPU, 0)
    assert why_no_look(False, store.meta["companion"]) == why_no_look(False, None) == ""


@pytest.mark.parametrize(
    ("label_derived", "test", "looks"), [(True, True, False), (True, False, False), (False, False, False), (False, True, True)]
)
def test_sound_that_tells_no_label_may_be_heard(label_derived, test, looks):
    """Oracle audio is label-derived and reaches test tracklets: no look, though the loader would allow it."""
    companion = {"policy": "some", "label_derived": label_derived, "test": test}
    assert bool(why_no_look(True, companion)) is not looks


# --- which weights are kept ---------------------------------------------------------------------------------------------


class Marks(Validator):
    """Looks whose marks are given."""

    def __init__(self, marks):
        self.marks, self.identities = iter(marks), 2

    def look(self, network):
        return {"mAP": next(self.marks)}


def network_at(epoch: int) -> torch.nn.Module:
    module = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(module.weight, float(epoch))
    return module


def select(selection: Selection, epochs) -> list[int]:
    return [epoch for epoch in epochs if selection.after(epoch, network_at(epoch))]


BEST = ValidationConfig(identities=2, epochs=2, keep="best")


def test_looks_are_due_every_so_often_and_at_the_end():
    selection = Selection(BEST, 5, Marks([0.1, 0.2, 0.3]))
    assert select(selection, range(1, 6)) == [2, 4, 5]
    assert select(Selection(BEST, 5, None), range(1, 6)) == []


@pytest.mark.parametrize(("marks", "epoch"), [([0.2, 0.5, 0.5], 4), ([0.5, 0.2, 0.1], 2), ([0.0, 0.0, 0.0], 2), ([0.1, 0.2, 0.3], 6)])
def test_the_first_of_the_best_is_kept(marks, epoch):
    selection, last = Selection(BEST, 6, Marks(marks)), network_at(6)
    select(selection, range(1, 7))
    facts = selection.hand_on(last)
    assert facts == {"keep": "best", "epoch": epoch, "looks": 3, "identities": 2, "mAP": max(marks), "remark": ""}
    assert last.weight.item() == epoch


def test_the_copy_does_not_change_with_the_network():
    best, network = Best(), network_at(1)
    assert best.offer(1, 0.5, network) and not best.offer(2, 0.5, network_at(2))
    torch.nn.init.constant_(network.weight, 9.0)
    assert best.weights["weight"].item() == 1


def test_last_is_kept_with_its_mark():
    selection, last = Selection(ValidationConfig(identities=2, epochs=2), 4, Marks([0.5, 0.2])), network_at(4)
    select(selection, range(1, 5))
    assert selection.state()[0] == {}  # no copies are made
    assert selection.hand_on(last) == {"keep": "last", "epoch": 4, "looks": 2, "identities": 2, "mAP": 0.2, "remark": ""}
    assert last.weight.item() == 4


def test_without_a_look_the_last_is_kept_and_the_reason_told():
    why = why_no_look(True, {"policy": "id_speaker", "label_derived": True, "test": False})
    facts = Selection(BEST, 4, None, why).hand_on(network_at(4))
    assert (facts["keep"], facts["epoch"], facts["looks"], facts["identities"], facts["mAP"]) == ("last", 4, 0, 2, None)
    assert facts["remark"] == f"{why}, so the last epoch is kept instead of the best"
    assert Selection(ValidationConfig(), 4, None).hand_on(network_at(4))["remark"] == ""


def test_a_checkpoint_goes_on_with_what_was_best():
    """Stored after epoch 4 and loaded into a new selection: the same as without a break; a new selection alone is not."""
    whole = Selection(BEST, 6, Marks([0.2, 0.9, 0.5]))
    select(whole, range(1, 7))
    first, second, fresh = Selection(BEST, 6, Marks([0.2, 0.9])), Selection(BEST, 6, Marks([0.5])), Selection(BEST, 6, Marks([0.5]))
    select(first, range(1, 5))
    second.load(*first.state())
    networks = [network_at(6) for _ in range(3)]
    facts = [
        selection.hand_on(network)
        for selection, network in zip((whole, second, fresh), networks, strict=True)
        if selection is whole or select(selection, (5, 6))
    ]
    assert facts[0] == facts[1] != facts[2]
    assert [network.weight.item() for network in networks] == [4, 4, 6]
