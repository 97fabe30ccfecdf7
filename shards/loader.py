"""The one loader: drawn frames and companions of packed tracklets -> `Batch`, for training and for evaluation.

In:      a Store (INDEX and tars), a SPLIT table laid over it, a RunConfig.   Out: batches (pipeline/base/batch.py).
Source:  specs/dubbernet.md sections 3.1, 3.2, 3.3, 6 and 7.4. Ours: a worker makes whole batches, and a batch is a pure
         function of (seed, epoch, step). So any number of workers gives the same bytes, and training resumes at any step
         without replaying the steps before it.
"""

# B clips in the batch, T frames per clip, N distinct companion items, F companion frames of width M (mel bands, or a token's)

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.base.batch import Batch, Companion
from pipeline.base.config import RunConfig
from pipeline.base.errors import ConfigError, ShardError, TableError, TrainError, UserError
from pipeline.base.seeds import rng
from shards.balance import Batches
from shards.draw import dense_chunk, dense_count, train_indices
from shards.prepare import PREPARE
from shards.prepare.frames import augment, decode, join


class Samples(Protocol):
    """What the loader needs of a `shards.read.Store`; it goes to the workers, so it pickles."""

    @property
    def table(self) -> pa.Table: ...

    @property
    def meta(self) -> dict[str, Any]: ...

    def frames(self, key: str, indices: Sequence[int]) -> Sequence[bytes | memoryview]: ...

    def companion(self, key: str, kind: str, items: Sequence[int]) -> Sequence[np.ndarray]: ...

    def align(self, key: str, kind: str) -> np.ndarray | None: ...

    def items(self, key: str) -> Sequence[str]: ...


