"""One optimiser step of the full-size networks on a CPU: ours against the same arithmetic written straight down.

ViT-B/16, stride 12, frames of 256x128; 4 clips of 2 frames, because a batch of 32 x 6 takes minutes on a CPU. The plain side is
built of timm's blocks, a convolution, PyTorch's batch norm, dropout and SGD as they come. Both start from the same weights and
must give the same losses, of the first step and of the one after it (checked; nothing is dropped by chance there). Then with
chance: float32, one thread, CPU time, interleaved, median. Memory is that of a process of its own for each side.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from model.blocks import chance
from pipeline.base.batch import Batch
from pipeline.base.config import MethodConfig, ModelConfig
from tests.bench.full_size import CAMERAS, CLASSES, make_batch, make_task, stepper
from tests.bench.timing import interleaved, row
from train.losses.distill import logits_distill_loss, mask_budget_loss, mask_weights, token_distill_loss
from train.losses.identity import identity_loss
from train.losses.triplet import triplet_loss
from train.optim import parameter_groups
from train.tasks import Task

CLIPS, FRAMES, ROUNDS = 4, 2, 3
STAGES = {"teacher": "teacher step", "student": "student step with its frozen teacher"}
MODEL = ModelConfig()

Step = Callable[[Batch], Tensor]


def rows(scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """Seconds and peak memory of a step of each stage; `scale` changes the frames of a clip."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batch = make_batch(CLIPS, max(1, round(FRAMES * scale)), tokens=MODEL.audio_tokens)
        peaks = {stage: [_peak(side, stage, MODEL, batch) for side in (_ours, _plain)] for stage in STAGES}
        for stage in STAGES:  # after that: a child begins with what its parent holds
            yield _row(stage, batch, *_seconds(stage, MODEL, batch), "s")
            yield _row(stage, batch, *peaks[stage], "GB at peak")
    finally:
        torch.set_num_threads(threads)


def _seconds(stage: str, model: ModelConfig, batch: Batch) -> list[float]:
    """Of a step, ours and plain."""
    sides = [_ours(stage, model, batch), _plain(stage, model, batch)]
    _require_same(sides, batch)
    (ours, _), (plain, _) = sides
    return [spent.cpu for spent in interleaved(ROUNDS, lambda: ours(batch), lambda: plain(batch), warm=False)]


def _row(stage: str, batch: Batch, ours: float, plain: float, unit: str) -> dict[str, Any]:
    clips, frames = batch.frames.shape[:2]
    return row(f"{STAGES[stage]}, {clips} clips x {frames} frames", ours, plain, unit, "the same, written straight down")


def _require_same(sides: list[tuple[Step, nn.Module]], batch: Batch) -> None:
    """Two steps of each without chance; the second shows that gradients and updates are the same, too."""
    found = []
    for step, module in sides:
        drawing = [part for part in module.modules() if isinstance(part, (DropPath, nn.Dropout, chance.DropPath, chance.Dropout))]
        for part in drawing:
            part.eval()
        found.append([float(step(batch)) for _ in range(2)])
        for part in drawing:
            part.train()
    if any(abs(a - b) > 1e-4 * abs(b) for a, b in zip(*found, strict=True)):
        raise AssertionError(f"both sides must give the same losses: {found}")


def _peak(side: Callable[..., tuple[Step, nn.Module]], stage: str, model: ModelConfig, batch: Batch) -> float:
    """GB that a process held at most during its first two steps (the second has all of the optimiser's state)."""

    def child(answers: Any) -> None:
        step, _ = side(stage, model, batch)
        step(batch)
        step(batch)
        answers.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)

    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    process.join()
    if process.exitcode:
        raise AssertionError(f"a step of {stage} ended with {process.exitcode}")
    return answers.get()


# --- ours -------------------------------------------------------------------------------------------------------------


def _ours(stage: str, model: ModelConfig, batch: Batch) -> tuple[Step, nn.Module]:
    task = make_task(stage, model, frames=batch.frames.shape[1])
    return stepper(task), task


# --- written straight down ---------------------------------------------------------------------------------------------


def _plain(stage: str, model: ModelConfig, batch: Batch) -> tuple[Step, nn.Module]:
    task = make_task(stage, model, frames=batch.frames.shape[1])
    plain = plain_task(stage, model, task)
    return plain_stepper(plain), plain


def plain_task(stage: str, model: ModelConfig, task: Task) -> PlainTask:
    """With the weights of our `task`."""
    plain = PlainTask(stage, model, task.model.embedding.position.shape[1])
    plain.load_state_dict(task.state_dict())
    for network in plain.teacher:
        network.load_state_dict(task.teacher.state_dict())
    return plain


