from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from model.blocks.attention import CrossAttention
from model.blocks.head import Head
from model.blocks.injection import INJECTIONS, AttentionInjection
from model.blocks.local_branch import LocalBranch, join_frames, part_sizes, patch_order
from model.blocks.mask import OPEN, MaskGenerator
from model.blocks.perception import Perception
from model.blocks.temporal import TemporalAttention
from model.blocks.vit import transformer_block
from pipeline.base.config import ModelConfig


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


@pytest.fixture
def full_width():
    """Simple Injection as in the full teacher, visual tokens of two frames, 16 audio tokens of each."""
    torch.manual_seed(0)
    return AttentionInjection(768, 12, 192), torch.randn(2, 211, 768), torch.randn(2, 16, 768)


@torch.no_grad()
def test_s4_the_order_of_audio_tokens_does_not_matter(full_width):
    injection, visual, audio = full_width
    for ours, theirs in zip(injection(visual, audio), injection(visual, audio[:, torch.randperm(16)]), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    other, _ = injection(visual, audio.flip(2))  # control: other tokens do matter
    assert not torch.allclose(other, injection(visual, audio)[0], atol=1e-2)


@torch.no_grad()
def test_s4_one_audio_token_answers_the_same_to_every_visual_token(full_width):
    injection, visual, audio = full_width
    one, _ = injection(visual, audio[:, :1])
    assert one.shape == (2, 211, 768) and float((one - one[:, :1]).abs().max()) < 1e-6
    assert torch.allclose(injection(visual.flip(2), audio[:, :1])[0], one, atol=1e-6)  # and whatever the image
    two, _ = injection(visual, audio[:, :2])  # control
    assert float((two - two[:, :1]).abs().max()) > 1e-3


def test_every_way_to_hear_that_a_method_can_name_is_there():
    assert set(get_args(get_type_hints(ModelConfig)["injection"])) == set(INJECTIONS)


@pytest.mark.parametrize("name", ["add", "concat_cls"])
def test_the_simpler_injections_do_not_mind_the_order_of_audio_tokens(name):
    torch.manual_seed(0)
    injection, visual, audio = INJECTIONS[name](16, 4, 4), torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    for ours, theirs in zip(injection(visual, audio), injection(visual, audio[:, [4, 2, 0, 1, 3]]), strict=True):
        assert ours.shape == (2, 7, 16) and torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("name", "hearing"), [("attention", 7), ("add", 7), ("concat_cls", 1)])
def test_injection_fuses_a_vector_of_unit_variance(name, hearing):
    torch.manual_seed(0)
    visual = torch.randn(2, 7, 16)
    _, fused = INJECTIONS[name](16, 4, 4)(visual, torch.randn(2, 5, 16))
    added = fused - visual
    assert torch.allclose(added[:, :hearing].var(-1, correction=0), torch.ones(2, hearing), atol=0.05)
    assert not added[:, hearing:].any()


def _adapted(injection, audio):
    """4.3 step 1, written out."""
    normed = injection.audio_norm(audio)
    first, _, second = injection.adapter
    hidden = nn.functional.gelu(normed @ first.weight.T + first.bias)
    return normed + hidden @ second.weight.T + second.bias


@torch.no_grad()
def test_injection_step_by_step():
    torch.manual_seed(0)
    injection, visual, audio = INJECTIONS["attention"](16, 4, 4), torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    attn, fused = injection(visual, audio)
    assert torch.allclose(attn, injection.attention(injection.visual_norm(visual), _adapted(injection, audio)), atol=1e-6)
    assert torch.allclose(fused, visual + injection.out_norm(attn), atol=1e-6)


@torch.no_grad()
def test_perception_step_by_step():
    """5.1: queries, keys and values all come from the normed tokens."""
    torch.manual_seed(0)
    perception, visual = Perception(16, 4), 3 * torch.randn(2, 7, 16) + 1
    attn, fused = perception(visual)
    normed = nn.functional.layer_norm(visual, (16,), perception.norm.weight, perception.norm.bias, 1e-5)
    assert torch.allclose(attn, perception.attention(normed, normed) * torch.sigmoid(perception.gate), atol=1e-6)
    assert not torch.allclose(attn, perception.attention(normed, visual) * torch.sigmoid(perception.gate), atol=1e-2)
    assert torch.allclose(fused, visual + perception.out_norm(attn), atol=1e-6)


@torch.no_grad()
def test_added_audio_is_the_same_for_all_tokens():
    torch.manual_seed(0)
    injection, visual, audio = INJECTIONS["add"](16, 4, 4), torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    attn, fused = injection(visual, audio)
    heard = injection.linear(_adapted(injection, audio).mean(1))
    for n in range(7):
        assert torch.allclose(attn[:, n], heard, atol=1e-6)
        assert torch.allclose(fused[:, n], visual[:, n] + injection.out_norm(heard), atol=1e-6)


