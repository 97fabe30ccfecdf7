"""The stream loader: the batches of the indexed one, from tars read in order, in bounded memory, from any step on."""

import contextlib
import dataclasses
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.base import config
from pipeline.base.errors import ConfigError, ShardError
from shards.loader import TrainLoader
from shards.read import Index, Store
from shards.stream import Tars
from shards.streamed import Reading, StreamLoader
from tests.shards.test_loader import CPU, pack, people, run_config, split
from tests.shards.test_training import clips, together

pytest.importorskip("webdataset")

ROWS = people(identities=18, tracklets=5, frames=7)
STEPS = 9
"""18 identities of two groups, four in a batch."""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("store"), "audio", ROWS, shards=8)


def run(window=2, lanes=2, **other):
    made = run_config(P=4, **other)
    sampler = dataclasses.replace(made.settings.sampler, window=window, lanes=lanes)
    return dataclasses.replace(made, settings=dataclasses.replace(made.settings, sampler=sampler))


def streamed(index, rank=0, ranks=1, workers=0, hears=True, settings=None, **machine):
    machine = config.MachineConfig(workers=workers, **machine)
    return StreamLoader(Index(index), split(ROWS), settings or run(), hears, machine, rank, ranks)


def indexed(index, rank=0, ranks=1, workers=0, hears=True, settings=None):
    return TrainLoader(Store(index), split(ROWS), settings or run(), hears, workers, rank, ranks)


def test_a_stream_gives_the_batches_of_indexed_tars(index):
    whole = {epoch: together(lambda rank: indexed(index), 1, epoch) for epoch in (0, 1, 2)}
    assert len(whole[0]) == STEPS
    for ranks, workers in itertools.product((1, 2), (0, 1, 4)):
        loaders = [streamed(index, rank, ranks, workers) for rank in range(ranks)]
        for epoch in (0, 1):  # the second is read ahead
            assert together(lambda rank, of=loaders: of[rank], ranks, epoch) == whole[epoch], (ranks, workers)
    for first, (ranks, workers) in itertools.product((1, 4, 8, 9), ((1, 0), (2, 2))):
        assert together(lambda rank, r=ranks, w=workers: streamed(index, rank, r, w), ranks, 2, first) == whole[2][first:]
    for ranks, workers in ((2, 0), (1, 2)):  # the order of windows does not depend on who reads it
        assert together(lambda rank, r=ranks, w=workers: indexed(index, rank, r, w), ranks) == whole[0]
    for other in (run(seed=1), run(window=4), run(lanes=1)):  # negative control
        assert together(lambda rank, settings=other: streamed(index, settings=settings), 1) != whole[0]


def test_without_sound(index):
    expected = [clips(batch) for batch in indexed(index, hears=False).batches(0, 0, CPU)]
    assert [clips(batch) for batch in streamed(index, hears=False).batches(0, 0, CPU)] == expected


def spy(loader):
    """Shards in the order in which this loader opens them."""
    opened, real = [], loader._tars.samples
    loader._tars.samples = lambda shard, *more: opened.append(shard) or real(shard, *more)
    return opened


def test_going_on_in_the_middle_reads_from_the_window_of_that_step(index):
    loader = streamed(index, settings=run(lanes=1))
    opened = spy(loader)
    (windows,) = loader.order.windows.windows(3)
    assert len(windows) == 4
    list(loader.epoch(3, windows[1].first))
    expected = [shard for window in windows[1:] for shard in window.shards]
    assert opened[: len(expected)] == expected


def test_the_next_epoch_goes_on_with_what_was_read_ahead(index):
    loader = streamed(index, settings=run(lanes=1))
    opened = spy(loader)
    for epoch in range(3):
        list(loader.epoch(epoch))
    order = [shard for epoch in range(4) for window in loader.order.windows.windows(epoch)[0] for shard in window.shards]
    begun = opened.copy()  # reading goes on
    assert begun == order[: len(begun)] and len(begun) >= 3 * 8
    list(loader.epoch(7))
    assert len(opened) >= len(begun) + 8  # another place: read anew


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_bounded_and_samples_go_after_their_last_use(index, monkeypatch, workers):
    most, real = [], Reading._keep

    def keep(self, *args):
        done = real(self, *args)
        most.append((max(self._bytes.values()), self.limit))
        return done

    monkeypatch.setattr(Reading, "_keep", keep)
    loader = streamed(index, workers=workers)
    sizes = Tars(Index(index)).sizes
    for epoch in range(3):
        for _ in loader.epoch(epoch):
            time.sleep(0.005)  # let the readers run into their limit
    assert loader.order.windows.largest == 2 and {limit for _, limit in most} == {3 * max(sizes.values())}
    assert max(found for found, _ in most) <= 3 * max(sizes.values())
    reading = loader._reading
    reading.stop()
    assert not any(epoch < 3 for epoch in reading._uses)


def test_an_epoch_left_early_does_not_disturb_the_next(index):
    loader = streamed(index, workers=2)
    expected = [clips(batch) for batch in streamed(index).batches(1, 0, CPU)]
    early = loader.epoch(0)
    next(early)
    assert [clips(batch) for batch in loader.batches(1, 0, CPU)] == expected
    with pytest.raises(RuntimeError, match="another epoch"):
        next(early)


def test_threads_end_with_the_loader(index):
    before = set(threading.enumerate())
    loader = streamed(index, workers=2)
    next(loader.epoch(0))
    mine = set(threading.enumerate()) - before
    assert len(mine) >= 3
    del loader
    gc.collect()
    for thread in mine:
        thread.join(5)
    assert not any(thread.is_alive() for thread in mine)


