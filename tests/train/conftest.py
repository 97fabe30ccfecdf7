"""Training changes settings of the whole process; tests put them back."""

import signal
from collections.abc import Iterator

import pytest
import torch

from train.device import be_deterministic


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    """One thread, deterministic kernels; afterwards threads, kernels and the signal handler as before."""
    threads, handler, deterministic = (
        torch.get_num_threads(),
        signal.getsignal(signal.SIGTERM),
        torch.are_deterministic_algorithms_enabled(),
    )
    torch.set_num_threads(1)
    be_deterministic()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    signal.signal(signal.SIGTERM, handler)
