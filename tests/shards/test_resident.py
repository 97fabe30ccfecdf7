"""The resident loader: the batches of the indexed one, gathered from two tables."""

import dataclasses
import multiprocessing

import pytest
import torch

from pipeline.base import config
from pipeline.base.errors import ConfigError, ShardError
from shards import resident
from shards.loader import TrainLoader, train_loader
from shards.read import Store
from shards.resident import ResidentLoader
from shards.streamed import StreamLoader
from tests.shards.test_loader import CPU, digests, pack, people, run_config, split
from tests.shards.test_training import together

ROWS = people(identities=6)
POLICIES = ("id_speaker", "recorded", "shuffled", "random_clip", "single_speaker", "silence", "noise")


@pytest.fixture(scope="module", autouse=True)
def one_small_chunk():
    """Chunks of two tracklets of 12 frames, so that there are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "CHUNK", 30)
        yield


def loader(index, rank=0, ranks=1, workers=0, rows=ROWS, run=None, hears=True, **machine):
    machine = config.MachineConfig(workers=workers, **machine)
    return ResidentLoader(Store(index), split(rows), run or run_config(), hears, machine, CPU, rank, ranks)


def indexed(index, rows=ROWS, run=None, hears=True):
    return TrainLoader(Store(index), split(rows), run or run_config(), hears, 0)


@pytest.mark.parametrize("kind", ["audio", "audio_tokens"])
@pytest.mark.parametrize("policy", POLICIES)
def test_batches_are_those_of_indexed_tars(tmp_path, policy, kind):
    index, run = pack(tmp_path, kind, ROWS, 2, policy), run_config(kind=kind)
    expected = [digests(indexed(index, run=run).batches(epoch, 0, CPU)) for epoch in (0, 1)]
    found = loader(index, run=run)
    assert [digests(found.batches(epoch, 0, CPU)) for epoch in (0, 1)] == expected
    assert digests(found.batches(1, 2, CPU)) == expected[1][2:]
    assert digests(loader(index, run=run_config(seed=1, kind=kind)).batches(0, 0, CPU)) != expected[0]


def test_workers_and_ranks(tmp_path):
    index = pack(tmp_path, "audio", ROWS, 2)
    whole = together(lambda rank: indexed(index), 1)
    for ranks, workers in ((1, 2), (2, 0), (2, 1)):
        assert together(lambda rank, r=ranks, w=workers: loader(index, rank, r, w), ranks) == whole


def test_frames_and_tracklets_without_sound_shared_items_and_an_order_of_windows(tmp_path):
    rows = [(*row[:4], ["clip18", "clip3"][: 1 + n % 2], [-1] * 6 + [n % 2] * 6) for n, row in enumerate(ROWS)]
    rows[0] = (*rows[0][:4], [], None)
    index, run = pack(tmp_path, "audio", rows, 3, "recorded"), run_config()
    sampler = dataclasses.replace(run.settings.sampler, window=1, lanes=2)
    run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, sampler=sampler))
    found = loader(index, rows=rows, run=run)
    assert digests(found.batches(0, 0, CPU)) == digests(indexed(index, rows, run).batches(0, 0, CPU))
    assert len(found._items) == 20 + 5  # each distinct item once


def test_all_at_once_as_a_gpu_does_it(tmp_path):
    index = pack(tmp_path, "audio", ROWS)
    found = loader(index)
    assert not found._at_once
    found._at_once = True
    assert digests(found.batches(0, 0, CPU)) == digests(indexed(index).batches(0, 0, CPU))


def test_without_sound(tmp_path):
    index = pack(tmp_path, "audio", ROWS)
    found = loader(index, hears=False)
    assert digests(found.batches(0, 0, CPU)) == digests(indexed(index, hears=False).batches(0, 0, CPU))
    assert found._items.numel() == 0


def test_batches_are_checked_on_the_host(tmp_path):
    seen = []
    list(loader(pack(tmp_path, "audio", ROWS)).batches(0, 2, CPU, seen.append))
    (batch,) = seen
    assert batch.frames.shape == (4, 6, 3, 32, 16) and batch.frames.device.type == "meta"
    sound = batch.companions["audio"]
    assert sound.values.shape == (8, 16, 3) and sound.align.device == batch.camera.device == CPU


def test_a_training_set_that_does_not_fit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """18 tracklets of 12 frames of 32 x 16 x 3 bytes, and clips of 2..37 frames of 3 bands of 2 bytes: 331,776 + 4,212 bytes."""
    index = pack(tmp_path, "audio", ROWS)
    size = 18 * 12 * 32 * 16 * 3 + sum(range(2, 38)) * 3 * 2
    monkeypatch.setattr(resident, "free_memory", lambda device: 2 * size)
    said = []
    args = Store(index), split(ROWS), run_config(), True
    ResidentLoader(*args, config.MachineConfig(workers=0, resident_share=0.5), CPU, say=said.append)
    assert said == ["d: 216 training frames of 32x16 and their audio take 0.000 GB of the 0.001 GB that are free on cpu"]
    monkeypatch.setattr(resident, "data_loader", None)
    with pytest.raises(ConfigError, match=r"take 0\.000 GB, more than resident_share=0\.49 of the 0\.001 GB that are free on cpu; use"):
        ResidentLoader(*args, config.MachineConfig(workers=0, resident_share=0.49), CPU)


def test_processes_of_one_machine_share_its_memory(tmp_path, monkeypatch):
    """Four copies fit into eight times the room of one, at a share of a half; with a byte less they do not."""
    index = pack(tmp_path, "audio", ROWS)
    size = 18 * 12 * 32 * 16 * 3 + sum(range(2, 38)) * 3 * 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(resident, "free_memory", lambda device: 8 * size)
    loader(index, resident_share=0.5).close()
    monkeypatch.setattr(resident, "free_memory", lambda device: 8 * size - 1)
    with pytest.raises(ConfigError, match=r"of the 0\.001 GB that are free on cpu for each of 4 processes; use machine\.data=indexed"):
        loader(index, resident_share=0.5)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")  # negative control
    loader(index, resident_share=0.5).close()


def test_free_memory_of_this_machine():
    assert 10**8 < resident.free_memory(CPU) < 10**14


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_frame_is_one_sentence(tmp_path, workers):
    index = pack(tmp_path, "audio", ROWS)
    at = next(m for m in Store(index).table.to_pylist()[4]["members"] if m["suffix"] == "frames.mjpeg")["offset"]
    data = bytearray((tmp_path / "00000.tar").read_bytes())
    data[at : at + 100] = bytes(100)
    (tmp_path / "00000.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"shard 00000\.tar, sample p1t1: frame 0 does not decode"):
        loader(index, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [loader, lambda index, workers: TrainLoader(Store(index), split(ROWS), run_config(), True, workers)])
def test_closing_ends_the_processes_of_an_epoch_that_stands_open(tmp_path, make, workers):
    before = set(multiprocessing.active_children())
    opened = make(pack(tmp_path, "audio", ROWS), workers=workers)
    unused = make(tmp_path / "index.parquet", workers=workers)
    begun = opened.epoch(0)
    next(begun)
    assert len(set(multiprocessing.active_children()) - before) == workers
    for _ in range(2):
        opened.close()
        unused.close()
    assert set(multiprocessing.active_children()) <= before
    for ask in (lambda: next(begun), lambda: opened.epoch(0), lambda: unused.epoch(0)):
        with pytest.raises(RuntimeError, match=r"^this loader was closed$"):
            ask()


def test_another_device_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="lives on cpu"):
        next(loader(pack(tmp_path, "audio", ROWS)).batches(0, 0, torch.device("meta")))


@pytest.mark.parametrize(("data", "kind"), [("indexed", TrainLoader), ("resident", ResidentLoader), ("stream", StreamLoader)])
def test_the_loader_that_the_machine_names(tmp_path, data, kind):
    index, run = pack(tmp_path, "audio", ROWS, 3), run_config()
    run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, sampler=dataclasses.replace(run.settings.sampler, window=1)))
    if data == "stream":
        pytest.importorskip("webdataset")
    made = train_loader(index, split(ROWS), run, True, config.MachineConfig(data=data, workers=0), CPU)
    assert type(made) is kind and made.meta["dataset"] == "d"
    expected = digests(TrainLoader(Store(index), split(ROWS), run, True, 0).batches(0, 0, CPU))
    assert digests(made.batches(0, 0, CPU)) == expected


@pytest.mark.parametrize("data", ["indexed", "resident"])
@pytest.mark.parametrize(
    ("settings", "named"), [({"urls": "/far/{shard}"}, r"urls='/far/\{shard\}'"), ({"commands": True}, "commands=true")]
)
def test_settings_of_a_stream_are_refused_elsewhere(tmp_path, data, settings, named):
    index = pack(tmp_path, "audio", ROWS)
    args = index, split(ROWS), run_config(), True
    with pytest.raises(ConfigError, match=rf"^machine\.{named}: is for machine\.data=stream, but data is '{data}'; "):
        train_loader(*args, config.MachineConfig(data=data, **settings), CPU)
    train_loader(*args, config.MachineConfig(data=data, workers=0), CPU).close()  # negative control