STALLED = "pipe:echo $$ >> {folder}/pids; sleep 600; cat {folder}/{shard}"
"""The shell's number is that of its process group."""


def groups_end(pids):
    """Whether all process groups that a stalled stream has noted are gone within 5 seconds."""

    def lives(group):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        return True

    groups = [int(line) for line in pids.read_text().split()]
    until = time.monotonic() + 5
    while any(map(lives, groups)) and time.monotonic() < until:
        time.sleep(0.02)
    return len(groups), not any(map(lives, groups))


@pytest.fixture
def stalled(tmp_path):
    """(index, urls, pids): a server that says nothing; two lanes wait for it."""
    index = pack(tmp_path, "audio", ROWS, shards=8)
    yield index, STALLED.replace("{folder}", str(tmp_path)), tmp_path / "pids"
    for line in (tmp_path / "pids").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(line), signal.SIGKILL)


def begun(pids):
    """Wait until both lanes have started their command."""
    until = time.monotonic() + 60
    while time.monotonic() < until and not (pids.exists() and len(pids.read_text().split()) == 2):
        time.sleep(0.02)


def ask(loader):
    """Wait for a batch in another thread."""

    def first():
        with contextlib.suppress(RuntimeError):  # closed
            next(loader.epoch(0))

    threading.Thread(target=first, daemon=True).start()


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_ends_commands_and_threads_that_wait(stalled, workers):
    index, urls, pids = stalled
    before = set(threading.enumerate())
    loader = streamed(index, workers=workers, urls=urls, commands=True)
    ask(loader)
    begun(pids)
    loader.close()
    mine = set(threading.enumerate()) - before
    for thread in mine:
        thread.join(5)
    assert not any(thread.is_alive() for thread in mine)
    assert groups_end(pids) == (2, True)
    loader.close()
    with pytest.raises(RuntimeError, match=r"^this loader was closed$"):
        loader.epoch(0)


FAILS = """
import sys
from pathlib import Path
from tests.shards import test_streamed as t
loader = t.streamed(Path(sys.argv[1]), workers=2, urls=sys.argv[2], commands=True)
t.ask(loader)
t.begun(Path(sys.argv[1]).parent / "pids")
if sys.argv[3] == "close":
    loader.close()
raise SystemExit("training failed")
"""


@pytest.mark.parametrize("closes", [True, False])
def test_a_process_that_fails_ends_although_its_stream_stalls(stalled, repository, closes):
    index, urls, pids = stalled
    command = [sys.executable, "-c", FAILS, str(index), urls, "close" if closes else "leave"]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) as process:
        begun(pids)
        try:
            _, said = process.communicate(timeout=20 if closes else 4)
        except subprocess.TimeoutExpired:  # negative control: threads wait for the server
            process.kill()
            assert not closes
            return
    assert closes and process.returncode == 1 and "training failed" in said
    assert groups_end(pids) == (2, True)


TOLD = """
import signal, sys
from pathlib import Path
from tests.shards import test_streamed as t
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
if sys.argv[3] == "open":
    signal.pthread_sigmask = lambda *_: None
loader = t.streamed(Path(sys.argv[1]), workers=2, urls=sys.argv[2], commands=True)
batches = [t.clips(batch) for batch in loader.batches(0, 0, t.CPU)]
assert heard and batches == [t.clips(batch) for batch in t.indexed(Path(sys.argv[1])).batches(0, 0, t.CPU)]
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Python gives handlers back before it ends; a command may send one so late
loader.close()
"""


@pytest.mark.parametrize("kept", [True, False])
def test_sigterm_to_all_processes_does_not_end_the_stream(index, repository, kept):
    """Each command has SIGTERM sent to itself, all that it starts, and the training."""
    urls = f"pipe:cat {index.parent}/{{shard}} | (kill -TERM 0 $PPID; cat)"
    command = [sys.executable, "-c", TOLD, str(index), urls, "blocked" if kept else "open"]
    done = subprocess.run(command, cwd=repository, stderr=subprocess.PIPE, text=True, timeout=120, start_new_session=True)
    if kept:
        assert done.returncode == 0, done.stderr
    else:  # negative control
        assert "ShardError: shard " in done.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_tar_is_one_sentence(tmp_path, workers):
    index = pack(tmp_path, "audio", ROWS, shards=8)
    tar = tmp_path / "00003.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(ShardError, match=r"shard 00003\.tar: its index implies \d+ bytes") as caught:
        list(streamed(index, workers=workers).epoch(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda index: streamed(index, settings=run(window=0, lanes=1)), r"set sampler\.window"),
        (lambda index: streamed(index, ranks=4), r"4 processes cannot share 2 lanes; set sampler\.lanes to a multiple of 4$"),
        (lambda index: streamed(index, urls="pipe:cat {shard}"), r"machine\.commands=true"),
    ],
)
def test_refused(index, make, message):
    with pytest.raises(ConfigError, match=message):
        make(index)


@pytest.mark.parametrize("policy", ["shuffled", "random_clip", "single_speaker"])
def test_policies_that_hear_other_tracklets_are_refused(tmp_path, policy):
    index = pack(tmp_path, "audio", ROWS, shards=8, policy=policy)
    with pytest.raises(ConfigError, match=rf"policy '{policy}' clips hear other tracklets"):
        streamed(index)
    streamed(index, hears=False)
