"""Threads of a process, and the group of processes that a training is."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import torch

from train import device

CPU = torch.device("cpu")


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
