import pytest
import torch
from torch import nn

from model.blocks.attention import CrossAttention
from model.blocks.head import Head
from model.blocks.injection import Injection
from model.blocks.mask import MaskGenerator
from model.blocks.perception import Perception
from model.blocks.vit import patch_grid, transformer_block


@pytest.mark.parametrize(("stride", "grid", "tokens"), [(12, (21, 10), 211), (16, (16, 8), 129)])
def test_s1_patch_grid(stride, grid, tokens):
    assert patch_grid(256, 128, 16, stride) == grid
    assert 1 + grid[0] * grid[1] == tokens
    conv = nn.Conv2d(3, 1, 16, stride=stride, device="meta")
    assert conv(torch.empty(1, 3, 256, 128, device="meta")).shape[2:] == grid


@torch.no_grad()
def test_attention_against_a_plain_double_loop():
    torch.manual_seed(0)
    attention, heads, size = CrossAttention(6, heads=2), 2, 3
    asking, answering = torch.randn(1, 4, 6), torch.randn(1, 5, 6)
    query, (key, value) = attention.query(asking)[0], attention.key_value(answering)[0].split(6, dim=1)
    found = torch.zeros(4, 6)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for n in range(4):
            weight = torch.tensor([float(query[n, part] @ key[m, part]) / size**0.5 for m in range(5)]).softmax(0)
            found[n, part] = sum(weight[m] * value[m, part] for m in range(5))
    assert torch.allclose(attention(asking, answering)[0], attention.out(found), atol=1e-6)


def test_s4_the_order_of_audio_tokens_does_not_matter():
    torch.manual_seed(0)
    injection, visual, audio = Injection(16, 4, 4), torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    for ours, theirs in zip(injection(visual, audio), injection(visual, audio[:, [4, 2, 0, 1, 3]]), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_s4_one_audio_token_answers_the_same_to_every_visual_token():
    torch.manual_seed(0)
    injection, visual, audio = Injection(16, 4, 4), torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    one, _ = injection(visual, audio[:, :1])
    assert float((one - one[:, :1]).detach().abs().max()) < 1e-6
    several, _ = injection(visual, audio)
    assert float((several - several[:, :1]).detach().abs().max()) > 1e-3


def test_injection_fuses_a_vector_of_unit_variance():
    torch.manual_seed(0)
    visual = torch.randn(2, 7, 16)
    _, fused = Injection(16, 4, 4)(visual, torch.randn(2, 5, 16))
    assert torch.allclose((fused - visual).var(-1, correction=0), torch.ones(2, 7), atol=0.05)


def test_s9_the_gate_starts_near_a_half():
    torch.manual_seed(0)
    gate = Perception(768, 12).gate.detach()
    assert gate.shape == (1, 1, 768)
    assert 0.06 < float(gate.abs().max()) <= 0.0625  # sqrt(6 / (768 + 768))
    assert 0.4843 < float(gate.sigmoid().min()) < 0.486 and 0.514 < float(gate.sigmoid().max()) < 0.5157


def test_a_common_scale_of_the_gate_cancels():
    torch.manual_seed(0)
    perception, visual = Perception(16, 4), torch.randn(2, 7, 16)
    results = []
    for gate in (0.2, 0.8):
        nn.init.constant_(perception.gate, torch.logit(torch.tensor(gate)).item())
        results.append(perception(visual))
    assert torch.allclose(results[0][0] * 4, results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=0.05)


def test_s7_mask_is_within_its_range_and_moves_only_the_generator():
    torch.manual_seed(0)
    mask = MaskGenerator(16, dropout=0.2)
    student, teacher = torch.randn(3, 7, 16, requires_grad=True), torch.randn(3, 7, 16, requires_grad=True)
    weight = mask(student, teacher)
    assert weight.shape == (3, 7) and float(weight.detach().min()) >= 0 and float(weight.detach().max()) <= 6
    weight.sum().backward()
    assert student.grad is None and teacher.grad is None
    assert all(float(p.grad.abs().max()) > 0 for p in mask.parameters())
    big = nn.Parameter(torch.full((1,), 100.0))
    mask.score[4].bias = big
    assert torch.equal(mask.eval()(student, teacher), torch.full((3, 7), 6.0))


def test_about_half_of_a_new_mask_is_zero():
    torch.manual_seed(0)
    mask = torch.cat([MaskGenerator(64, 0.2)(torch.randn(4, 50, 64), torch.randn(4, 50, 64)) for _ in range(10)])
    assert 0.4 < float((mask == 0).float().mean()) < 0.75


def test_head_averages_the_cls_of_the_frames_of_a_clip():
    torch.manual_seed(0)
    head = Head(transformer_block(12, 3, 4.0, 0.0), width=12, classes=4).eval()
    tokens = torch.randn(6, 5, 12)  # two clips of three frames
    feat, feat_bn, logits = head(tokens, 3)
    cls = head.norm(head.block(tokens))[:, 0]
    assert torch.allclose(feat[1], (cls[3] + cls[4] + cls[5]) / 3, atol=1e-6)
    assert torch.allclose(feat_bn, feat / (1 + 1e-5) ** 0.5, atol=1e-6)  # untrained: mean 0, variance 1
    assert torch.allclose(logits, feat_bn @ head.classifier.weight.T, atol=1e-6)
    assert head.classifier.bias is None


def test_neck_normalises_over_the_batch_in_training():
    torch.manual_seed(0)
    head = Head(transformer_block(12, 3, 4.0, 0.0), width=12, classes=4).train()
    _, feat_bn, _ = head(torch.randn(32, 5, 12), 1)
    assert torch.allclose(feat_bn.mean(0), torch.zeros(12), atol=1e-5)
    assert torch.allclose(feat_bn.var(0, correction=0), torch.ones(12), atol=1e-2)
