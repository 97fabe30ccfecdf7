"""Every random choice of dubtrack takes its numbers from here: no global state, no clock, no order of a set."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_for(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose, the same on every machine.

    Args:
        seed: the seed of the run.
        names: what the numbers are for, from general to particular, for example
            ``("draw", "0001C1T0001", 7)``. Different names give independent seeds.

    Returns:
        int in 0..2**63-1 (fits torch.Generator and numpy).
    """
    text = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def rng(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator (PCG64) seeded by :func:`seed_for`."""
    return np.random.Generator(np.random.PCG64(seed_for(seed, *names)))
