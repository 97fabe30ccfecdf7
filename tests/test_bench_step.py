"""The plain side of the step bench computes what ours does, so that their times can be compared."""

import pytest
import torch

from tests.bench import bench_step, full_size
from tests.bench.gpu import SMALL


@pytest.fixture
def sides():
    """Ours and plain, of a tiny network, and a batch."""

    def make(stage):
        facts = {"height": SMALL.height, "width": SMALL.width, "bands": SMALL.model.width}
        task = full_size.make_task(stage, SMALL.model, frames=2, **facts)
        plain = bench_step.plain_task(stage, SMALL.model, task)
        batch = full_size.make_batch(4, 2, tokens=3, **facts)
        return [(full_size.stepper(task), task), (bench_step.plain_stepper(plain), plain)], batch

    return make


@pytest.mark.parametrize("stage", bench_step.STAGES)
def test_both_sides_give_the_same_losses(sides, stage):
    bench_step._require_same(*sides(stage))


@pytest.mark.parametrize("stage", bench_step.STAGES)
def test_another_sum_is_refused(sides, stage):
    both, batch = sides(stage)
    with torch.no_grad():
        both[1][1].model.fusion["1"].out_norm.weight.mul_(1.1)
    with pytest.raises(AssertionError, match="both sides must give the same losses"):
        bench_step._require_same(both, batch)
