"""Facts S1-S10 and the parameter counts of specs/dubbernet.md section 11, and what the parts must do together."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.registry import MODELS, mask_generators
from pipeline.base.batch import Batch, Companion
from pipeline.base.config import DistillConfig, ModelConfig
from pipeline.base.errors import ConfigError
from tests.model import tiny

ALL = sorted(MODELS)
FULL = ModelConfig()


def full_size(name, classes=625, cameras=6):
    """ViT-B/16 on 256x128 without memory."""
    with torch.device("meta"):
        return MODELS[name](FULL, classes=classes, cameras=cameras, bands=80, height=256, width=128)


def count(module, skip=()):
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith(skip))


# --- section 11.1: parameters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "cameras"), [(625, 6), (150, 2), (89, 2)])
def test_parameters_of_the_full_teacher(classes, cameras):
    teacher = full_size("dubbernet_teacher", classes, cameras)
    assert count(teacher, skip=("audio.",)) == 91_132_032 + 768 * (classes + cameras)


@pytest.mark.parametrize(("classes", "cameras"), [(625, 6), (150, 2), (89, 2)])
def test_parameters_of_the_full_student(classes, cameras):
    student = full_size("dubbernet_student", classes, cameras)
    assert count(student) == 90_538_752 + 768 * (classes + cameras)


def test_parameters_of_the_full_student_on_mars_at_inference():
    assert count(full_size("dubbernet_student"), skip=("head.classifier",)) == 90_543_360


def test_parameters_of_the_parts():
    teacher, student = full_size("dubbernet_teacher"), full_size("dubbernet_student")
    assert count(teacher.embedding.patches) == 590_592
    assert teacher.embedding.position.numel() == 162_048
    assert teacher.embedding.camera.weight.shape == (6, 768)
    assert [count(block) for block in teacher.blocks] == [7_087_872] * 11
    assert count(teacher.head.block) + count(teacher.head.norm) == 7_089_408
    assert count(teacher.head.neck) == 1_536
    assert [count(part) for part in teacher.fusion.values()] == [2_660_544] * 2
    assert [count(part) for part in student.fusion.values()] == [2_363_904] * 2
    with torch.device("meta"):
        assert [count(part) for part in mask_generators(FULL, DistillConfig())] == [1_479_937] * 2


def test_visual_baseline_is_the_student_without_perception():
    assert count(full_size("dubbernet_student")) - count(full_size("dubbernet_visual")) == 2 * 2_363_904


# --- section 11.2: shapes and invariants -----------------------------------------------------------------------------


def test_s2_shapes_of_the_full_teacher_on_a_gpu_that_is_never_waited_for():
    """A fake device stands for the GPU: reading one of its values back would raise."""
    with FakeTensorMode(), torch.device("cuda"):
        teacher = MODELS["dubbernet_teacher"](FULL, classes=625, cameras=6, bands=80, height=256, width=128)
        index = torch.zeros(2, dtype=torch.int64)
        audio = Companion(torch.empty(3, 500, 80), torch.ones(3, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.int64))
        batch = Batch(torch.zeros(2, 6, 3, 256, 128, dtype=torch.uint8), index, index, ["a", "b"], {"audio": audio})
        out = teacher(batch)
        masks = [part(t, t) for part, t in zip(mask_generators(FULL, DistillConfig()), out.taps_fused, strict=True)]
        assert out.logits.shape == (2, 625) and out.feat.shape == out.feat_bn.shape == (2, 768)
        assert [t.shape for t in out.taps_attn + out.taps_fused] == [(12, 211, 768)] * 4
        assert [m.shape for m in masks] == [(12, 211)] * 2


@pytest.mark.parametrize(("name", "taps"), [("dubbernet_teacher", 2), ("dubbernet_student", 2), ("dubbernet_visual", 0)])
def test_s2_shapes_are_the_same_in_both_modes(name, taps):
    for network in (tiny.network(name).train(), tiny.network(name).eval()):
        out = network(tiny.batch(clips=2, frames=3))
        assert out.logits.shape == (2, 5) and out.feat.shape == out.feat_bn.shape == (2, 24)
        assert [t.shape for t in out.taps_attn] == [t.shape for t in out.taps_fused] == [(6, 22, 24)] * taps


@pytest.mark.parametrize("name", ALL)
def test_features_are_float32_under_autocast(name):
    network, batch = tiny.network(name).eval(), tiny.batch()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(batch)
    assert {t.dtype for t in (out.logits, out.feat, out.feat_bn)} == {torch.float32}
    assert torch.allclose(out.feat, network(batch).feat, atol=0.1)


def test_s5_student_and_its_state_know_no_audio():
    student = tiny.network("dubbernet_student").eval()
    heard, other = tiny.batch(seed=1), tiny.batch(seed=1)
    other.companions["audio"].values += 3
    assert torch.equal(student.embed(heard), student.embed(other))
    assert torch.equal(student.embed(heard), student.embed(heard.frames_only()))
    assert not [name for name in student.state_dict() if "audio" in name or "mask" in name]
    teacher = tiny.network("dubbernet_teacher").eval()  # negative control: whoever hears does notice
    other.companions["audio"].values[:, :10] += 3
    assert not torch.allclose(teacher.embed(heard), teacher.embed(other), atol=1e-4)


def test_s6_feature_is_the_mean_of_equal_clips_in_any_order_of_frames():
    student, batch = tiny.network("dubbernet_student").eval(), tiny.batch(clips=1, frames=6)
    student.head.neck.running_mean += torch.linspace(-1, 1, 24)  # as after training: not 0 and 1
    student.head.neck.running_var *= torch.linspace(0.5, 2, 24)
    whole = student.embed(batch)
    halves = student.embed(
        replace(batch, frames=batch.frames.unflatten(1, (2, 3)).squeeze(0), camera=batch.camera.repeat(2), tracklet=["a", "a"])
    )
    assert torch.allclose(halves.mean(0), whole[0], atol=1e-5)
    assert torch.allclose(student.embed(replace(batch, frames=batch.frames[:, [5, 2, 0, 1, 4, 3]])), whole, atol=1e-5)
    assert not torch.allclose(student.embed(replace(batch, frames=batch.frames[:, [0, 0, 0, 0, 0, 0]])), whole, atol=1e-3)


def test_s8_stochastic_depth_and_eps():
    teacher = full_size("dubbernet_teacher")
    rates = [
        getattr(half, "drop_prob", 0.0) for block in (*teacher.blocks, teacher.head.block) for half in (block.drop_path1, block.drop_path2)
    ]
    assert rates == pytest.approx([k * 0.1 / 11 for k in range(12) for _ in range(2)])
    eps = {name: module.eps for name, module in teacher.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert {name: value for name, value in eps.items() if name.startswith(("blocks", "head"))} == dict.fromkeys(
        [name for name in eps if not name.startswith(("fusion", "audio"))], 1e-6
    )
    assert {value for name, value in eps.items() if name.startswith("fusion")} == {1e-5}


@pytest.mark.parametrize("name", ALL)
def test_s10_a_single_frame_works(name):
    network, batch = tiny.network(name), tiny.batch(clips=1, frames=1, items=1)
    network.train().head.neck.eval()
    assert network(batch).logits.shape == (1, 5)
    assert network.eval().embed(batch).shape == (1, 24)


# --- behaviour -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_learns(name):
    """No dead parameter (section 9, B12): all that may learn gets a gradient that is not zero everywhere."""
    network = tiny.network(name, drop_path=0.0).train()
    out = network(tiny.batch(clips=4))
    torch.nn.functional.cross_entropy(1000 * out.logits, torch.tensor([0, 1, 2, 3])).backward()
    idle = {p for p, tensor in network.named_parameters() if tensor.grad is None or not tensor.grad.abs().max() > 0}
    assert idle == {"head.neck.bias"}
    assert not network.head.neck.bias.requires_grad and not network.head.neck.bias.any()


def test_frames_hear_their_own_item_and_nothing_else():
    teacher, batch = tiny.network().eval(), tiny.batch(clips=3, frames=2, items=2)
    batch.companions["audio"].align = torch.tensor([[0, 0], [1, 1], [-1, -1]])
    before = teacher.embed(batch)
    batch.companions["audio"].values[1] *= torch.linspace(0, 2, 20)[:, None]
    moved = (teacher.embed(batch) - before).abs().amax(1) > 1e-4
    assert moved.tolist() == [False, True, False]


def test_distinct_items_are_encoded_once_however_many_frames_hear_them():
    teacher, seen = tiny.network().eval(), []
    teacher.audio.register_forward_hook(lambda module, given, out: seen.append(out.shape))
    teacher.embed(tiny.batch(clips=4, frames=6, items=2))
    assert seen == [(2, 4, 24)]


def test_a_batch_in_which_nobody_hears_anything():
    teacher = tiny.network().train()
    out = teacher(tiny.batch(items=0))
    out.logits.sum().backward()
    assert out.logits.isfinite().all()


def test_taps_are_before_and_after_the_residual_sum():
    """fused = tokens of the block before + LN(attn): so fused - LN(attn) is that block's output."""
    for name in ("dubbernet_teacher", "dubbernet_student"):
        network, blocks = tiny.network(name).eval(), []
        network.blocks[1].register_forward_hook(lambda module, given, out, blocks=blocks: blocks.append(out))
        out = network(tiny.batch())
        assert torch.allclose(out.taps_fused[1] - network.fusion["1"].out_norm(out.taps_attn[1]), blocks[0], atol=1e-5)


