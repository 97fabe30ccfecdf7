import pytest
import torch

from model.blocks.chance import Dropout, DropPath
from tests.model import tiny


def test_drop_path_has_its_rates_and_keeps_the_mean():
    torch.manual_seed(0)
    kept = DropPath([0.0, 0.25, 0.5])(20_000)
    assert [tuple(block.shape) for block in kept] == [(2, 20_000, 1, 1)] * 3
    for block, values in zip(kept, ({1.0}, {0.0, 1 / 0.75}, {0.0, 2.0}), strict=True):
        assert set(block.flatten().tolist()) == {float(torch.tensor(value)) for value in values}
        assert block.mean((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.03)
    assert not torch.equal(kept[2][0], kept[2][1])  # each half has its own chance


def test_drop_path_drops_nothing_in_evaluation_or_at_rate_0():
    assert DropPath([0.0, 0.5]).eval()(4) == [None, None]
    state = torch.get_rng_state()
    assert DropPath([0.0, 0.0])(4) == [None, None]
    assert torch.equal(torch.get_rng_state(), state)
    assert not DropPath([0.0, 1.0])(4)[1].any()


def test_dropout_drops_its_part_and_keeps_the_mean():
    torch.manual_seed(0)
    out = Dropout(0.2)(torch.ones(500, 40))
    assert set(out.flatten().tolist()) == {0.0, 1.25}
    assert float(out.mean()) == pytest.approx(1, abs=0.02)
    assert Dropout(0.2)(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    x = torch.randn(2, 3)
    assert Dropout(0.2).eval()(x) is x and Dropout(0.0)(x) is x


@torch.no_grad()
def test_a_frame_that_skips_a_block_leaves_it_as_it_came():
    """Two blocks; of frames 0 and 1 the second skips the first block, and the first hears its MLP alone, counted twice."""
    torch.manual_seed(0)
    block, tokens = tiny.network("dubbernet_visual").blocks[0], torch.randn(2, 5, 24)
    found = block(tokens, torch.tensor([[0.0, 0.0], [2.0, 0.0]])[..., None, None])
    assert torch.equal(found[1], tokens[1])
    assert torch.allclose(found[0], tokens[0] + 2 * block.mlp(block.norm2(tokens[:1]))[0], atol=1e-6)
