"""The full-size training steps on a GPU: milliseconds, TFLOP/s, share of what the card's matrix products reach, data wait.

`make bench-gpu`, or `python -m tests.bench.gpu [--json results/gpu.json]`. Nothing is read but this checkout, and nothing is needed but
torch, torchvision, timm, numpy, pyarrow, pillow, safetensors and pyyaml. About ten minutes, of which most is compiling.
`--device cpu --small` runs all of it on tiny networks, to see whether it works.

Rows, for the teacher and for the student with its frozen teacher, 32 clips x 6 frames, stride 12, bfloat16:
    plain        the same arithmetic written straight down (bench_step.py)
    eager        ours
    fixed        ours with deterministic kernels
    recompute    ours, keeping only what goes into each block
    compile      ours with compiled blocks, then with deterministic kernels ('compile fixed'), and with recompute
Times are medians of single steps between two CUDA events, after a warm-up. TFLOP/s count what the formulas of the networks say
(`gflop`), the head's block in full; the step computes less of that block (blocks/vit.py), 'done' counts what it does compute.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from model.blocks.part import compile_parts, recompute_parts
from model.blocks.vit import patch_grid
from pipeline.base import tables
from pipeline.base.config import MachineConfig, MethodConfig, ModelConfig, RunConfig, SamplerConfig, StageConfig
from pipeline.base.seeds import rng
from shards.loader import train_loader
from tests.bench import full_size
from tests.bench.bench_step import PlainTask, plain_stepper, plain_task
from tests.shards import making
from train.device import be_deterministic, be_fast
from train.tasks import Task

FLOORS_MS = {"teacher": 28.8, "student": 39.7}
"""Of the two steps at 790 TFLOP/s (all FLOPs, nothing else)."""
AIMS = {"teacher": 0.55, "student": 0.50}
"""Share of the measured ceiling."""
WAIT = 0.02
"""Data wait, as a part of the step."""
IDENTITIES, TRACKLETS = 8, 4


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    model: ModelConfig
    frames: int
    """T of a clip."""
    height: int
    width: int
    tokens: int
    """Of an audio item."""
    matrix: int
    """Rows and columns of the product that shows the ceiling."""
    warm_up: int
    steps: int
    """Timed steps."""
    epoch: int
    """Batches of the generated training set."""
    stored: int
    """Frames of a tracklet."""
    backend: str
    """Of torch.compile."""


FULL = Size(ModelConfig(), 6, full_size.HEIGHT, full_size.WIDTH, full_size.TOKENS, 8192, 10, 30, 32, 60, "inductor")
SMALL = Size(
    ModelConfig(width=24, depth=3, heads=3, patch=8, stride=6, fusion_after_blocks=(0, 1)), 2, 32, 16, 4, 128, 1, 2, 2, 6, "aot_eager"
)


def main(argv: list[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments.add_argument("--small", action="store_true", help="tiny networks and few steps: does it run?")
    arguments.add_argument("--json", type=Path, help="also write everything there")
    arguments.add_argument("--only", default="", help="rows whose name holds this word, for example 'compile'")
    arguments.add_argument("--profile", action="store_true", help="also print the most expensive kernels of every row")
    args = arguments.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: torch finds no CUDA GPU here; run this on a GPU node, or try it with --device cpu --small", file=sys.stderr)
        raise SystemExit(2)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when the device is first used
    if args.device == "cpu":
        torch.set_num_threads(1)
    report = measure(torch.device(args.device), SMALL if args.small else FULL, args.only, args.profile)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(device: torch.device, size: Size, only: str = "", profile: bool = False) -> dict[str, Any]:
    """Everything; prints as it goes."""
    about = describe(device)
    be_fast()
    ceiling = matrix_ceiling(device, size)
    print(f"{about['device']}, torch {about['torch']}; matrix products of {size.matrix}^3 in bfloat16: {ceiling:.1f} TFLOP/s")
    print(f"{'stage':<9}{'row':<19}{'ms':>9}{'TFLOP/s':>9}{'share':>7}{'done':>7}{'peak GB':>9}")
    report: dict[str, Any] = {**about, "ceiling_tflops": ceiling, "steps": [], "floors_ms": FLOORS_MS, "aims": AIMS}
    batch = full_size.make_batch(
        IDENTITIES * TRACKLETS, size.frames, height=size.height, width=size.width, tokens=size.tokens, bands=size.model.width
    ).to(device)
    for stage in FLOORS_MS:
        for name, options in ROWS.items():
            if only in name:
                report["steps"].append(row(stage, name, options, batch, size, ceiling, device, profile))
    report["checks"] = {stage: checks(stage, batch, size, device) for stage in FLOORS_MS}
    report["data"] = data_wait(size, device)
    summary(report)
    return report


def describe(device: torch.device) -> dict[str, Any]:
    """The card and the versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "cores": len(os.sched_getaffinity(0))}


