"""Checkpoints: atomic, tied to a key, checked when read."""

import errno
import os
import shutil
from itertools import count

import pytest
import torch
from torch import nn

from pipeline.base.config import OptimConfig
from pipeline.base.errors import DiskError, TrainError
from train import checkpoint
from train.checkpoint import Checkpoints, Place, Restored
from train.optim import make_optimiser


class Store(Checkpoints):
    """Saves and loads a module and its optimiser after whole epochs."""

    def save_epoch(self, epoch: int, module: nn.Module, optimiser: torch.optim.Optimizer, records: list) -> None:
        self.save(epoch, Place(epoch + 1, 0), {"task": module.state_dict()}, optimiser, {"records": records})

    def load_epoch(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> Restored | None:
        restored = self.load(optimiser)
        if restored:
            with self.fitting():
                module.load_state_dict(restored.groups["task"])
        return restored


def state(value: float = 1.0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A module with weights `value` and an optimiser that has made one step."""
    module = nn.Linear(2, 2)
    optimiser = make_optimiser(module, OptimConfig())
    module(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    nn.init.constant_(module.weight, value)
    return module, optimiser


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path, lines) -> Store:
    return Store(tmp_path / "ckpt", "key", "cpu", lines.append)


def names(store: Store) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_round_trip(store):
    module, optimiser = state(3.0)
    store.save_epoch(7, module, optimiser, [{"epoch": 7}])
    assert not list(store.folder.rglob(".*"))  # nor what held it while it was written
    fresh, its_optimiser = state(0.0)
    restored = store.load_epoch(fresh, its_optimiser)
    assert (restored.place, restored.facts) == (Place(8, 0), {"records": [{"epoch": 7}]})
    assert torch.equal(fresh.weight, torch.full((2, 2), 3.0))
    ours, theirs = its_optimiser.state_dict(), optimiser.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert all(torch.equal(ours["state"][i]["momentum_buffer"], theirs["state"][i]["momentum_buffer"]) for i in (0, 1))


def test_nothing_saved_nothing_loaded(store):
    assert store.load_epoch(*state()) is None


def test_only_the_newest_is_kept_and_leftovers_go(store):
    store.save_epoch(1, *state(1.0), [])
    (store.folder / ".part-killed").mkdir()
    store.save_epoch(2, *state(2.0), [])
    assert names(store) == ["at-000000000002-key"]


def test_a_failing_write_keeps_the_older_one(store, monkeypatch):
    store.save_epoch(1, *state(1.0), [])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_json", full)
    wanted = (
        r"at-000000000002-key: no space left to write it .*; make room and run the same command again; what was saved before is still there"
    )
    with pytest.raises(DiskError, match=wanted):
        store.save_epoch(2, *state(2.0), [])
    assert names(store) == ["at-000000000001-key"]


def kill_at(moment: int, store: Store) -> bool:
    """Save epoch 2 in a child process that ends like SIGKILL at its `moment`-th touch of the disk; true: it got through."""
    touches = count()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def dying(call):
        def touch(*given, **named):
            if next(touches) == moment:
                os._exit(9)
            return call(*given, **named)

        return touch

    for name in ("fsync", "mkdir", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    checkpoint.save_file = dying(checkpoint.save_file)
    store.save_epoch(2, *state(2.0), [])
    os._exit(0)


def test_killed_at_any_touch_of_the_disk_there_is_a_whole_one(store):
    """R1: epoch 1 until the rename, epoch 2 after it; never none, never half of one; and the next save cleans up."""
    found = []
    for moment in count():
        shutil.rmtree(store.folder, ignore_errors=True)
        store.save_epoch(1, *state(1.0), [])
        through = kill_at(moment, store)
        module, optimiser = state(0.0)
        found.append(store.load_epoch(module, optimiser).place.epoch - 1)
        assert module.weight[0, 0] == found[-1]
        if through:
            break
        store.save_epoch(3, *state(3.0), [])
        assert names(store) == ["at-000000000003-key"]
    assert len(found) > 10 and found == sorted(found) and set(found) == {1, 2}


def test_leftovers_of_others_are_not_touched(store):
    store.save_epoch(1, *state(), [])
    (store.folder / "notes.txt").write_text("mine")
    store.save_epoch(2, *state(), [])
    store.end([])
    assert names(store) == ["ended-key", "notes.txt"]


def test_another_key_is_left_alone_with_a_line(store, lines):
    store.save_epoch(9, *state(9.0), [])
    other = Store(store.folder, "other", "cpu", lines.append)
    module, optimiser = state(0.0)
    assert other.load_epoch(module, optimiser) is None and module.weight[0, 0] == 0
    assert len(lines) == 1 and "at-000000000009-key: checkpoint of another run" in lines[0]
    other.save_epoch(9, module, optimiser, [])
    assert names(store) == ["at-000000000009-key", "at-000000000009-other"]
    other.end([])
    assert names(store) == ["at-000000000009-key", "ended-other"]
    assert store.load_epoch(module, optimiser).place == Place(10, 0) and module.weight[0, 0] == 9


@pytest.mark.parametrize("name", ["task.safetensors", checkpoint.OPTIMISER])
def test_damage_is_refused(store, name):
    store.save_epoch(1, *state(), [])
    file = store.folder / "at-000000000001-key" / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(TrainError, match=f"{name}: damaged"):
        store.load_epoch(*state())


def test_another_shape_is_one_sentence(store):
    store.save_epoch(1, *state(), [])
    module = nn.Linear(3, 2)
    with pytest.raises(TrainError, match="does not fit the network of this code"):
        store.load_epoch(module, make_optimiser(module, OptimConfig()))


def test_another_device_is_told(store, lines):
    store.save_epoch(1, *state(), [])
    assert Store(store.folder, "key", "cuda", lines.append).load_epoch(*state()).place == Place(2, 0)
    assert "made on cpu, resumed on cuda" in lines[0]


def test_what_was_made_is_there_again(store, tmp_path):
    (tmp_path / "made.txt").write_text("result")
    store.save_epoch(1, *state(), [])
    assert not store.has_ended()
    store.end([tmp_path / "made.txt"])
    assert names(store) == ["ended-key"]
    (tmp_path / "again").mkdir()
    assert store.ended(tmp_path / "again") and (tmp_path / "again" / "made.txt").read_text() == "result"
    assert not Store(store.folder, "other", "cpu", print).ended(tmp_path)  # negative control


def test_what_was_made_and_is_damaged_is_not(store, tmp_path, lines):
    (tmp_path / "made.txt").write_text("result")
    store.end([tmp_path / "made.txt"])
    (store.folder / "ended-key" / "made.txt").write_text("resulT")
    assert not store.ended(tmp_path / "again") and "ended-key: not what the training made; trained again" in lines[0]