class TrainLoader:
    """Identity-balanced training batches: P identities x K tracklets, one augmented clip of T frames each.

    `batch.erased` says which frames lost a rectangle to augmentation.

    Args:
        store: the packed tracklets.
        split: SPLIT table; rows of role 'train' are used.
        run: the run; its seed, clip, sampler and augment settings decide every byte.
        hears: whether batches carry the companion (to train a network that hears, or to distil from one).
        workers: loader processes; 0 loads in this process. The batches are the same.

    Raises:
        ConfigError, ShardError, TableError, TrainError: INDEX, SPLIT and settings do not fit together.
    """

    steps: int
    """Batches per epoch, the same in each."""
    classes: int
    """Training identities; labels are 0..classes-1."""

    def __init__(self, store: Samples, split: pa.Table, run: RunConfig, hears: bool, workers: int) -> None:
        if hears and not (run.this.hears or run.teacher):
            raise ConfigError(f"stage '{run.stage}' neither hears nor has a teacher that could: load it without its companion")
        rows = _rows(store, split, ("train",), run)
        _check_frames(store, run)
        if hears:
            _check_companion(store, run, run.companion)
        labels = {key: row["label"] for key, row in rows.items()}
        self.classes = _classes(rows)
        deaf = [key for key, row in rows.items() if not row["items"]]
        if hears and deaf and store.meta["companion"]["policy"] != "recorded":  # own sound may be missing: counted in ALIGNMENT
            raise TrainError(
                f"{len(deaf)} of {len(rows)} training tracklets have no {run.kind} ({_some(deaf)}), but stage '{run.stage}' hears it; "
                "pack shards whose alignment covers this split"
            )
        sampler = run.settings.sampler
        batches = Batches(labels, sampler.identities, sampler.tracklets, run.seed)
        self.steps = batches.steps
        self._order = _Steps(self.steps)
        self._turn = 0
        self._loader = _data_loader(_TrainBatches(_Clips(store, rows, run, hears), batches), self._order, workers)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in order, from `first_step` on; starting late costs nothing.

        Workers live on from epoch to epoch and serve one iterator at a time: after a later call of this method an
        earlier iterator raises RuntimeError.
        """
        if not 0 <= first_step <= self.steps:
            raise ValueError(f"first_step={first_step}: must be in 0..{self.steps}")
        self._turn += 1
        return self._iterate(epoch, first_step, self._turn)

    def _iterate(self, epoch: int, first_step: int, turn: int) -> Iterator[Batch]:
        self._require_turn(turn)
        self._order.epoch, self._order.first = epoch, first_step
        batches = _checked(self._loader)
        for _ in range(first_step, self.steps):
            self._require_turn(turn)
            yield next(batches)

    def _require_turn(self, turn: int) -> None:
        if turn != self._turn:
            raise RuntimeError("another epoch of this loader was started meanwhile")


class DenseLoader:
    """Every clip of the tracklets of some roles, as they are, batched across tracklets in the order of their names.

    `batch.tracklet` names the tracklet of each clip; clips of one tracklet may be spread over neighbouring batches.
    Labels are -1; `batch.erased` is None.

    Args:
        store: the packed tracklets.
        split: SPLIT table.
        roles: roles of SPLIT to load, for example ``("query", "gallery", "junk")``; a role may have no tracklet.
        run: the run; `settings.clip` says which frames make a clip.
        hears: whether batches carry the companion. A stage that does not hear is refused; so are, for other roles than
            'train', shards whose test tracklets have no sound (meta `test`), mostly because it would give the label away.
        workers: loader processes; 0 loads in this process. The batches are the same.
        batch_frames: most frames in one batch, at least `settings.clip.frames`.

    Raises:
        ConfigError, ShardError, TableError: INDEX, SPLIT and settings do not fit together, or `hears` is refused.
    """

    def __init__(
        self, store: Samples, split: pa.Table, roles: Sequence[str], run: RunConfig, hears: bool, workers: int, batch_frames: int
    ) -> None:
        T = run.settings.clip.frames
        if batch_frames < T:
            raise ConfigError(f"batch_frames={batch_frames}: at least clip.frames={T}, one clip")
        rows = _rows(store, split, roles, run)
        _check_frames(store, run)
        if hears:
            _check_companion(store, run, run.test_companion)
            _check_may_hear(store, roles, run)
        self._data = _DenseBatches(_Clips(store, rows, run, hears), batch_frames // T)
        self._workers = workers

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._data)

    def __iter__(self) -> Iterator[Batch]:
        return _checked(_data_loader(self._data, range(len(self._data)), self._workers))


# --- what is checked before the first batch ---------------------------------------------------------------------------


def _rows(store: Samples, split: pa.Table, roles: Sequence[str], run: RunConfig) -> dict[str, dict[str, Any]]:
    """INDEX row with role and label of each tracklet of `roles`, by name, sorted."""
    columns = ["key", "shard", "identity", "camera", "frames", "items"]
    index = {row["key"]: row for row in store.table.select(columns).to_pylist()}
    where = f"split '{run.split}' of {run.dataset}"
    used = {row["tracklet"]: row for row in split.to_pylist() if row["role"] != "unused"}
    missing = sorted(used.keys() - index.keys())
    if missing:
        raise ShardError(
            f"{where}: {len(missing)} of {len(used)} tracklets are not in the shards ({_some(missing)}); "
            "make SPLIT and shards from the same TRACKLETS"
        )
    wanted = sorted(key for key, row in used.items() if row["role"] in roles)
    if not wanted:
        raise TableError(f"{where}: no tracklet has the role {' or '.join(roles)}")
    return {key: {**used[key], **index[key]} for key in wanted}


def _check_frames(store: Samples, run: RunConfig) -> None:
    packed = store.meta["frames"]
    if (packed["height"], packed["width"]) != (run.height, run.width):
        raise ShardError(
            f"shards of {run.dataset} hold frames of {packed['height']}x{packed['width']} (height x width), "
            f"the run expects {run.height}x{run.width}; pack again or set datasets.{run.dataset}.frames"
        )


def _check_companion(store: Samples, run: RunConfig, name: str) -> None:
    """The packed companion is of the run's kind, width and (tokens) length; `name` is its entry in the settings."""
    packed = store.meta["companion"]
    if packed is None:
        raise ShardError(f"shards of {run.dataset} have no companion, but stage '{run.stage}' hears {run.kind}; pack them with one")
    if (packed["kind"], packed["bands"]) != (run.kind, run.bands):
        raise ShardError(
            f"shards of {run.dataset} hold {_sized(packed['kind'], packed['bands'])}, "
            f"the run expects {_sized(run.kind, run.bands)}; pack again or set companions.{name}"
        )
    if run.kind == "audio_tokens" and packed["tokens"]["length"] != run.item_frames:
        raise ShardError(
            f"shards of {run.dataset} hold {packed['tokens']['length']} tokens per item, "
            f"the run expects {run.item_frames}; pack again or set companions.{name}.tokens"
        )


def _sized(kind: str, bands: int) -> str:
    return f"{kind} of width {bands}" if kind == "audio_tokens" else f"{kind} of {bands} bands"