@torch.no_grad()
def test_audio_joined_to_cls_leaves_the_patches_alone():
    torch.manual_seed(0)
    injection, visual, audio = INJECTIONS["concat_cls"](16, 4, 4), torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    attn, fused = injection(visual, audio)
    pair = torch.cat([injection.visual_norm(visual[:, 0]), _adapted(injection, audio).mean(1)], dim=1)
    assert torch.allclose(attn[:, 0], injection.linear(pair), atol=1e-6)
    assert torch.allclose(fused[:, 0], visual[:, 0] + injection.out_norm(injection.linear(pair)), atol=1e-6)
    assert not attn[:, 1:].any() and torch.equal(fused[:, 1:], visual[:, 1:])


@pytest.mark.parametrize("name", INJECTIONS)
def test_from_zero_an_injection_changes_nothing_but_can_learn(name):
    torch.manual_seed(0)
    injection, visual, audio = INJECTIONS[name](16, 4, 4, zero_init=True), torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    attn, fused = injection(visual, audio)
    assert torch.equal(fused, visual) and attn.any()
    (fused * torch.randn(2, 7, 16)).sum().backward()
    assert injection.out_norm.weight.grad.abs().max() > 0


def test_from_zero_perception_changes_nothing():
    torch.manual_seed(0)
    visual = torch.randn(2, 7, 16)
    attn, fused = Perception(16, 4, zero_init=True)(visual)
    assert torch.equal(fused, visual) and attn.any()


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
    weight, score = mask(student, teacher)
    assert torch.equal(weight, score.clamp(0, 6))
    assert weight.shape == (3, 7) and float(weight.detach().min()) >= 0 and float(weight.detach().max()) <= 6
    weight.sum().backward()
    assert student.grad is None and teacher.grad is None
    assert all(float(p.grad.abs().max()) > 0 for p in mask.parameters())
    big = nn.Parameter(torch.full((1,), 100.0))
    mask.score[4].bias = big
    assert torch.equal(mask.eval()(student, teacher)[0], torch.full((3, 7), 6.0))


def test_a_new_mask_is_mostly_open():
    """Four fifths: what its dropout leaves."""
    torch.manual_seed(0)
    mask = torch.cat([MaskGenerator(64, 0.2)(torch.randn(4, 50, 64), torch.randn(4, 50, 64))[0] for _ in range(10)])
    assert 0.15 < float((mask == 0).float().mean()) < 0.35


def test_head_averages_the_cls_of_the_frames_of_a_clip():
    torch.manual_seed(0)
    head = Head(transformer_block(12, 3, 4.0), width=12, classes=4).eval()
    tokens = torch.randn(6, 5, 12)  # two clips of three frames
    feat, feat_bn, logits, weight = head(tokens, 3)
    assert weight is None
    cls = head.norm(head.block(tokens))[:, 0]
    assert torch.allclose(feat[1], (cls[3] + cls[4] + cls[5]) / 3, atol=1e-6)
    assert torch.allclose(feat_bn, feat / (1 + 1e-5) ** 0.5, atol=1e-6)  # untrained: mean 0, variance 1
    assert torch.allclose(logits, feat_bn @ head.classifier.weight.T, atol=1e-6)
    assert head.classifier.bias is None


def test_neck_normalises_over_the_batch_in_training():
    torch.manual_seed(0)
    head = Head(transformer_block(12, 3, 4.0), width=12, classes=4).train()
    _, feat_bn, _, _ = head(torch.randn(32, 5, 12), 1)
    assert torch.allclose(feat_bn.mean(0), torch.zeros(12), atol=1e-5)
    assert torch.allclose(feat_bn.var(0, correction=0), torch.ones(12), atol=1e-2)


# --- section 4.5 -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_temporal_attention_against_a_plain_loop():
    torch.manual_seed(0)
    attention, frames = TemporalAttention(6), torch.randn(2, 4, 6)
    assert attention.reduce.weight.shape == (2, 6, 1) and attention.over_time.weight.shape == (1, 2, 3)
    hidden = (frames @ attention.reduce.weight[..., 0].T + attention.reduce.bias).relu()
    score = torch.zeros(2, 4)
    for b in range(2):
        for t in range(4):
            seen = [(k, t + k - 1) for k in range(3) if 0 <= t + k - 1 < 4]  # kernel 3, zeros beyond both ends
            score[b, t] = sum(attention.over_time.weight[0, :, k] @ hidden[b, at] for k, at in seen) + attention.over_time.bias
    assert torch.allclose(attention(frames), score.relu().softmax(1), atol=1e-6)


def test_temporal_attention_of_one_frame_is_one():
    assert TemporalAttention(6)(torch.randn(1, 1, 6)).tolist() == [[1.0]]


