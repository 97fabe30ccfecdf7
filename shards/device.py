"""Host batches of a training loader -> ready batches on the device: copied, augmented, in float32.

In:      batches as loaders make them, a device, a check.   Out: batches as networks take them.
Source:  specs/dubbernet.md section 3.2. Ours: pixels move where the batch lives, and give the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.base.batch import Batch
from shards.prepare.frames import augment

Check = Callable[[Batch], object]
"""Raises where a batch cannot be used; sees it on the host, where values can be read without waiting."""


def ready(batch: Batch, device: torch.device) -> Batch:
    """A copy on the device with nothing left to do: `augmentation` is carried out and gone, companion values are float32."""
    there = batch.to(device)
    companions = {kind: replace(companion, values=companion.values.float()) for kind, companion in there.companions.items()}
    frames = there.frames if there.augmentation is None else augment(there.frames, there.augmentation)
    return replace(there, frames=frames, companions=companions, augmentation=None)


def on_device(batches: Iterator[Batch], device: torch.device, check: Check | None = None) -> Iterator[Batch]:
    """Ready batches, in order; on CUDA one is copied ahead on a stream of its own, while the one before is worked on.

    Args:
        batches: host batches; pinned ones are copied without waiting.
        device: where they are to be.
        check: is given each host batch before it is copied.
    """
    if device.type != "cuda":
        for batch in batches:
            yield ready(_checked(batch, check), device)
        return
    side = torch.cuda.Stream(device)

    def fetch() -> Batch | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(side):
            return ready(_checked(batch, check), device)

    ahead = fetch()
    while ahead is not None:
        now = torch.cuda.current_stream(device)
        now.wait_stream(side)
        batch = ahead
        for tensor in tensors(batch):
            tensor.record_stream(now)  # else its memory could be given away on the side stream while it is still read
        ahead = fetch()
        yield batch


def tensors(batch: Batch) -> list[Tensor]:
    """All tensors of a ready batch."""
    found = [batch.frames, batch.label, batch.camera, batch.erased]
    for companion in batch.companions.values():
        found += [companion.values, companion.lengths, companion.align]
    return [tensor for tensor in found if tensor is not None]


def _checked(batch: Batch, check: Check | None) -> Batch:
    if check is not None:
        check(batch)
    return batch
