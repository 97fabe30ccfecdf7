"""`train.fit` with other machine settings: three data paths, loader processes, recomputed blocks; held-out identities; TensorBoard."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model import weights
from pipeline.base.errors import ConfigError, TrainError
from pipeline.base.files import digest_file, write_json
from tests.train.test_fit import Data, metrics, train
from tests.train.tiny import pack, run_config

WINDOWED = {"sampler": {"identities": 2, "tracklets": 2, "window": 1}, "stages": {"teacher": {"epochs": 3}, "visual": {"epochs": 3}}}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return Data(*pack(tmp_path_factory.mktemp("data"), classes=4))


def trained(folder: Path, data: Data, stage: str, *more: str, machine: dict[str, Any] | None = None, **method: Any) -> Path:
    """A weight file; `machine` is given as a file of its own."""
    folder.mkdir()
    write_json(folder / "machine.json", {"workers": 0, "checkpoint_seconds": 0, **(machine or {})})
    return train(folder, data, run_config(stage, **{**WINDOWED, **method}), f"--machine={folder / 'machine.json'}", *more)


@pytest.fixture(scope="module")
def indexed(data, tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return trained(tmp_path_factory.mktemp("a") / "indexed", data, "teacher")


@pytest.mark.parametrize(
    "machine",
    [
        {"data": "resident"},
        {"data": "stream"},
        {"data": "stream", "workers": 3},
        {"workers": 2},
        {"recompute": True},
        {"checkpoint_steps": 1, "pictures_epochs": 1},
    ],
    ids=str,
)
def test_no_machine_setting_changes_the_weights(data, indexed, tmp_path, machine):
    """With sound and everything random that a teacher has."""
    store = f"--checkpoints={tmp_path / 'ckpt'}"
    assert digest_file(trained(tmp_path / "out", data, "teacher", store, machine=machine)) == digest_file(indexed)


def test_another_order_does(data, indexed, tmp_path):
    """Negative control: the order of windows is a setting of the method, and not that of the whole set."""
    made = trained(tmp_path / "out", data, "teacher", sampler={"identities": 2, "tracklets": 2, "window": 0})
    assert digest_file(made) != digest_file(indexed)


def test_a_stream_from_elsewhere(data, indexed, tmp_path):
    """Only INDEX is here; held-out identities need their tars here."""
    away, here = tmp_path / "away", tmp_path / "here"
    away.mkdir()
    here.mkdir()
    (away / "00000.tar").write_bytes(data.index.with_suffix(".tar").read_bytes())
    (here / "00000.parquet").write_bytes(data.index.read_bytes())
    apart = Data(here / "00000.parquet", data.split)
    machine = {"data": "stream", "urls": f"{away}/{{shard}}"}
    assert digest_file(trained(tmp_path / "out", apart, "teacher", machine=machine)) == digest_file(indexed)
    with pytest.raises(TrainError, match=r"held-out tracklets are read from tars beside .*copy the tars there, or set it to 0"):
        trained(tmp_path / "held", apart, "visual", machine=machine, validation={"identities": 2})
    with pytest.raises(ConfigError, match=r"commands"):
        trained(tmp_path / "pipe", apart, "teacher", machine={"data": "stream", "urls": f"pipe:cat {away}/{{shard}}"})
    machine |= {"urls": f"pipe:cat {away}/{{shard}}", "commands": True}
    assert digest_file(trained(tmp_path / "allowed", apart, "teacher", machine=machine)) == digest_file(indexed)


def test_the_best_of_the_looks_is_kept(data, tmp_path, capsys):
    """Its mAP is the highest, the weights say so, and both stages hold out the same identities."""
    method = {"validation": {"identities": 2, "epochs": 1, "keep": "best"}, "stages": {"visual": {"epochs": 6}}}
    made = trained(tmp_path / "out", data, "visual", **method)
    *records, last = metrics(tmp_path / "out")
    looks = [record["validation"]["mAP"] for record in records]
    kept = weights.read_meta(made)["kept"]
    assert len(looks) == 6 and kept == last["kept"]
    assert f"visual 6/6  2 held-out identities: mAP {looks[-1]:.1%}, rank-1" in capsys.readouterr().err
    assert (kept["keep"], kept["epoch"], kept["mAP"]) == ("best", looks.index(max(looks)) + 1, max(looks))
    assert weights.read_meta(made)["classes"] == 2  # of 4 identities
    assert load_file(made)["head.classifier.weight"].shape == (2, 16)


def test_a_network_that_hears_its_label_is_not_looked_at(data, tmp_path, capsys):
    method = {"validation": {"identities": 2, "epochs": 1, "keep": "best"}}
    made = trained(tmp_path / "out", data, "teacher", **method)
    kept = weights.read_meta(made)["kept"]
    assert (kept["keep"], kept["looks"], kept["mAP"]) == ("last", 0, None)
    assert "policy 'id_speaker', and at a look that would tell who it is, so the last epoch is kept" in kept["remark"]
    assert "warning: teacher: no look at held-out identities" in capsys.readouterr().err


def test_looks_survive_a_kill(data, tmp_path, monkeypatch):
    """The best weights of before are in the checkpoint."""
    method = {"validation": {"identities": 2, "epochs": 1, "keep": "best"}, "stages": {"visual": {"epochs": 6}}}
    whole = trained(tmp_path / "whole", data, "visual", **method)

    class KilledError(Exception): ...

    from train.trainer import Training

    save, saved = Training._save, []

    def dying(self: Training) -> None:
        save(self)
        saved.append(self.place)
        if len(saved) == 5:
            raise KilledError

    store = f"--checkpoints={tmp_path / 'ckpt'}"
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Training, "_save", dying)
        trained(tmp_path / "a", data, "visual", store, **method)
    assert digest_file(trained(tmp_path / "b", data, "visual", store, **method)) == digest_file(whole)


def test_tensorboard(data, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    trained(tmp_path / "out", data, "teacher", f"--board={tmp_path / 'board'}", machine={"tensorboard": "on", "pictures_epochs": 2})
    seen = accumulator.EventAccumulator(str(tmp_path / "board"), size_guidance={"images": 0}).Reload()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[:-1]]
    assert [event.value for event in seen.Scalars("train/loss")] == pytest.approx(losses)
    assert [len(seen.Images(name)) for name in ("clips", "heard/audio")] == [2, 2]  # of epochs 1 and 2
    trained(tmp_path / "off", data, "teacher", f"--board={tmp_path / 'none'}", machine={"tensorboard": "off"})
    assert not (tmp_path / "none").exists()