def plain_stepper(plain: PlainTask, bf16: bool = False) -> Step:
    """Steps as one writes them: autocast, zero_grad, backward, SGD as it comes."""
    optim = MethodConfig(stages={}).optim
    optimiser = torch.optim.SGD(parameter_groups(plain, optim), lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)

    def step(batch: Batch) -> Tensor:
        with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=bf16):
            loss = plain(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


class PlainTask(nn.Module):
    """Losses of the teacher, or of a student and its frozen teacher."""

    def __init__(self, stage: str, model: ModelConfig, tokens: int) -> None:
        super().__init__()
        self.model = PlainNetwork(model, tokens, hears=stage == "teacher")
        self.masks = nn.ModuleList(PlainMask(model.width) for _ in model.fusion_after_blocks) if stage == "student" else None
        self.teacher = (PlainNetwork(model, tokens, hears=True).eval().requires_grad_(False),) if stage == "student" else ()

    def forward(self, batch: Batch) -> Tensor:
        """The loss."""
        audio = batch.companions["audio_tokens"]
        heard = audio.values[audio.align.flatten()]
        frames = batch.frames.flatten(0, 1).float().div(255).sub(0.5).div(0.5)
        camera = batch.camera.repeat_interleave(batch.frames.shape[1])
        feat, logits, taps = self.model(frames, camera, batch.frames.shape[1], heard)
        loss = identity_loss(logits, batch.label) + triplet_loss(feat, batch.label)
        if self.masks is None:
            return loss
        with torch.no_grad():
            _, target, targets = self.teacher[0](frames, camera, batch.frames.shape[1], heard)
        tokens = budget = torch.zeros((), device=loss.device)
        for mask, student, teacher in zip(self.masks, taps, targets, strict=True):
            score = mask(torch.cat([student.detach(), teacher], dim=-1))
            tokens = tokens + token_distill_loss(student, teacher, mask_weights(F.relu6(score)), 4.0) / len(taps)
            budget = budget + mask_budget_loss(score, 0.7) / len(taps)
        return loss + tokens + budget + logits_distill_loss(logits, target, 4.0)


class PlainNetwork(nn.Module):
    """DubberNet (specs/dubbernet.md 4 and 5) of timm's blocks."""

    def __init__(self, model: ModelConfig, tokens: int, hears: bool) -> None:
        super().__init__()
        self.taps, width = model.fusion_after_blocks, model.width
        self.embedding = nn.Module()
        self.embedding.patches = nn.Conv2d(3, width, model.patch, stride=model.stride)
        self.embedding.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.embedding.position = nn.Parameter(torch.zeros(1, tokens, width))
        self.embedding.camera = nn.Embedding(CAMERAS, width)
        blocks = [
            Block(
                width,
                model.heads,
                qkv_bias=True,
                drop_path=model.drop_path * i / (model.depth - 1),
                norm_layer=lambda width, **_: nn.LayerNorm(width, eps=1e-6),
            )
            for i in range(model.depth)
        ]
        self.blocks = nn.ModuleList(blocks[:-1])
        self.head = nn.Module()
        self.head.block = blocks[-1]
        self.head.norm = nn.LayerNorm(width, eps=1e-6)
        self.head.neck = nn.BatchNorm1d(width)
        self.head.neck.bias.requires_grad_(False)
        self.head.classifier = nn.Linear(width, CLASSES, bias=False)
        fusion = PlainInjection if hears else PlainPerception
        self.fusion = nn.ModuleDict({str(i): fusion(width, model.heads) for i in model.fusion_after_blocks})

    def forward(self, frames: Tensor, camera: Tensor, clip: int, heard: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Features and logits of clips, tokens after each fusion."""
        of = self.embedding
        patches = of.patches(frames).flatten(2).transpose(1, 2)
        x = torch.cat([of.cls.expand(len(frames), -1, -1), patches], dim=1) + of.position + 3 * of.camera(camera)[:, None]
        taps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                x = self.fusion[str(i)](x, heard)
                taps.append(x)
        x = self.head.norm(self.head.block(x))
        feat = x[:, 0].float().unflatten(0, (-1, clip)).mean(1)
        with torch.autocast(feat.device.type, enabled=False):
            return feat, self.head.classifier(self.head.neck(feat)), taps


class PlainCross(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        B, N, D = x.shape
        q = self.query(x).reshape(B, N, self.heads, D // self.heads).permute(0, 2, 1, 3)
        k, v = self.key_value(y).reshape(B, y.shape[1], 2, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D))


class PlainInjection(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.audio_norm, self.visual_norm, self.out_norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.adapter = nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, width))
        self.attention = PlainCross(width, heads)

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        audio = self.audio_norm(heard)
        return x + self.out_norm(self.attention(self.visual_norm(x), audio + self.adapter(audio)))


class PlainPerception(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.out_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = PlainCross(width, heads)
        self.gate = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.out_norm(self.attention(normed, normed) * torch.sigmoid(self.gate))


class PlainMask(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, width),
            nn.Linear(width, width // 2),
            nn.LayerNorm(width // 2),
            nn.Linear(width // 2, 1),
            nn.Dropout(0.2),
        )

    def forward(self, pair: Tensor) -> Tensor:
        return self.score(pair).squeeze(-1)