# --- FLOPs ------------------------------------------------------------------------------------------------------------


def gflop(stage: str, model: ModelConfig, height: int, width: int, audio_tokens: int, *, first_only: bool = False) -> float:
    """GFLOP of the forward pass of one frame (2 for a multiplication and its addition), products and attention alone.

    Args:
        stage: 'visual', 'teacher' or 'student' (with its mask generators).
        first_only: the head's block for its first token alone, as it is computed; else in full.
    """
    D, rows_columns = model.width, patch_grid(height, width, model.patch, model.stride)
    patches = rows_columns[0] * rows_columns[1]
    N, L, hidden = patches + 1, audio_tokens, int(model.width * model.mlp_ratio)

    def attention(asking: int, answering: int) -> float:
        return 4 * asking * answering * D + 4 * asking * D * D + 4 * answering * D * D  # Q K^T, A V; Q, out; K, V

    mlp = 4 * D * hidden
    block = attention(N, N) + N * mlp
    blocks = (model.depth - 1) * block + (attention(1, N) + mlp if first_only else block)
    embed = 2 * patches * 3 * model.patch**2 * D
    fusions = {"visual": 0.0, "teacher": attention(N, L) + 4 * L * D * int(D * model.adapter_ratio), "student": attention(N, N)}
    mask = N * (4 * D * D + D * D + D) if stage == "student" else 0
    return (embed + blocks + len(model.fusion_after_blocks) * (fusions[stage] + mask)) / 1e9


def step_tflop(stage: str, size: Size, *, first_only: bool = False) -> float:
    """TFLOP of one step: backward counts twice what forward does, a frozen teacher's forward once."""
    frames = IDENTITIES * TRACKLETS * size.frames
    each = {s: gflop(s, size.model, size.height, size.width, size.tokens, first_only=first_only) for s in ("teacher", "student")}
    return frames * (3 * each[stage] + (each["teacher"] if stage == "student" else 0)) / 1e3


