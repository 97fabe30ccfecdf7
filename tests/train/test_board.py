"""TensorBoard: what is written comes back from the event files; without the package; nothing in the training moves."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.registry import make
from pipeline.base.errors import ConfigError
from tests.train.tiny import CAMERAS, CLASSES, batch, network, run_config
from train import board as board_module
from train import drawing
from train.board import Board, first_clips, mask_maps, open_board, scalars_of
from train.tasks import Distill, Identify

RECORD = {
    "epoch": 2,
    "step": 6,
    "steps": 3,
    "lr": 0.008,
    "loss": 2.5,
    "terms": {"identity": 1.5, "triplet": 1.0},
    "stats": {"mask_0_zero": 0.25},
    "remarks": [],
    "tracklets_per_s": 40.0,
    "data_wait": 0.01,
    "validation": {"mAP": 0.5, "rank1": 0.25, "valid": 4, "queries": 4, "identities": 2},
}
SCALARS = {
    "train/loss": 2.5,
    "train/lr": 0.008,
    "terms/identity": 1.5,
    "terms/triplet": 1.0,
    "stats/mask_0_zero": 0.25,
    "speed/tracklets_per_s": 40.0,
    "speed/data_wait": 0.01,
    "validation/mAP": 0.5,
    "validation/rank1": 0.25,
    "validation/valid": 4,
    "validation/queries": 4,
    "validation/identities": 2,
}


def events(folder):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the package 'tensorboard' is not installed"
    )
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def opened(folder, step=0) -> Board:
    made = open_board("auto", folder, step)
    if made is None:
        pytest.skip("the package 'tensorboard' is not installed")
    return made


def task_of(stage: str = "student", **settings):
    run = run_config(stage, **settings)
    if stage == "visual":
        return Identify(network(run), run.settings), run
    return Distill(network(run), run.settings, make(run.teacher, CLASSES, CAMERAS)), run


def test_names_of_scalars():
    assert scalars_of(RECORD) == SCALARS
    assert scalars_of({name: value for name, value in RECORD.items() if name != "validation"}) == {
        name: value for name, value in SCALARS.items() if not name.startswith("validation")
    }


def test_scalars_come_back(tmp_path):
    board = opened(tmp_path)
    board.scalars(6, SCALARS)
    board.close()
    found = events(tmp_path)
    assert sorted(found.Tags()["scalars"]) == sorted(SCALARS)
    for name, value in SCALARS.items():
        assert [(e.step, e.value) for e in found.Scalars(name)] == [(6, pytest.approx(value))]


@pytest.mark.parametrize(("done", "expected"), [(3, [(3, 1.0), (6, 20.0), (9, 30.0)]), (0, [(6, 20.0), (9, 30.0)])])
def test_a_resumed_training_shows_no_step_twice(tmp_path, done, expected):
    """The first process wrote steps 3 and 6 and was killed; the second goes on after step 3, or begins again."""
    for step, values in ((0, {3: 1.0, 6: 2.0}), (done, {6: 20.0, 9: 30.0})):
        board = opened(tmp_path, step)
        for at, value in values.items():
            board.scalars(at, {"train/loss": value})
        board.close()
    assert [(e.step, e.value) for e in events(tmp_path).Scalars("train/loss")] == expected


def test_pictures_come_back(tmp_path):
    """As drawn, pixel by pixel: the clips, what they hear, and one map of weights for each fusion point."""
    task, run = task_of()
    some, board = batch(clips=12), opened(tmp_path)
    board.pictures(3, task, some, run)
    board.close()
    found = events(tmp_path)
    assert sorted(found.Tags()["images"]) == ["clips", "heard/audio", "masks/after_block_0", "masks/after_block_1"]
    shown = {name: np.array(Image.open(io.BytesIO(found.Images(name)[0].encoded_image_string))) for name in found.Tags()["images"]}
    audio = some.companions["audio"]
    assert np.array_equal(shown["clips"], drawing.clips(some.frames[:8]))
    assert np.array_equal(shown["heard/audio"], drawing.items(audio.values[:8], audio.lengths[:8]))
    maps = mask_maps(task, first_clips(some, 4))
    for i in (0, 1):
        assert np.array_equal(shown[f"masks/after_block_{i}"], drawing.masks(some.frames[:4], maps[i], (2, 2), 16, 16))
    assert found.Images("clips")[0].step == 3


def test_no_masks_and_nobody_hears(tmp_path):
    task, run = task_of("visual")
    board = opened(tmp_path)
    board.pictures(3, task, batch(hears=False), run)
    board.close()
    assert events(tmp_path).Tags()["images"] == ["clips"]
    assert mask_maps(*[task_of(distill={"mask": "off"})[0], batch()]) == []


def test_maps_are_the_weights_that_the_loss_uses():
    """In evaluation mode, where nothing is dropped: mean 1 per frame if normalized; the mask itself if raw."""
    some = batch()
    for mask in ("normalized", "raw"):
        task, _ = task_of(distill={"mask": mask})
        maps = mask_maps(task, some)
        assert [tuple(map_BTN.shape) for map_BTN in maps] == [(4, 2, 5)] * 2
        task.eval()
        with torch.no_grad():
            pairs = task._pairs(task.model(some.frames_only()), task.teacher(some))
            found = task.masks[1](*pairs[1])[0].unflatten(0, (4, 2))
        if mask == "normalized":
            assert torch.allclose(maps[1].mean(-1), torch.ones(4, 2), atol=1e-4)
            found = found / (found.mean(-1, keepdim=True) + 1e-6)
        assert torch.equal(maps[1], found)


class Kept:
    """A writer that keeps what it gets, where the package is not installed."""

    def __init__(self):
        self.images = {}

    def add_image(self, name, picture, step, dataformats):
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and dataformats == "HWC"
        self.images[name] = picture


def test_pictures_leave_the_training_as_it_is():
    task, run = task_of()
    task.train()
    task.masks[0].eval()  # a part that is in another mode for reasons of its own
    modes, state = [part.training for part in task.modules()], torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    some = batch()
    writer = Kept()
    Board(writer, Path()).pictures(3, task, some, run)
    assert set(writer.images) == {"clips", "heard/audio", "masks/after_block_0", "masks/after_block_1"}
    assert [part.training for part in task.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(task.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in task.parameters())
    assert torch.equal(some.frames, batch().frames) and len(some.tracklet) == 4


def test_only_items_that_somebody_hears_are_shown():
    task, run = task_of()
    some = batch()
    some.companions["audio"].align[:] = torch.tensor([[-1, 2], [2, 2], [-1, -1], [0, -1]])
    writer = Kept()
    Board(writer, Path()).pictures(3, task, some, run)
    audio = some.companions["audio"]
    assert np.array_equal(writer.images["heard/audio"], drawing.items(audio.values[[2, 0]], audio.lengths[[2, 0]]))


def test_without_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert open_board("auto", tmp_path / "b", 0) is None
    assert "no TensorBoard: the package 'tensorboard' cannot be imported" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"machine\.tensorboard=on: .* install it, or set it to auto or off"):
        open_board("on", tmp_path / "b", 0)
    assert open_board("off", tmp_path / "b", 0) is None and capsys.readouterr().err == ""
    assert not (tmp_path / "b").exists()


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(board_module, "rank", lambda: 1)
    assert open_board("on", tmp_path / "b", 0) is None and not (tmp_path / "b").exists()
