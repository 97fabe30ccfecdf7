"""Where and how torch computes in this process: device, kernels, precision, the other processes of the training.

In:      settings, and the variables that torchrun sets.   Out: torch, set up.
Source:  decisions.md; specs/dubbernet.md section 6 (bf16 where there is a GPU, float32 where it matters).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=12)
"""How long a rank waits in a collective. Long, because rank 0 alone looks at held-out identities, saves and draws while the others
wait in the next one; torch's own 10 minutes (NCCL) would end a training whose look takes longer. A rank that ended is noticed at
once all the same: by its closed connections, and by whoever started it."""


def be_deterministic() -> None:
    """Ask torch for the same bits every time, and for float32 where float32 is said.

    On a CPU what has no such kernel only warns. On a GPU it is an error: torch computes the gradients of its fast attention kernels
    in a fixed order only where errors are asked for. No step of ours uses an operation that torch lists as having no such kernel
    (tests/train/test_device.py). Nobody has measured what this gives on a GPU; `make bench-gpu` does.

    Call before the first use of a CUDA device: cuBLAS reads its variable once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=not torch.cuda.is_available())
    cast(Any, torch.utils.deterministic).fill_uninitialized_memory = False  # a debugging aid that costs time
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # its default is True, also where matrix products are told to be exact


def be_fast() -> None:
    """Let torch choose kernels by their speed alone. float32 stays float32."""
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False


def choose_device() -> torch.device:
    """The CUDA device of this process where there is one (under torchrun that of its local rank), else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 autocast for 'bf16', and for 'auto' on CUDA; otherwise nothing."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def cpu_threads(asked: int) -> int:
    """CPU threads of this process: as many as asked for; for 0 its share of those that it and the other ranks of its node may use.

    torchrun says in LOCAL_WORLD_SIZE how many ranks share the node.
    """
    return asked or max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes of this training, if torchrun started several: NCCL between GPUs, gloo between CPUs.

    The group is taken down only where all went well. After an error it stays, and ends with the process: NCCL's shutdown waits for
    collectives that the other ranks will never join.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield
    dist.destroy_process_group()


def meet() -> None:
    """Wait until every rank is here."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(torch.zeros(1, device=collective_device()))


def collective_device() -> torch.device:
    """Where tensors must be for this process group."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
