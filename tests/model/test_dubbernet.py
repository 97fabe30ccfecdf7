"""Facts of specs/dubbernet.md section 11.2 about whole networks, and what the parts must do together."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.blocks.vit import patch_grid
from model.registry import MODELS, mask_generators
from pipeline.base.batch import Batch, Companion
from pipeline.base.config import DistillConfig, ModelConfig
from pipeline.base.errors import ConfigError, UserError
from tests.model import tiny

SEEING = ["dubbernet_student", "dubbernet_teacher", "dubbernet_visual"]
FULL = ModelConfig()
FACTS = {"classes": 625, "cameras": 6, "height": 256, "width": 128, "frames": 6}


# --- section 11.2: shapes and invariants -----------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "grid", "tokens"), [(12, (21, 10), 211), (16, (16, 8), 129)])
def test_s1_patches_and_tokens(stride, grid, tokens):
    with torch.device("meta"):
        network = MODELS["dubbernet_visual"](replace(FULL, stride=stride), kind="", bands=0, **FACTS)
        embedded = network.embedding(torch.empty(1, 3, 256, 128, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    assert patch_grid(256, 128, 16, stride) == grid
    assert embedded.shape == network.embedding.position.shape == (1, tokens, 768)


@pytest.mark.parametrize(("kind", "length", "bands"), [("audio", 500, 80), ("audio_tokens", 2, 768), ("audio_tokens", 249, 1024)])
@pytest.mark.parametrize(
    "switches",
    [{}, {"injection": "add"}, {"injection": "concat_cls"}, {"pool": "attention", "local_branch": True, "audio_dropout": 0.5}],
)
def test_s2_shapes_of_the_full_teacher_on_a_gpu_that_is_never_waited_for(switches, kind, length, bands):
    """A fake device stands for the GPU: reading one of its values back would raise."""
    with FakeTensorMode(), torch.device("cuda"):
        teacher = MODELS["dubbernet_teacher"](replace(FULL, **switches), kind=kind, bands=bands, **FACTS)
        index = torch.zeros(2, dtype=torch.int64)
        audio = Companion(torch.empty(3, length, bands), torch.ones(3, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.int64))
        batch = Batch(torch.zeros(2, 6, 3, 256, 128, dtype=torch.uint8), index, index, ["a", "b"], {kind: audio})
        out = teacher(batch)
        masks = [part(t, t)[0] for part, t in zip(mask_generators(FULL, DistillConfig()), out.taps_fused, strict=True)]
        assert out.logits.shape == (2, 625) and out.feat.shape == out.feat_bn.shape == (2, 768)
        assert [t.shape for t in out.taps_attn + out.taps_fused] == [(12, 211, 768)] * 4
        assert [m.shape for m in masks] == [(12, 211)] * 2
        if teacher.local is not None:
            assert out.attention.shape == (2, 6)
            assert [part.shape for part in out.local_feats + out.local_feats_bn] == [(2, 4608)] * 8
            assert [part.shape for part in out.local_logits] == [(2, 625)] * 4


@pytest.mark.parametrize(("name", "attn"), [("dubbernet_teacher", 2), ("dubbernet_student", 2), ("dubbernet_visual", 0)])
def test_s2_shapes_are_the_same_in_both_modes(name, attn):
    for network in (tiny.network(name).train(), tiny.network(name).eval()):
        out = network(tiny.batch(clips=2, frames=3))
        assert out.logits.shape == (2, 5) and out.feat.shape == out.feat_bn.shape == (2, 24)
        assert [t.shape for t in out.taps_attn] == [(6, 22, 24)] * attn
        assert [t.shape for t in out.taps_fused] == [(6, 22, 24)] * 2
        assert out.attention is None and out.local_logits == out.local_feats == out.local_feats_bn == []


@pytest.mark.parametrize("name", SEEING)
def test_features_are_float32_under_autocast(name):
    network, batch = tiny.network(name).eval(), tiny.batch()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(batch)
    assert {t.dtype for t in (out.logits, out.feat, out.feat_bn)} == {torch.float32}
    assert torch.allclose(out.feat, network(batch).feat, atol=0.1)


def test_s5_student_and_its_state_know_no_audio():
    student = tiny.network("dubbernet_student").eval()
    heard, other = tiny.batch(seed=1), tiny.batch(seed=1)
    other.companions["audio"].values[:, :10] += 3  # half of a clip: a constant is taken out by anybody who hears
    assert torch.equal(student.embed(heard), student.embed(other))
    assert torch.equal(student.embed(heard), student.embed(heard.frames_only()))
    full = tiny.network("dubbernet_student", pool="attention", local_branch=True, audio_dropout=0.5)
    assert not [name for name in (*student.state_dict(), *full.state_dict()) if "audio" in name or "mask" in name]
    teacher = tiny.network("dubbernet_teacher").eval()  # negative control: whoever hears does notice
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
    with torch.device("meta"):
        teacher = MODELS["dubbernet_teacher"](replace(FULL, local_branch=True), kind="audio_tokens", bands=768, **FACTS)
        student = MODELS["dubbernet_student"](FULL, kind="", bands=0, **FACTS)

    for network in (teacher, student):
        assert network.drop_path.rates == pytest.approx([k * 0.1 / 11 for k in range(12)])
        eps = {name: module.eps for name, module in network.named_modules() if isinstance(module, torch.nn.LayerNorm)}
        assert {value for name, value in eps.items() if name.startswith("fusion")} == {1e-5}
        assert {value for name, value in eps.items() if not name.startswith("fusion")} == {1e-6}


@pytest.mark.parametrize("kind", tiny.ITEM)
@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("switches", [{}, {"injection": "add"}, {"injection": "concat_cls"}, {"pool": "attention", "local_branch": True}])
def test_s10_a_single_frame_works(name, kind, switches):
    network, batch = tiny.network(name, kind=kind, frames=1, **switches), tiny.batch(clips=1, frames=1, items=1, kind=kind)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    out = network(batch)
    out.logits.sum().backward()
    assert out.logits.shape == (1, 5) and out.logits.isfinite().all()
    assert out.attention is None or out.attention.tolist() == [[1.0]]
    assert network.eval().embed(batch).shape == (1, 24 * 5 if out.local_feats else 24)


# --- behaviour -------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("injection", ["attention", "add", "concat_cls"])
def test_however_it_hears_each_clip_hears_its_own_item(injection):
    teacher, batch = tiny.network(injection=injection).eval(), tiny.batch(clips=2, frames=3)
    batch.companions["audio"].align = torch.tensor([[0, 0, 0], [1, 1, 1]])
    before = teacher.embed(batch)
    batch.companions["audio"].values[1] *= torch.linspace(0, 2, 20)[:, None]
    assert ((teacher.embed(batch) - before).abs().amax(1) > 1e-4).tolist() == [False, True]


def test_given_tokens_reach_the_injection_as_they_are():
    teacher, seen = tiny.make(tiny.config(), "dubbernet_teacher", kind="audio_tokens", bands=24).eval(), []
    teacher.fusion["0"].register_forward_hook(lambda module, given, out: seen.append(given[1]))
    batch = tiny.batch(clips=1, frames=3, kind="audio_tokens")
    batch.companions["audio_tokens"].values = values = torch.randn(2, 6, 24)
    batch.companions["audio_tokens"].align = torch.tensor([[1, 0, -1]])
    teacher.embed(batch)
    assert torch.equal(seen[0], torch.stack([values[1], values[0], torch.zeros(6, 24)]))
    assert not list(teacher.audio.parameters())


def test_audio_dropout_takes_all_sound_from_a_clip_in_training_alone():
    teacher, batch = tiny.network(audio_dropout=0.5).train(), tiny.batch(clips=40, frames=3)
    companion = batch.companions["audio"]
    torch.manual_seed(0)
    heard = teacher.hear(companion).detach().unflatten(0, (40, 3))
    deaf = ~heard.flatten(1).any(1)
    assert 10 <= int(deaf.sum()) <= 30
    everything = teacher.eval().hear(companion).detach().unflatten(0, (40, 3))
    assert torch.equal(heard[~deaf], everything[~deaf]) and everything.flatten(1).any(1).all()
    torch.manual_seed(0)  # what the trainer does before each step
    assert torch.equal(teacher.train().hear(companion).unflatten(0, (40, 3)), heard)
    torch.manual_seed(1)
    assert not torch.equal(teacher.hear(companion).unflatten(0, (40, 3)), heard)
    always = tiny.network(audio_dropout=0.0).train()  # control: no chance, nothing drawn
    state = torch.get_rng_state()
    assert torch.equal(always.hear(companion), everything.flatten(0, 1))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_clip_that_hears_nothing_is_like_one_without_items():
    teacher, batch = tiny.network(audio_dropout=1 - 1e-9, drop_path=0.0).train(), tiny.batch()
    without = replace(batch.companions["audio"], align=torch.full((2, 3), -1))
    expected = tiny.network().eval()(replace(batch, companions={"audio": without}))
    assert torch.equal(teacher(batch).feat, expected.feat)
    assert not torch.allclose(teacher.eval()(batch).feat, expected.feat, atol=1e-3)  # control


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("dubbernet_teacher", {}),
        ("dubbernet_teacher", {"injection": "add"}),
        ("dubbernet_teacher", {"injection": "concat_cls"}),
        ("dubbernet_student", {}),
    ],
)
def test_from_zero_the_fusion_adds_nothing_at_first(name, switches):
    zero, plain = (tiny.network(name, fusion_zero_init=on, **switches).eval() for on in (True, False))
    batch = tiny.batch()
    visual = tiny.network("dubbernet_visual").eval()
    visual.load_state_dict({part: value for part, value in zero.state_dict().items() if part in visual.state_dict()})
    assert torch.equal(zero(batch).feat, visual(batch).feat)
    assert not torch.allclose(plain(batch).feat, visual(batch).feat, atol=1e-3)  # control
    assert all(float(part.out_norm.weight.detach().abs().max()) == 0 for part in zero.fusion.values())


def test_without_fusion_the_taps_are_the_tokens_after_the_blocks():
    network, blocks = tiny.network("dubbernet_visual", depth=4, fusion_after_blocks=(0, 2)).eval(), []
    for block in network.blocks:
        block.register_forward_hook(lambda module, given, out: blocks.append(out))
    out = network(tiny.batch())
    assert [torch.equal(tap, blocks[i]) for tap, i in zip(out.taps_fused, (0, 2), strict=True)] == [True, True]
    assert out.taps_attn == []


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


def test_forgotten_cameras_are_the_mean_of_those_learned():
    """Indices are not looked at any more, those that were never learned included; forgetting twice is forgetting once."""
    network, alike = (tiny.network("dubbernet_student", camera_scale=3.0).eval() for _ in range(2))
    batch = tiny.batch()
    alike.load_state_dict(network.state_dict())
    alike.embedding.camera.weight.data[:] = network.embedding.camera.weight.data.mean(0)
    expected, before = alike.embed(batch), network.embed(batch)
    network.forget_cameras()
    found = network.embed(batch)
    assert (found - expected).abs().max() < 1e-5 < (found - before).abs().max()
    assert torch.equal(found, network.embed(replace(batch, camera=batch.camera + 1000)))
    network.forget_cameras()
    assert torch.equal(found, network.embed(batch))


def test_all_frames_of_a_clip_get_its_camera():
    network, batch = tiny.network("dubbernet_student").eval(), tiny.batch(clips=3, frames=2)
    other = replace(batch, camera=torch.tensor([0, 2, 2]))  # instead of 0, 1, 2
    per_frame = (network(other).taps_fused[0] - network(batch).taps_fused[0]).abs().amax((1, 2)) > 1e-3
    assert per_frame.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("name", SEEING)
def test_the_seed_decides_the_weights(name):
    first, again, other = tiny.network(name), tiny.network(name), tiny.network(name, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.embedding.position, other.embedding.position)


def test_initial_values():
    torch.manual_seed(0)
    network = MODELS["dubbernet_teacher"](
        ModelConfig(width=96, depth=2, heads=4, fusion_after_blocks=(0,)),
        **FACTS | {"kind": "audio", "classes": 50, "cameras": 40, "bands": 8},
    )
    std = {name: float(p.detach().std()) for name, p in network.named_parameters()}
    assert std["embedding.patches.weight"] == pytest.approx((2 / (16 * 16 * 96)) ** 0.5, rel=0.05)
    for name in ("embedding.position", "embedding.camera.weight", "blocks.0.attn.qkv.weight", "head.block.mlp.fc2.weight"):
        assert std[name] == pytest.approx(0.02, rel=0.05), name
    assert std["head.classifier.weight"] == pytest.approx(0.001, rel=0.05)
    assert std["fusion.0.attention.query.weight"] == pytest.approx((1 / 96 / 3) ** 0.5, rel=0.05)  # uniform +-1/sqrt(96)
    assert not network.blocks[0].attn.qkv.bias.any()


def test_weights_over_time_weigh_the_frames():
    """With `pool: attention`, the feature is the weighted sum of the features of the frames, each alone."""
    network, batch = tiny.network("dubbernet_student", pool="attention").eval(), tiny.batch(clips=1, frames=4)
    out = network(batch)
    alone = tiny.network("dubbernet_student").eval()
    alone.load_state_dict(network.state_dict(), strict=False)
    frames = torch.cat([alone(replace(batch, frames=batch.frames[:, i : i + 1])).feat for i in range(4)])
    assert torch.allclose(out.feat, out.attention @ frames, atol=1e-5)
    assert torch.allclose(out.attention.sum(1), torch.ones(1)) and not torch.allclose(out.attention, torch.full((1, 4), 0.25), atol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
def test_weights_over_time_take_clips_of_any_length(frames):
    network = tiny.network("dubbernet_student", pool="attention").eval()
    assert network(tiny.batch(clips=2, frames=frames)).attention.shape == (2, frames)


def test_features_with_parts_are_global_and_a_quarter_of_each_part():
    network, batch = tiny.network("dubbernet_student", local_branch=True).eval(), tiny.batch()
    out, feature = network(batch), network.embed(batch)
    assert torch.equal(feature, torch.cat([out.feat_bn, *(part / 4 for part in out.local_feats_bn)], dim=1))
    assert feature.shape == (2, 24 + 4 * 72)
    parts = zip(network.local.necks, out.local_feats, out.local_feats_bn, strict=True)
    assert [torch.equal(neck(before), after) for neck, before, after in parts] == [True] * 4
    assert torch.equal(out.feat_bn, network.head.neck(out.feat))


@pytest.mark.parametrize("frames", [2, 4])
def test_the_local_branch_wants_its_number_of_frames(frames):
    sentence = rf"clips of {frames} frames, the network was built for exactly 3 .*local_branch"
    with pytest.raises(UserError, match=sentence):
        tiny.network("dubbernet_student", local_branch=True).eval().embed(tiny.batch(frames=frames))
    tiny.network("dubbernet_student").eval().embed(tiny.batch(frames=frames))


def test_numbers_that_cannot_make_a_network():
    def build(name="dubbernet_teacher", settings=None, **facts):
        return tiny.make(settings or tiny.config(), name, **facts)

    with pytest.raises(ConfigError, match="bands=0"):
        build(bands=0)
    with pytest.raises(ConfigError, match="kind='video'"):
        build(kind="video", bands=8)
    build("dubbernet_student", kind="", bands=0)
    with pytest.raises(ConfigError, match="classes=0"):
        build(classes=0)
    with pytest.raises(ConfigError, match="cameras=0"):
        build(cameras=0)
    with pytest.raises(ConfigError, match=r"patch=8: larger than a frame of 4x16 pixels"):
        build(height=4)
    with pytest.raises(ConfigError, match=r"local_branch: clips of 3 frames with 2 patches each, expected at least 1 and 4"):
        build(settings=tiny.config(local_branch=True, patch=16, stride=16))