def _check_may_hear(store: Samples, roles: Sequence[str], run: RunConfig) -> None:
    if not run.this.hears:
        raise ConfigError(f"stage '{run.stage}' does not hear: it is evaluated on frames alone")
    companion, others = store.meta["companion"], [role for role in roles if role != "train"]
    if others and not companion["test"]:
        name, leak = f"companions.{run.test_companion}", ", because at test time it would give the identity away"
        raise ConfigError(
            f"roles {', '.join(others)} may not hear: {name} (policy '{companion['policy']}') gives sound to training tracklets only"
            f"{leak if companion['label_derived'] else ''}; let stages.{run.stage}.test_companion name one of policy silence or recorded, "
            f"set {name}.alignment.oracle_test_audio to measure it as oracle, or evaluate a stage that does not hear"
        )


def _classes(rows: Mapping[str, Mapping[str, Any]]) -> int:
    """The number of training identities, after checking that labels 0..K-1 and identities are one to one."""
    pairs = {(row["label"], row["identity"]) for row in rows.values()}
    labels, identities = {label for label, _ in pairs}, {identity for _, identity in pairs}
    if not len(pairs) == len(labels) == len(identities) or labels != set(range(len(labels))):
        raise TableError(
            f"training labels: {len(labels)} labels up to {max(labels)} for {len(identities)} identities; "
            "expected one label 0..K-1 for each identity"
        )
    return len(labels)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


# --- what a worker does -----------------------------------------------------------------------------------------------


class _Clips:
    """Reads drawn clips from the store and puts them into a batch."""

    def __init__(self, store: Samples, rows: Mapping[str, Mapping[str, Any]], run: RunConfig, hears: bool) -> None:
        self.store, self.rows, self.run, self.hears = store, rows, run, hears

    def pictures(self, key: str, indices: np.ndarray) -> Tensor:
        """uint8 [len(indices), 3, H, W]; a frame that is drawn twice is decoded once."""
        distinct, back = np.unique(indices, return_inverse=True)
        jpegs = self.store.frames(key, distinct.tolist())
        pictures = decode(jpegs, self.run.height, self.run.width, f"shard {self.rows[key]['shard']}, sample {key}", distinct)
        return pictures if len(distinct) == len(indices) else pictures[torch.from_numpy(back)]

    def batch(
        self,
        frames: Sequence[Tensor],
        keys: list[str],
        heard: Sequence[tuple[str, np.ndarray]],
        labels: list[int],
        erased: list[Tensor] | None,
        cut: np.random.Generator | None,
    ) -> Batch:
        """Put B clips of the tracklets `keys` together.

        `frames` are the pictures of all clips in a row, in parts uint8 [any number, 3, H, W]; `heard` names for each clip
        the tracklet and its frames [T] whose sound it hears (usually its own); `erased` are the flags bool [T] of each clip
        (None: nothing was augmented); `cut` says where long items are cut (None: around their centre).
        """
        cameras = [self.rows[key]["camera"] for key in keys]
        companions = {self.run.kind: self._companion(heard, cut)} if self.hears else {}
        pictures = join(frames).unflatten(0, (len(keys), -1))
        flags = None if erased is None else torch.stack(erased)
        return Batch(pictures, torch.tensor(labels), torch.tensor(cameras), keys, companions, flags)

    def _companion(self, heard: Sequence[tuple[str, np.ndarray]], cut: np.random.Generator | None) -> Companion:
        """The items of these frames, each distinct name once, in order of first use."""
        kind = self.run.kind
        place: dict[str, int] = {}
        values: list[np.ndarray] = []
        align = np.full((len(heard), len(heard[0][1])), -1, np.int64)
        for b, (key, drawn) in enumerate(heard):
            item_of_frame = self.store.align(key, kind)
            if item_of_frame is None:
                continue
            names, of_clip = self.store.items(key), item_of_frame[drawn].tolist()
            new = [item for item in dict.fromkeys(of_clip) if item >= 0 and names[item] not in place]
            for item in new:
                place[names[item]] = len(place)
            values += self.store.companion(key, kind, new)
            align[b] = [place[names[item]] if item >= 0 else -1 for item in of_clip]
        fitted, lengths = PREPARE[kind](values, self.run.item_frames, self.run.bands, cut)
        return Companion(fitted, lengths, torch.from_numpy(align))


class _Batches(Dataset[Batch | UserError]):
    """Makes a whole batch per item. A UserError is handed over as a value: torch would raise it again with the worker's
    traceback in its message instead of its one sentence."""

    def make(self, at: Any) -> Batch:
        raise NotImplementedError

    def __getitem__(self, at: Any) -> Batch | UserError:
        try:
            return self.make(at)
        except UserError as error:
            return error