def matrix_ceiling(device: torch.device, size: Size) -> float:
    """TFLOP/s of the best of several large products."""
    a, b = (torch.randn(size.matrix, size.matrix, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = min(seconds(lambda: a @ b, device, warm_up=5, steps=20))
    return 2 * size.matrix**3 / best / 1e12


# --- time and memory --------------------------------------------------------------------------------------------------


def seconds(step: Callable[[], object], device: torch.device, warm_up: int, steps: int) -> list[float]:
    """Of each step after the warm-up. On a GPU between two events, without waiting in between."""
    for _ in range(warm_up):
        step()
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(steps):
            step()
            marks.append(time.perf_counter())
        return [b - a for a, b in pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    torch.cuda.synchronize(device)
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize(device)
    return [a.elapsed_time(b) / 1e3 for a, b in pairwise(events)]


@dataclass(frozen=True)
class Options:
    """What a row switches on."""

    plain: bool = False
    compiled: bool = False
    fixed: bool = False
    recompute: bool = False


ROWS = {
    "plain": Options(plain=True),
    "eager": Options(),
    "fixed": Options(fixed=True),
    "recompute": Options(recompute=True),
    "compile": Options(compiled=True),
    "compile fixed": Options(compiled=True, fixed=True),
    "compile recompute": Options(compiled=True, recompute=True),
}


def row(
    stage: str, name: str, options: Options, batch: Any, size: Size, ceiling: float, device: torch.device, profile: bool
) -> dict[str, Any]:
    """One line of the table."""
    gc.collect()  # what the row before has left
    (be_deterministic if options.fixed else be_fast)()
    task = make(stage, size, device, options)
    stepped = plain_stepper(task, bf16=True) if isinstance(task, PlainTask) else full_size.stepper(task, "bf16")

    def step() -> Tensor:
        return stepped(batch)

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    spent = statistics.median(seconds(step, device, size.warm_up, size.steps))
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else float("nan")
    if not bool(torch.isfinite(step())):
        raise AssertionError(f"{stage}, {name}: the loss is not finite")
    reached = step_tflop(stage, size) / spent
    done = reached if options.plain else step_tflop(stage, size, first_only=True) / spent
    print(f"{stage:<9}{name:<19}{spent * 1e3:>9.2f}{reached:>9.1f}{reached / ceiling:>7.1%}{done / ceiling:>7.1%}{peak:>9.2f}", flush=True)
    if profile:
        print(kernels(step, device))
    shares = {"tflops": reached, "share": reached / ceiling, "share_done": done / ceiling}
    return {"stage": stage, "row": name, "ms": spent * 1e3, **shares, "peak_gb": None if peak != peak else peak}


def make(stage: str, size: Size, device: torch.device, options: Options) -> Task | PlainTask:
    """A task as the row wants it, on the device."""
    task = full_size.make_task(stage, size.model, frames=size.frames, height=size.height, width=size.width, bands=size.model.width)
    teacher = task.teacher if stage == "student" else None
    if options.plain:
        plain = plain_task(stage, size.model, task)
        for network in plain.teacher:
            network.to(device)
        return plain.to(device)
    recompute_parts(task, options.recompute)
    for module in [task] + ([teacher.to(device)] if teacher else []):
        if options.compiled:
            compile_parts(module, size.backend)
    return task.to(device)


def kernels(step: Callable[[], object], device: torch.device) -> str:
    """Where the time of a step goes."""
    kinds = [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, *kinds]) as found:
        step()
    key = "self_cuda_time_total" if kinds else "self_cpu_time_total"
    return found.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=70)


# --- what must hold ---------------------------------------------------------------------------------------------------


def checks(stage: str, batch: Any, size: Size, device: torch.device) -> dict[str, Any]:
    """Whether a step waits for the device, and whether equal seeds give equal weights, eager and compiled."""
    found: dict[str, Any] = {}
    for name, options in (("eager", Options(fixed=True)), ("compiled", Options(fixed=True, compiled=True))):
        be_deterministic()
        digests = [trained(stage, options, batch, size, device) for _ in range(2)]
        found[f"equal seeds, equal weights ({name})"] = digests[0] == digests[1]
        found[f"waits for the device ({name})"] = waits(stage, options, batch, size, device)
    for what, value in found.items():
        print(f"{stage:<9}{what}: {value}", flush=True)
    return found


def trained(stage: str, options: Options, batch: Any, size: Size, device: torch.device) -> str:
    """SHA-256 of the weights after three steps with seeds."""
    task = make(stage, size, device, options)
    step = full_size.stepper(task, "bf16")
    for number in range(3):
        torch.manual_seed(number)
        step(batch)
    digest = hashlib.sha256()
    for tensor in task.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def waits(stage: str, options: Options, batch: Any, size: Size, device: torch.device) -> str:
    """'no', or what torch says about the first place where it does."""
    if device.type != "cuda":
        return "not checked on a CPU"
    step = full_size.stepper(make(stage, size, device, options), "bf16")
    step(batch)  # compiling and the optimiser's first step may wait
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batch)
    except RuntimeError as error:
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


# --- data -------------------------------------------------------------------------------------------------------------


def data_wait(size: Size, device: torch.device) -> list[dict[str, Any]]:
    """How much longer a compiled step takes when its batches come from a loader, on generated shards as MARS's are.

    The shards carry no sound, so it is the student's network without a teacher; its step is about as long as the teacher's.
    """
    be_fast()
    run = RunConfig(
        method="m", dataset="d", split="0", seed=0, stage="student", companion="none", test_companion="none", kind="", bands=0,
        item_frames=0, height=size.height, width=size.width, this=StageConfig(network="dubbernet_student"),
        settings=MethodConfig(stages={}, companion="none", sampler=SamplerConfig(identities=IDENTITIES, tracklets=TRACKLETS)),
    )  # fmt: skip
    run = replace(run, settings=replace(run.settings, clip=replace(run.settings.clip, frames=size.frames)))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        split = write_shards(Path(folder), size)
        for machine in (MachineConfig(workers=2), MachineConfig(workers=2, data="resident")):
            loader = train_loader(Path(folder) / "index.parquet", split, run, False, machine, device)
            found.append(one_loader(machine.data, make("alone", size, device, Options(compiled=True)), loader, size, device))
    return found