@torch.no_grad()
def test_a_new_temporal_attention_is_open_for_every_seed():
    """Not by itself: with the convolution's ordinary bias, frames that look alike are all cut off at 0 for some seeds."""
    closed = 0
    for seed in range(40):
        torch.manual_seed(seed)
        attention = TemporalAttention(48)
        frames = torch.randn(1, 1, 48) + 0.05 * torch.randn(8, 6, 48)
        score = attention.over_time(attention.reduce(frames.transpose(1, 2)).relu())
        assert float(score.min()) > 0
        closed += bool((score - 1 + nn.Conv1d(16, 1, 3).bias).max() < 0)
    assert closed > 0  # control


def test_head_with_weights_over_time():
    torch.manual_seed(0)
    head = Head(transformer_block(12, 3, 4.0), width=12, classes=4, weigh_frames=True).eval()
    tokens = torch.randn(6, 5, 12)
    feat, _, _, weight = head(tokens, 3)
    cls = head.norm(head.block(tokens))[:, 0].unflatten(0, (2, 3))
    assert torch.equal(weight, head.attention(cls))
    assert torch.allclose(feat[1], sum(weight[1, t] * cls[1, t] for t in range(3)), atol=1e-6)


def test_frames_are_joined_patch_by_patch():
    """Two clips of two frames with three tokens of width 1: value = 100 clip + 10 frame + token (section 9, B27)."""
    tokens = torch.tensor([[0, 1, 2], [10, 11, 12], [100, 101, 102], [110, 111, 112]])[..., None]
    assert join_frames(tokens, 2).tolist() == [[[0, 10], [1, 11], [2, 12]], [[100, 110], [101, 111], [102, 112]]]
    released = tokens.reshape(2, 3, 2)  # memory read in another order: tokens of one frame beside each other
    assert released[0].tolist() == [[0, 1], [2, 10], [11, 12]]


def test_patches_are_rotated_then_two_halves_interleaved():
    # rotated: 5 6 7 8 9 | 0 1 2 3 4
    assert patch_order(10).tolist() == [5, 0, 6, 1, 7, 2, 8, 3, 9, 4]
    # rotated: 5 6 0 1 | 2 3 4: the first half is one longer
    assert patch_order(7).tolist() == [5, 2, 6, 3, 0, 4, 1]
    for patches in (4, 128, 210, 211):
        assert sorted(patch_order(patches).tolist()) == list(range(patches))


@pytest.mark.parametrize(("patches", "sizes"), [(210, [52, 52, 52, 54]), (128, [32] * 4), (4, [1] * 4), (7, [1, 1, 1, 4])])
def test_the_last_part_takes_the_remainder(patches, sizes):
    assert part_sizes(patches) == sizes


@torch.no_grad()
def test_local_branch_against_plain_loops():
    torch.manual_seed(0)
    branch = LocalBranch(width=6, heads=3, mlp_ratio=2.0, frames=2, patches=10, classes=5).eval()
    tokens = torch.randn(6, 11, 6)  # three clips of two frames
    feats, feats_bn, logits = branch(tokens)
    assert len(feats) == len(feats_bn) == len(logits) == 4
    for clip in range(3):
        first, second = tokens[2 * clip], tokens[2 * clip + 1]
        joined = [torch.cat([first[n], second[n]]) for n in range(11)]
        order = [5, 0, 6, 1, 7, 2, 8, 3, 9, 4]  # of patches, which follow CLS
        for i, members in enumerate((order[0:2], order[2:4], order[4:6], order[6:10])):
            part = torch.stack([joined[0], *(joined[1 + patch] for patch in members)])
            expected = branch.norm(branch.block(part[None]))[0, 0]
            assert torch.allclose(feats[i][clip], expected, atol=1e-5)
            assert torch.allclose(feats_bn[i][clip], expected / (1 + 1e-5) ** 0.5, atol=1e-5)
            assert torch.allclose(logits[i][clip], branch.classifiers[i].weight @ feats_bn[i][clip], atol=1e-6)


def test_local_branch_has_one_block_and_four_pairs():
    branch = LocalBranch(width=6, heads=3, mlp_ratio=2.0, frames=2, patches=10, classes=5)
    assert branch.block.attn.heads == 3 and branch.norm.eps == 1e-6
    assert {name.split(".")[0] for name in branch.state_dict()} == {"block", "norm", "necks", "classifiers"}  # the order is no weight
    assert [neck.bias.requires_grad for neck in branch.necks] == [False] * 4
    assert [tuple(linear.weight.shape) for linear in branch.classifiers] == [(5, 12)] * 4


def test_hardly_any_mask_starts_closed():
    """Tokens of one frame are alike, as a network's are: with the usual start many generators would give 0 for all of them."""

    def closed(bias: float) -> int:
        count = 0
        for seed in range(100):
            torch.manual_seed(seed)
            part = MaskGenerator(24, dropout=0.0)
            part.score[4].bias.data.fill_(bias)
            common, own = torch.randn(2, 1, 1, 24), 0.5 * torch.randn(2, 4, 22, 24)
            count += bool((part(*(common + own))[0] == 0).float().mean() > 0.95)
        return count

    assert closed(OPEN) <= 2
    assert closed(0.0) >= 10
