import pytest
import torch
import torch.nn.functional as F
from timm.models import vision_transformer
from torch import nn

from model.blocks.vit import FrameTokens, normalise, patch_grid, transformer_block


def test_pixels_are_normalised_to_minus_one_to_one():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert normalise(pixels).tolist() == pytest.approx([-1.0, -0.6, 1.0], abs=1e-6)  # (x / 255 - 0.5) / 0.5
    assert pixels.tolist() == [0, 51, 255]


@pytest.mark.parametrize(("patch", "stride"), [(8, 8), (8, 6), (8, 3)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_patches_are_those_of_a_convolution(patch, stride, order):
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (3, 3, 30, 20), dtype=torch.uint8).contiguous(memory_format=order)
    embedding = FrameTokens(patch_grid(30, 20, patch, stride), 12, patch, stride, cameras=2, camera_scale=3.0)
    cameras = torch.tensor([0, 1, 0])
    convolved = embedding.patches((frames.float() / 255 - 0.5) / 0.5).flatten(2).transpose(1, 2)
    expected = torch.cat([embedding.cls.expand(3, -1, -1), convolved], dim=1) + embedding.position + 3 * embedding.camera(cameras)[:, None]
    found, weight = embedding(frames, cameras), embedding.patches.weight
    assert torch.allclose(found, expected, atol=1e-5)
    direction = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((tokens * direction).sum(), weight)[0] for tokens in (found, expected))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_block_is_timms_bit_for_bit():
    torch.manual_seed(0)
    ours, tokens = transformer_block(24, 3, 4.0), torch.randn(2, 7, 24)
    theirs = vision_transformer.Block(24, 3, qkv_bias=True, norm_layer=lambda width, **_: nn.LayerNorm(width, eps=1e-6))
    theirs.load_state_dict(ours.state_dict())
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert torch.equal(ours(tokens), theirs(tokens))
    assert torch.equal(ours(tokens, torch.ones(2, 2, 1, 1)), theirs(tokens))


def test_the_first_token_alone_is_the_same_as_among_all():
    """Values and gradients, also with a half that a frame skips."""
    torch.manual_seed(0)
    block, tokens = transformer_block(24, 3, 4.0), torch.randn(4, 7, 24, requires_grad=True)
    nn.init.normal_(block.attn.qkv.bias)
    kept = torch.tensor([[0.0, 2, 2, 1], [2, 2, 0, 1]])[..., None, None]
    direction = torch.randn(4, 24)
    values, gradients = [], []
    for first_only in (True, False):
        found = block(tokens, kept, first_only)
        assert found.shape == (4, 1 if first_only else 7, 24)
        values.append(found[:, 0])
        gradients.append(torch.autograd.grad((found[:, 0] * direction).sum(), [tokens, *block.parameters()]))
    assert torch.allclose(*values, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))
    assert not torch.allclose(values[0], block(tokens)[:, 0], atol=1e-2)  # control: what is kept matters


def test_attention_goes_through_torchs_own(monkeypatch):
    """In training too; torch then takes a fused kernel where there is one."""
    called = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *given: called.append(given[0].shape) or fused(*given))
    transformer_block(24, 3, 4.0).train()(torch.randn(2, 7, 24), None, True)
    assert called == [(2, 3, 1, 8)]