class _TrainBatches(_Batches):
    def __init__(self, clips: _Clips, batches: Batches) -> None:
        self._clips, self._batches = clips, batches
        self._policy = clips.store.meta["companion"]["policy"] if clips.hears else ""
        self._sounding = [key for key, row in clips.rows.items() if row["items"]]
        self._by_label: dict[int, list[str]] = {}
        for key in self._sounding:
            self._by_label.setdefault(clips.rows[key]["label"], []).append(key)

    def _speakers(self, keys: Sequence[str], epoch: int, step: int) -> list[str]:
        """The tracklet whose sound each clip hears: its own, but for three controls, which must not be learnt by heart.

        shuffled: a tracklet of the identity that a permutation, new in each epoch, puts in the place of its own. Within an
        epoch it is one to one, so the clips of one identity still share a voice: only whose voice it is cannot be learnt.
        random_clip, single_speaker: any tracklet, drawn anew for each clip. Of one speaker too, each tracklet was allotted
        clips of its own, which would give the identity away.
        """
        seed = self._clips.run.seed
        draw = rng(seed, "speaker", epoch, step)
        if self._policy in ("random_clip", "single_speaker"):
            return [self._sounding[i] for i in draw.integers(len(self._sounding), size=len(keys))]
        if self._policy == "shuffled":
            labels = sorted(self._by_label)
            other = dict(zip(labels, rng(seed, "shuffle", epoch).permutation(labels).tolist(), strict=True))
            choices = [self._by_label[other[self._clips.rows[key]["label"]]] for key in keys]
            return [some[draw.integers(len(some))] for some in choices]
        return list(keys)

    def make(self, at: tuple[int, int]) -> Batch:
        """The batch of (epoch, step)."""
        run = self._clips.run
        keys = self._batches.batch(*at)
        frames, erased, indices = [], [], []
        for slot, key in enumerate(keys):
            draw = rng(run.seed, "draw", *at, slot)
            indices.append(train_indices(self._clips.rows[key]["frames"], run.settings.clip.frames, draw))
            pictures, flags = augment(self._clips.pictures(key, indices[-1]), run.settings.augment, draw)
            frames.append(pictures)
            erased.append(flags)
        rows = self._clips.rows
        labels = [rows[key]["label"] for key in keys]
        speakers = self._speakers(keys, *at)
        heard = [
            (speaker, own if speaker == key else own * rows[speaker]["frames"] // rows[key]["frames"])
            for key, speaker, own in zip(keys, speakers, indices, strict=True)
        ]
        return self._clips.batch(frames, keys, heard, labels, erased, rng(run.seed, "cut", *at))


class _DenseBatches(_Batches):
    def __init__(self, clips: _Clips, clips_per_batch: int) -> None:
        clip = clips.run.settings.clip
        self._clips, self._size, self._T = clips, clips_per_batch, clip.frames
        self._keys = list(clips.rows)
        counts = [dense_count(clips.rows[key]["frames"], clip.frames, clip.max_clips) for key in self._keys]
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return -(-int(self._first[-1]) // self._size)

    def make(self, at: int) -> Batch:
        """Batch `at`: clips ``at * size`` and on, of all clips in a row."""
        numbers = np.arange(at * self._size, min((at + 1) * self._size, self._first[-1]))
        tracklets = np.searchsorted(self._first, numbers, side="right") - 1
        frames, keys, indices = [], [], []
        for tracklet in np.unique(tracklets):
            key = self._keys[tracklet]
            own = numbers[tracklets == tracklet] - self._first[tracklet]
            chunks = [dense_chunk(self._clips.rows[key]["frames"], self._T, int(number)) for number in own]
            frames.append(self._clips.pictures(key, np.concatenate(chunks)))
            keys += [key] * len(chunks)
            indices += chunks
        return self._clips.batch(frames, keys, list(zip(keys, indices, strict=True)), [-1] * len(keys), None, None)


class _Steps:
    """The order in which steps are asked for; changed from epoch to epoch while the workers live on."""

    def __init__(self, steps: int) -> None:
        self.steps, self.epoch, self.first = steps, 0, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, step) for step in range(self.first, self.steps))

    def __len__(self) -> int:
        return self.steps - self.first


def _data_loader(data: _Batches, order: Sequence[int] | _Steps, workers: int) -> DataLoader[Batch | UserError]:
    """torch's DataLoader over whole batches. Each worker computes on one thread (torch sees to that).

    Its own generator keeps torch from taking a number out of the global stream, which would tie the dropout of a resumed
    training to how often loaders were started.
    """
    return DataLoader(
        data,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def _checked(loader: DataLoader[Batch | UserError]) -> Iterator[Batch]:
    for made in loader:
        if isinstance(made, UserError):
            try:
                raise made
            finally:
                del made  # else the error and this frame hold each other, and with them the workers
        yield made