def one_loader(name: str, task: Task, loader: Any, size: Size, device: torch.device) -> dict[str, Any]:
    """Wall time of an epoch from a loader, beside one from a batch that stays."""
    batches = loader.batches(1, 0, device, task.check)
    first = next(batches)
    step = full_size.stepper(task, "bf16")
    for _ in range(size.warm_up):
        step(first)
    for _ in batches:  # workers are up, caches warm
        pass

    def timed(source: Iterator[Any] | None) -> tuple[float, float]:
        wait = 0.0
        synchronise(device)
        begun = time.perf_counter()
        for _ in range(loader.steps):
            asked = time.perf_counter()
            batch = first if source is None else next(source)
            wait += time.perf_counter() - asked
            step(batch)
        synchronise(device)
        return (time.perf_counter() - begun) / loader.steps, wait / loader.steps

    still, _ = timed(None)
    loaded, wait = timed(loader.batches(2, 0, device, task.check))
    part = (loaded - still) / loaded
    print(f"data     {name}: {loaded * 1e3:.2f} ms a step, {still * 1e3:.2f} with one batch: {part:.1%} longer; waited {wait * 1e3:.2f} ms")
    return {"data": name, "ms": loaded * 1e3, "ms_one_batch": still * 1e3, "longer": part, "waited_ms": wait * 1e3}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_shards(folder: Path, size: Size) -> Any:
    """One shard of `epoch` batches of tracklets, `stored` frames of about 6 kB each; gives its SPLIT."""
    pictures = [picture(number, size) for number in range(size.stored)]
    keys = [f"p{i:04d}t{j}" for i in range(size.epoch * IDENTITIES) for j in range(TRACKLETS)]
    facts: list[dict[str, Any]] = []
    jpegs: dict[str, list[bytes]] = {}
    for number, key in enumerate(keys):
        own = pictures[number % size.stored :] + pictures[: number % size.stored]
        paths = [f"{key}/{t:03d}.jpg" for t in range(size.stored)]
        facts.append({"tracklet": key, "dataset": "d", "identity": key[1:5], "kind": "person", "camera": number % 6, "frames": paths})
        jpegs[key] = own
    making.write_frames(folder / "frames.parquet", facts, jpegs, (size.height, size.width), {"dataset": "d", "cameras": 6})
    index = making.write_tar(folder / "00000.tar", folder / "frames.parquet", keys)
    meta = {"dataset": "d", "cameras": 6, "frames": {"height": size.height, "width": size.width}, "companion": None}
    tables.write_rows(folder / "index.parquet", index, tables.INDEX, meta)
    return tables.table([{"tracklet": key, "role": "train", "label": int(key[1:5])} for key in keys], tables.SPLIT)


def picture(number: int, size: Size) -> bytes:
    """A JPEG as MARS frames are: noise, blurred."""
    noise = rng(0, "picture", number).integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)
    out = io.BytesIO()
    ImageOps.autocontrast(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))).save(out, "JPEG", quality=85)
    return out.getvalue()


def summary(report: dict[str, Any]) -> None:
    """The best row of each stage beside its floor and its aim."""
    for stage, floor in FLOORS_MS.items():
        ours = [r for r in report["steps"] if r["stage"] == stage and r["row"] != "plain"]
        if ours:
            best = min(ours, key=lambda r: r["ms"])
            print(
                f"{stage:<9}best is '{best['row']}': {best['ms']:.2f} ms (floor at 790 TFLOP/s: {floor} ms), "
                f"{best['share']:.1%} of the ceiling (aim {AIMS[stage]:.0%})"
            )
    print(f"data     aim: at most {WAIT:.0%} of a step")


if __name__ == "__main__":
    main()
