"""Deterministic kernels, threads of a process, and the group of processes that a training is."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.train.tiny import batch, run_config
from train import device
from train.fit import Facts, make_network
from train.tasks import TASKS

CPU = torch.device("cpu")

NO_KERNEL = (
    *("avg_pool3d_backward", "adaptive_avg_pool", "max_pool3d_with_indices", "adaptive_max_pool", "fractional_max_pool", "max_unpool"),
    *("upsample_linear", "upsample_bilinear", "upsample_bicubic", "upsample_trilinear", "reflection_pad", "grid_sampler", "ctc_loss"),
    *("nll_loss2d", "embedding_bag", "put.", "put_.", "histc", "bincount", "median", "kthvalue", "cumsum", "scatter_reduce", "resize_."),
)
"""Beginnings of names of what has no deterministic kernel on a GPU, in the list of torch.use_deterministic_algorithms. Of NLLLoss
only that of pictures is meant (nll_loss2d; torch's CUDA sources)."""


class Noted(TorchDispatchMode):
    """Notes the names of all operations, backward ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func).removeprefix("aten."))
        return func(*args, **(kwargs or {}))

    def without_kernel(self) -> set[str]:
        return {name for name in self.names if name.lstrip("_").startswith(NO_KERNEL)}


@pytest.mark.parametrize("stage", ["teacher", "student", "visual"])
@pytest.mark.parametrize("model", [{}, {"pool": "attention", "local_branch": True}], ids=["plain", "all"])
def test_no_step_needs_what_has_no_deterministic_kernel(stage, model):
    run = run_config(stage, model=model)
    facts = Facts(classes=3, cameras=2, companion={"kind": "audio", "bands": 8})
    teacher = make_network(run.teacher, facts) if run.teacher else None
    task = TASKS[run.this.task](make_network(run, facts), run.settings, teacher).train()
    with Noted() as noted:
        with torch.autocast("cpu", torch.bfloat16):
            terms = task(batch())
        torch.stack([term for term in terms.values() if term.requires_grad]).sum().backward()
    assert {"embedding_dense_backward.default", "nll_loss_backward.default"} <= noted.names
    assert noted.without_kernel() == set()


def test_what_has_no_deterministic_kernel_is_found():
    picture = torch.zeros(1, 1, 4, 4, requires_grad=True)
    with Noted() as noted:
        F.interpolate(picture, scale_factor=2, mode="bilinear").sum().backward()
        picture.cumsum(0)
    assert noted.without_kernel() == {"upsample_bilinear2d.default", "upsample_bilinear2d_backward.default", "cumsum.default"}


@pytest.mark.parametrize("cuda", [False, True])
def test_a_gpu_is_not_asked_for_deterministic_kernels_half_heartedly(cuda, monkeypatch):
    """With warn_only torch leaves the gradients of its attention kernels as they are."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    try:
        device.be_deterministic()
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled() != cuda
    finally:
        monkeypatch.undo()
        device.be_deterministic()


@pytest.mark.parametrize(("asked", "ranks", "threads"), [(3, "", 3), (3, "4", 3), (0, "", 8), (0, "4", 2), (0, "3", 2), (0, "16", 1)])
def test_ranks_of_a_node_share_its_cpus(asked, ranks, threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert device.cpu_threads(asked) == threads


@pytest.fixture
def calls(monkeypatch):
    """What is asked of torch.distributed, by one of two ranks."""
    noted: list[object] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(device.dist, "init_process_group", lambda backend, timeout: noted.append((backend, timeout)))
    monkeypatch.setattr(device.dist, "destroy_process_group", lambda: noted.append("destroyed"))
    return noted


def test_ranks_wait_long_for_the_first_which_looks_and_saves_alone(calls):
    with device.process_group(CPU):
        assert calls == [("gloo", timedelta(hours=12))]
    assert calls[1:] == ["destroyed"]


@pytest.mark.parametrize("error", [ValueError(), SystemExit(143)])
def test_a_group_is_left_alone_after_an_error(error, calls):
    """Taking it down may wait for the others, who wait for this rank."""
    with pytest.raises(type(error)), device.process_group(CPU):
        raise error
    assert calls == [("gloo", timedelta(hours=12))]


def test_one_process_is_no_group(calls, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with device.process_group(CPU):
        pass
    assert calls == []
