"""Reading drawn frames, and packing, against what one would do without this format."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline import encode_frames
from pipeline.base import tables
from pipeline.base.files import digest_file
from pipeline.base.seeds import rng
from shards import pack_shard
from shards.read import Index, Store
from shards.whole import check_tars
from tests.bench.timing import interleaved, row

FRAMES, DRAWN, JPEG_BYTES = 60, 6, 6300
"""A mean MARS tracklet: frames, frames that a clip draws, bytes of a frame (stack.md section 4)."""
QUALITY = 64
"""Gives frames of that size."""
SHARDS, TRACKLETS = 96, 208
"""Of MARS, which has 1,191,003 frames; tracklets of one shard. encode_frames reads tables of the whole data set."""
CLIPS, MEL = 8, (501, 80)
"""Of a tracklet of 48 frames or more with one clip for six, and the log-mel of a clip of 5 s, float16."""
ROUNDS = 9


def rows(scale: float = 1.0) -> list[dict]:
    """Figures of one run, ours and the baselines taken in turns; medians of ROUNDS, processor time of one core, warm cache."""
    count = max(4, round(TRACKLETS * scale))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = _inputs(folder, count)
        encode, pack = _arguments(folder)
        encode_frames.main(encode)
        pack_shard.main(pack)
        return [
            *_reading(folder, keys),
            *_packing(folder, keys, encode, pack),
            *_packing_sound(folder, keys, encode, pack),
            *_checking(folder),
        ]


def _reading(folder: Path, keys: list[str]) -> Iterator[dict[str, Any]]:
    count = len(keys)
    _per_frame_tar(folder, keys)
    draw = rng(0, "bench").integers(FRAMES, size=(count, DRAWN))
    store = Store(folder / "00000.parquet")
    order = rng(0, "order").permutation(count).tolist()

    def ours() -> None:
        for _ in range(20):
            for at in order:
                assert len(store.frames(keys[at], draw[at])) == DRAWN

    read, stream = (spent.cpu for spent in interleaved(ROUNDS, ours, lambda: _webdataset(folder / "per_frame.tar", draw)))
    yield row(
        f"read {DRAWN} drawn JPEGs of {FRAMES}, no decoding",
        20 * count / read,
        count / stream,
        "tracklets/s",
        "webdataset 1.0, one member per frame, in order of the tar",
    )
    each = read / 20 / count * 1e3
    yield row("the same, ms per tracklet (baseline: the aim)", each, 0.05, "ms", "0.05 ms, which is what is asked for")


def _packing(folder: Path, keys: list[str], encode: list[str], pack: list[str]) -> Iterator[dict[str, Any]]:
    loose = [f"{folder}/loose/{key}/{frame:03}.jpg" for key in keys for frame in range(FRAMES)]
    tar, made, cat, copy, tree = (folder / name for name in ("finished.tar", "00000.tar", "cat", "copy", "tree"))
    shutil.copyfile(made, tar)
    megabytes = tar.stat().st_size / 1e6

    def both() -> None:
        encode_frames.main(encode)
        pack_shard.main(pack)

    def synced() -> None:
        shutil.copyfile(tar, copy)
        with open(copy, "rb+") as file:
            os.fsync(file.fileno())

    what = "pack_shard: stream to tar, with twin"
    for baseline_is, baseline, new in (
        ("shutil.copyfile of the tar, and fsync, as the tar has it; to a new file", synced, [made, copy]),
        ("shutil.copyfile alone; to a new file", lambda: shutil.copyfile(tar, copy), [made, copy]),
        ("shutil.copyfile alone; each over an older one", lambda: shutil.copyfile(tar, copy), []),
    ):
        ours, theirs = interleaved(ROUNDS, lambda: pack_shard.main(pack), baseline, new=new)
        yield row(what, megabytes / ours.cpu, megabytes / theirs.cpu, "MB/s", baseline_is)
        if baseline is synced:
            yield row(f"{what}, wall time", megabytes / ours.wall, megabytes / theirs.wall, "MB/s", baseline_is)

    made_of_both = [made, folder / "f.mjpeg"]
    for baseline_is, baseline, rounds in (
        ("each file opened, read and written to one file, in Python", lambda: _cat(loose, cat), ROUNDS),
        ("the command cat, of all files into one", lambda: _command_cat(folder / "loose", cat), ROUNDS),
        ("bare system calls and one buffer in Python: a bound", lambda: _bare_cat(loose, cat), ROUNDS),
        ("the command cp -r, to as many loose files", lambda: subprocess.run(["cp", "-r", folder / "loose", tree], check=True), 3),
    ):
        ours, theirs = interleaved(rounds, both, baseline, new=[*made_of_both, cat, tree])
        yield row("encode_frames, pack_shard: loose files to tar", megabytes / ours.cpu, megabytes / theirs.cpu, "MB/s", baseline_is)
    steps, python = interleaved(ROUNDS, lambda: _start("pipeline.encode_frames", "shards.pack_shard"), lambda: _start("os", "os"))
    yield row("start of both steps, once a shard", steps.cpu, python.cpu, "s", "two Pythons that do nothing")


def _packing_sound(folder: Path, keys: list[str], encode: list[str], pack: list[str]) -> Iterator[dict[str, Any]]:
    """The same shard when every tracklet is dubbed: more bytes of sound than of frames."""
    _write_sound(folder, keys)
    encode_frames.main(encode)
    tar, copy = folder / "00000.tar", folder / "copy"
    given = [*pack, "--alignment", f"{folder}/a.parquet", "--features", f"{folder}/s.parquet", "--kind", "audio"]
    pack_shard.main(given)
    finished = shutil.copyfile(tar, folder / "finished.tar")
    megabytes = finished.stat().st_size / 1e6

    def synced() -> None:
        shutil.copyfile(finished, copy)
        with open(copy, "rb+") as file:
            os.fsync(file.fileno())

    ours, theirs = interleaved(ROUNDS, lambda: pack_shard.main(given), synced, new=[tar, copy])
    what = f"pack_shard with {CLIPS} clips per tracklet"
    yield row(what, megabytes / ours.cpu, megabytes / theirs.cpu, "MB/s", "shutil.copyfile of the tar, and fsync; to a new file")


def _checking(folder: Path) -> Iterator[dict[str, Any]]:
    """What is read before a training: the shard that was packed last, with its sound, by one thread."""
    index, tar = Index(folder / "00000.parquet"), folder / "00000.tar"
    megabytes = tar.stat().st_size / 1e6

    def ours() -> None:
        assert check_tars(index, index.keys, folder.joinpath, 1).bytes == tar.stat().st_size

    for baseline_is, baseline in (
        ("the command sha256sum, of the same file", lambda: subprocess.run(["sha256sum", tar], check=True, capture_output=True)),
        ("hashlib.file_digest of the same file: a bound", lambda: digest_file(tar)),
    ):
        spent, theirs = interleaved(ROUNDS, ours, baseline)
        yield row("every byte of a tar checked before training", megabytes / spent.cpu, megabytes / theirs.cpu, "MB/s", baseline_is)


def _write_sound(folder: Path, keys: list[str]) -> None:
    """ALIGNMENT and FEATURES."""
    runs = [(key, 6 * run, 6 * run + 5, f"{key}-{run}") for key in keys for run in range(CLIPS)]
    alignment = [
        {"tracklet": key, "first": first, "last": last, "item": item, "owner": key, "path": f"{item}.mp3", "start": None, "seconds": 5.0}
        for key, first, last, item in runs
    ]
    about = {"dataset": "bench", "kind": "audio", "policy": "id_speaker", "oracle": False, "label_derived": True, "seed": 0, "test": False}
    tables.write_rows(folder / "a.parquet", alignment, tables.ALIGNMENT, about)
    noise = rng(0, "bench", "mel")
    features = [
        {"item": item, "values": noise.bytes(2 * MEL[0] * MEL[1]), "length": MEL[0], "width": MEL[1], "dtype": "float16"}
        for *_, item in runs
    ]
    tables.write_rows(folder / "s.parquet", features, tables.FEATURES, {"kind": "audio", "shard": 0, "form": "log-mel", "bands": MEL[1]})


def _inputs(folder: Path, count: int) -> list[str]:
    """TRACKLETS and PLAN of SHARDS shards of `count` tracklets, and loose files of the first; returns their names."""
    names = [f"{number:05}C1T0001" for number in range(SHARDS * count)]
    keys = names[:count]
    pictures = [_picture(number) for number in range(FRAMES)]
    for number, key in enumerate(keys):
        (folder / "loose" / key).mkdir(parents=True)
        for frame in range(FRAMES):
            (folder / "loose" / key / f"{frame:03}.jpg").write_bytes(pictures[(number + frame) % FRAMES])
    tracklets = [
        {"tracklet": name, "dataset": "bench", "identity": name[:4], "kind": "person", "camera": 0}
        | {"frames": [f"{name}/{frame:03}.jpg" for frame in range(FRAMES)]}
        for name in names
    ]
    tables.write_rows(folder / "t.parquet", tracklets, tables.TRACKLETS, {"dataset": "bench", "cameras": 1})
    plan = [{"tracklet": name, "shard": n // count, "order": n % count, "frames": FRAMES} for n, name in enumerate(names)]
    tables.write_rows(folder / "p.parquet", plan, tables.PLAN)
    return keys


def _picture(number: int) -> bytes:
    """A JPEG of 256 x 128 and about JPEG_BYTES bytes: coarse noise, all with the tables of one quality, as a data set has them."""
    noise = rng(0, "picture", number).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(noise).resize((128, 256), Image.Resampling.BICUBIC).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _arguments(folder: Path) -> tuple[list[str], list[str]]:
    """Command lines of encode_frames and of pack_shard."""
    stream, size = f"--stream={folder}/f.mjpeg", json.dumps({"height": 256, "width": 128})
    encode = [f"{folder}/f.parquet", stream, f"--quarantine={folder}/q.parquet", f"--root={folder}/loose", "--config", size]
    encode += ["--shard=0", f"--tracklets={folder}/t.parquet", f"--plan={folder}/p.parquet"]
    return encode, [f"{folder}/00000.tar", f"--twin={folder}/00000.parquet", f"--frames={folder}/f.parquet", stream]


def _cat(paths: list[str], to: Path) -> None:
    with open(to, "wb") as out:
        for path in paths:
            with open(path, "rb") as file:
                out.write(file.read())


def _bare_cat(paths: list[str], to: Path) -> None:
    with open(to, "wb", buffering=1 << 20) as out:
        for path in paths:
            file = os.open(path, os.O_RDONLY)
            out.write(os.read(file, 1 << 16))
            os.close(file)


def _command_cat(folder: Path, to: Path) -> None:
    with open(to, "wb") as out:
        subprocess.run(["sh", "-c", "cat */*.jpg"], cwd=folder, stdout=out, check=True)


def _start(*modules: str) -> None:
    for module in modules:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


def _per_frame_tar(folder: Path, keys: list[str]) -> None:
    """The usual layout: every frame a member."""
    store = Store(folder / "00000.parquet")
    with tarfile.open(folder / "per_frame.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for key in keys:
            for number, jpeg in enumerate(store.frames(key, range(FRAMES))):
                info = tarfile.TarInfo(f"{key}.{number:03}.jpg")
                info.size = len(jpeg)
                tar.addfile(info, BytesIO(jpeg))


def _webdataset(tar: Path, draw: np.ndarray) -> None:
    import webdataset

    for sample, drawn in zip(webdataset.WebDataset([str(tar)], shardshuffle=False), draw, strict=True):
        assert len([sample[f"{number:03}.jpg"] for number in drawn]) == DRAWN