def test_fusion_follows_the_named_blocks():
    network, order = tiny.network("dubbernet_student", depth=6, fusion_after_blocks=(1, 3)), []
    for name, module in network.named_children():
        for key, part in getattr(module, "named_children", list)() if name in ("blocks", "fusion") else []:
            part.register_forward_hook(lambda module, given, out, label=f"{name}.{key}": order.append(label))
    network(tiny.batch())
    assert order == ["blocks.0", "blocks.1", "fusion.1", "blocks.2", "blocks.3", "fusion.3", "blocks.4"]


def test_camera_moves_the_feature_by_its_scale():
    near, far = (tiny.network("dubbernet_student", camera_scale=scale).eval() for scale in (1e-4, 3.0))
    batch = tiny.batch()
    other = replace(batch, camera=batch.camera + 1)
    moved = [float((network.embed(other) - network.embed(batch)).abs().max()) for network in (near, far)]
    assert 0 < moved[0] < 1e-3 < moved[1]


def test_all_frames_of_a_clip_get_its_camera():
    network, batch = tiny.network("dubbernet_student").eval(), tiny.batch(clips=3, frames=2)
    other = replace(batch, camera=torch.tensor([0, 2, 2]))  # instead of 0, 1, 2
    per_frame = (network(other).taps_fused[0] - network(batch).taps_fused[0]).abs().amax((1, 2)) > 1e-3
    assert per_frame.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("name", ALL)
