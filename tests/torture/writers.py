"""Every writer of the product alone on a full disk.

A writer is a function of a folder that writes more than `PAGES` pages there. What is asked of it: a DiskError, one sentence with the
file's place, that no space is left and what to do; and nothing left in the folder, under a final name or another.
"""

from __future__ import annotations

import gc
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from model import weights
from pipeline import put_text
from pipeline.base import files, tables
from pipeline.base.blocks import BlockWriter
from pipeline.base.config import DemoConfig, OptimConfig
from pipeline.base.errors import DiskError
from pipeline.demo import make_demo
from tests.torture.disks import full
from train import checkpoint, log
from train.board import open_board
from train.checkpoint import Checkpoints, Place
from train.optim import make_optimiser

PAGES = 1
"""Room that a writer gets. Each writes 64 kB or more, the demo many small files of which some are longer."""
SIZE = 1 << 16
DEMO = DemoConfig(
    train_identities=2,
    test_identities=2,
    cameras=2,
    tracklets=1,
    distractors=1,
    junk=1,
    frames=(2, 4),
    pairs=4,
    speakers=4,
    seconds=(0.6, 0.8),
)
"""The smallest demo that the settings allow."""


def bytes_(folder: Path) -> None:
    with files.atomic_open(folder / "new" / "file") as out:
        out.write(os.urandom(SIZE))


def json_(folder: Path) -> None:
    files.write_json(folder / "file.json", "x" * SIZE)


def put(path: Path, text: str) -> None:
    """The step put_text, which takes the text from stdin."""
    with mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{text}\n".encode()))):
        put_text.main([str(path)])


def text(folder: Path) -> None:
    put(folder / "machine.json", "x" * SIZE)


def table(folder: Path) -> None:
    row = {"item": "a", "values": os.urandom(SIZE), "length": 1, "width": SIZE // 2, "dtype": "float16"}
    tables.write_rows(folder / "table.parquet", [row], tables.FEATURES)


def blocks(folder: Path) -> None:
    with files.atomic(folder / "00000.tar") as temporary, open(temporary, "wb", buffering=0) as out:
        writer = BlockWriter(out)
        writer.write(os.urandom(SIZE))
        writer.flush()


def demo(folder: Path) -> None:
    make_demo.make(folder / "demo", DEMO)


def network(folder: Path) -> None:
    weights.save(folder / "model.safetensors", torch.nn.Linear(128, 128), {})


def training_state(folder: Path) -> None:
    module = torch.nn.Linear(128, 128)
    store = Checkpoints(folder / "checkpoints", "key", "cpu", print)
    store.save(1, Place(1, 0), {"task": module.state_dict()}, make_optimiser(module, OptimConfig()), {})


def metrics(folder: Path) -> None:
    log.write_records(folder / "metrics.jsonl", [{"loss": 1.5}] * (SIZE // 10))


def board(folder: Path) -> None:
    """TensorBoard's event file is a log that grows: a part of it may stay, and its readers take it."""
    made = open_board("auto", folder / "board", 0)
    if made is None:
        raise RuntimeError("the package 'tensorboard' is not installed")
    try:
        for step in range(SIZE // 40):
            made.scalars(step, {"loss": 1.0})
        made.close()
    finally:
        for path in (folder / "board").glob("events.out.tfevents.*"):
            path.unlink()


WRITERS: dict[str, Callable[[Path], None]] = {
    "atomic_open": bytes_,
    "write_json": json_,
    "put_text": text,
    "tables": table,
    "BlockWriter": blocks,
    "make_demo": demo,
    "weights": network,
    "checkpoints": training_state,
    "metrics": metrics,
    "TensorBoard": board,
}


def faults(name: str, folder: Path, pages: int = PAGES) -> list[str]:
    """What is wrong with one writer on a disk of so many pages; empty: all is as promised."""
    with full(folder, pages) as disk:
        try:
            WRITERS[name](disk)
        except DiskError as error:
            told, found = str(error), []
            if str(disk) not in told or "no space left to write it" not in told or "run the same command again" not in told:
                found.append(f"{name}: says '{told}'")
            if "\n" in told:
                found.append(f"{name}: says more than a line")
        except Exception as error:
            found = [f"{name}: {type(error).__name__} instead of a DiskError ({error})"]
        else:
            found = [f"{name}: says nothing"]
        gc.collect()  # what a broken writer holds open would keep the disk busy
        left = [str(path.relative_to(disk)) for path in sorted(disk.rglob("*")) if path.is_file()]
        if left:
            found.append(f"{name}: leaves {len(left)} files: {', '.join(left[:3])}")
    return found


@contextmanager
def standing_in(broken: Callable[..., object]) -> Iterator[None]:
    """The product with another `atomic`, wherever it was imported."""
    places = [module for module in (files, tables, weights, checkpoint) if hasattr(module, "atomic")]
    kept = [module.atomic for module in places]
    for module in places:
        setattr(module, "atomic", broken)  # noqa: B010
    try:
        yield
    finally:
        for module, one in zip(places, kept, strict=True):
            setattr(module, "atomic", one)  # noqa: B010
