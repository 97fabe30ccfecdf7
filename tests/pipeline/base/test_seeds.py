"""Seeds: the same on every machine, others for other purposes."""

import subprocess
import sys

import pytest

from pipeline.base.seeds import rng, seed_for


def test_golden():
    """Fixed for good: a change would change every allocation, shard and training."""
    assert seed_for(0) == 4246866556266386882
    assert seed_for(7, "draw", "0001C1T0001", 3) == 789478355022152785


def test_names_are_kept_apart():
    seeds = [seed_for(1), seed_for(2), seed_for(1, "a"), seed_for(1, "a", "b"), seed_for(1, "ab"), seed_for(1, "b", "a"), seed_for(11)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(1, 2) == seed_for(1, "2")


def test_generators():
    assert rng(1, "a").integers(1 << 30, size=4).tolist() == rng(1, "a").integers(1 << 30, size=4).tolist()
    assert rng(1, "a").random() != rng(1, "b").random()


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_does_not_depend_on_the_hash_seed(hash_seed, repository):
    code = "from pipeline.base.seeds import seed_for; print(seed_for(7, 'draw', '0001C1T0001', 3))"
    made = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, cwd=repository, capture_output=True, check=True)
    assert int(made.stdout) == seed_for(7, "draw", "0001C1T0001", 3)