def test_the_seed_decides_the_weights(name):
    first, again, other = tiny.network(name), tiny.network(name), tiny.network(name, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.embedding.position, other.embedding.position)


def test_initial_values():
    torch.manual_seed(0)
    network = MODELS["dubbernet_teacher"](
        ModelConfig(width=96, depth=2, heads=4, fusion_after_blocks=(0,)), classes=50, cameras=40, bands=8, height=256, width=128
    )
    std = {name: float(p.detach().std()) for name, p in network.named_parameters()}
    assert std["embedding.patches.weight"] == pytest.approx((2 / (16 * 16 * 96)) ** 0.5, rel=0.05)
    for name in ("embedding.position", "embedding.camera.weight", "blocks.0.attn.qkv.weight", "head.block.mlp.fc2.weight"):
        assert std[name] == pytest.approx(0.02, rel=0.05), name
    assert std["head.classifier.weight"] == pytest.approx(0.001, rel=0.05)
    assert std["fusion.0.attention.query.weight"] == pytest.approx((1 / 96 / 3) ** 0.5, rel=0.05)  # uniform +-1/sqrt(96)
    assert not network.blocks[0].attn.qkv.bias.any()


def test_numbers_that_cannot_make_a_network():
    def build(name="dubbernet_teacher", **facts):
        sizes = {"classes": 5, "cameras": 2, "bands": 8, "height": 32, "width": 16} | facts
        return MODELS[name](tiny.config(), **sizes)

    with pytest.raises(ConfigError, match="bands=0"):
        build(bands=0)
    build("dubbernet_student", bands=0)
    with pytest.raises(ConfigError, match="classes=0"):
        build(classes=0)
    with pytest.raises(ConfigError, match=r"patch=8: larger than a frame of 4x16 pixels"):
        build(height=4)
