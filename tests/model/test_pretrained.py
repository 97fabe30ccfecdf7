import pickle

import pytest
import torch
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from model import weights
from model.dubbernet import DubberNet
from model.pretrained import LAYOUTS, load_vit, resize_positions, start_from
from model.registry import MODELS
from pipeline.base.errors import WeightsError
from tests.model import tiny

SEEING = sorted(name for name in MODELS if name != "audio_probe")
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 10}


def vit(kind=VisionTransformer, **changes):
    torch.manual_seed(7)
    return kind(**TINY | changes)


def in_layout(layout):
    """A file's tensors in each layout, all of the same trunk."""
    state = vit().state_dict()
    if layout == "jx":
        state |= {"pre_logits.fc.weight": torch.zeros(24, 24), "pre_logits.fc.bias": torch.zeros(24)}
    if layout == "deit_distilled":
        other = vit(VisionTransformerDistilled).state_dict()
        cls, patches = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        position = torch.cat([cls, torch.full((1, 1, 24), 99.0), patches], dim=1)
        assert position.shape == other["pos_embed"].shape
        state = other | state | {"pos_embed": position}
    return state


def same(network, state):
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(vit().state_dict(), path)
    return path


def test_s3_resizing_keeps_cls_exactly():
    torch.manual_seed(0)
    position = torch.randn(1, 197, 768)
    resized = resize_positions(position, (21, 10))
    assert resized.shape == (1, 211, 768)
    assert torch.equal(resized[:, 0], position[:, 0])


def test_resizing_by_hand():
    """2x2 patches to 4x1: columns are averaged; rows lie at -1/4, 1/4, 3/4, 5/4 of the way (clamped to 0..1)."""
    position = torch.tensor([9.0, 0.0, 2.0, 10.0, 12.0]).reshape(1, 5, 1)
    assert resize_positions(position, (4, 1)).flatten().tolist() == pytest.approx([9, 1, 3.5, 8.5, 11])


def test_tokens_between_cls_and_patches_are_left_out():
    position = torch.tensor([9.0, -7.0, 0.0, 2.0, 10.0, 12.0]).reshape(1, 6, 1)
    assert resize_positions(position, (2, 2), tokens=2).flatten().tolist() == [9, 0, 2, 10, 12]


def test_a_grid_that_is_the_same_stays_as_it_is():
    position = torch.randn(1, 17, 3)
    assert torch.equal(resize_positions(position, (4, 4)), position)


def test_the_baseline_then_computes_what_the_plain_vit_computes(plain):
    config = tiny.config(stride=8, camera_scale=0.0)
    network = tiny.make(config, "dubbernet_visual", height=32, width=32).eval()
    batch = tiny.batch(clips=2, frames=1)
    batch.frames = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8)
    expected = vit().eval().forward_features(batch.frames[:, 0] / 127.5 - 1)[:, 0]
    assert not torch.allclose(network(batch).feat, expected, atol=1e-3)
    load_vit(plain, network)
    assert torch.allclose(network(batch).feat, expected, atol=1e-5)


@pytest.mark.parametrize("before", ["", "module.", "model.", "base.", "module.base."])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_fills_the_same_weights(tmp_path, plain, layout, before):
    save_file({before + name: tensor for name, tensor in in_layout(layout).items()}, tmp_path / "other")
    network, expected = tiny.network("dubbernet_student"), tiny.network("dubbernet_student")
    load_vit(tmp_path / "other", network)
    load_vit(plain, expected)
    assert same(network, expected.state_dict())


def test_a_file_without_a_classifier_and_one_of_half_numbers(tmp_path, plain):
    state = {name: tensor for name, tensor in vit().state_dict().items() if not name.startswith("head")}
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half")
    network = tiny.network("dubbernet_student")
    load_vit(tmp_path / "half", network)
    found = network.blocks[0].mlp.fc1.weight
    assert found.dtype == torch.float32 and torch.equal(found, vit().blocks[0].mlp.fc1.weight.half().float())


@pytest.mark.parametrize("switches", [{}, {"pool": "attention"}, {"local_branch": True}, {"injection": "concat_cls"}])
@pytest.mark.parametrize("name", SEEING)
def test_what_a_vit_has_is_filled_and_the_rest_keeps_its_values(plain, name, switches):
    network, before = tiny.network(name, **switches), tiny.network(name, **switches).state_dict()
    load_vit(plain, network)
    after = network.state_dict()
    loaded = vit().state_dict()
    theirs = ("embedding.cls", "embedding.position", "embedding.patches", "blocks", "head.block", "head.norm")
    filled = {part for part in after if weights.named(part, theirs)}
    assert len(filled) == len(loaded) - 2  # all but the classifier's weight and bias
    assert all(torch.equal(after[part], before[part]) for part in after.keys() - filled)
    assert torch.equal(after["embedding.patches.weight"], loaded["patch_embed.proj.weight"])
    assert torch.equal(after["blocks.1.attn.qkv.weight"], loaded["blocks.1.attn.qkv.weight"])
    assert torch.equal(after["head.block.mlp.fc2.bias"], loaded["blocks.2.mlp.fc2.bias"])
    assert torch.equal(after["embedding.position"][:, 0], loaded["pos_embed"][:, 0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"depth": 2}, "12 missing: blocks.2.norm1.weight, "),
        ({"depth": 4}, "12 unexpected: blocks.3.attn"),
        ({"embed_dim": 48}, r"different: .* float32 \[144, 48\] instead of float32 \[72, 24\]"),
        ({"patch_size": 16}, r"1 different: patch_embed.proj.weight is float32 \[24, 3, 16, 16\]"),
        ({"img_size": (32, 24)}, "pos_embed is for cls_token and 12 patches, which is no square"),
        ({"class_token": False, "global_pool": "avg"}, "3 missing: cls_token, norm.weight, norm.bias; 2 unexpected: fc_norm"),
        ({"qkv_bias": False}, "3 missing: blocks.0.attn.qkv.bias"),
        ({"pre_norm": True}, "2 unexpected: norm_pre.bias, norm_pre.weight"),
        ({"init_values": 1e-5}, "6 unexpected: blocks.0.ls1.gamma"),
        ({"reg_tokens": 4}, "1 unexpected: reg_token"),
        ({"no_embed_class": True}, "pos_embed is for cls_token and 15 patches"),
    ],
)
def test_another_vit_is_refused_as_a_whole(tmp_path, changes, sentence):
    save_file(vit(**changes).state_dict(), tmp_path / "other")
    refused(tmp_path / "other", sentence)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: {"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, "missing: .*2 unexpected: conv1.weight, fc.bias"),
        (lambda state: {}, r"does not fit the network \(42 missing: cls_token, .*expected a plain ViT of width 24 with 3 blocks"),
        (lambda state: state | {"extra": torch.zeros(1)}, "1 unexpected: extra"),
        (lambda state: state | {"module.head.bias": torch.zeros(1)}, "1 unexpected: module.head.bias"),
        (lambda state: {f"base.{name}": value for name, value in state.items()} | {"neck": torch.zeros(1)}, "1 unexpected: neck"),
        (lambda state: state | {"dist_token": torch.zeros(1, 1, 24)}, "pos_embed is for cls_token and dist_token and 15 patches"),
        (lambda state: state | {"pos_embed": state["pos_embed"][0]}, r"1 different: pos_embed is float32 \[17, 24\]"),
        (lambda state: state | {"pos_embed": state["pos_embed"][:, :1]}, "cls_token and 0 patches"),
        (lambda state: state | {"norm.bias": torch.zeros(24, dtype=torch.int8)}, r"norm.bias is int8 \[24\] instead of float32"),
    ],
)
def test_a_file_that_is_not_quite_a_vit_is_refused_as_a_whole(tmp_path, change, sentence):
    save_file(change(vit().state_dict()), tmp_path / "other")
    refused(tmp_path / "other", sentence)


@pytest.mark.parametrize(
    ("content", "sentence"), [(pickle.dumps({"cls_token": 1}), r"python -m model.convert_weights "), (b"", "no whole safetensors file")]
)
def test_no_safetensors_is_refused(tmp_path, content, sentence):
    (tmp_path / "other").write_bytes(content)
    refused(tmp_path / "other", sentence)


def refused(path, sentence):
    network, before = tiny.network("dubbernet_student"), tiny.network("dubbernet_student").state_dict()
    with pytest.raises(WeightsError, match=sentence) as error:
        load_vit(path, network)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert same(network, before)


def test_a_network_without_frames_is_refused(plain):
    with pytest.raises(WeightsError, match="AudioProbe has no ViT backbone to fill; leave `pretrained` empty"):
        load_vit(plain, tiny.network("audio_probe"))


# --- another stage ---------------------------------------------------------------------------------------------------


def written(path, name, **settings):
    """The file of a stage, and its tensors."""
    network = tiny.network(name, seed=5, **settings)
    weights.save(path, network, {"network": name, "hears": network.hears, "stage": "first"})
    return network.state_dict()


def started(path, name, **settings):
    """A network as initialised, what start_from makes of it, and its meta."""
    network = tiny.network(name, **settings)
    meta = start_from(path, network)
    return tiny.network(name, **settings).state_dict(), network.state_dict(), meta


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_same_network_starts_as_a_copy(tmp_path, name):
    theirs = written(tmp_path / "w", name)
    before, after, meta = started(tmp_path / "w", name)
    assert after.keys() == theirs.keys() and all(torch.equal(after[part], theirs[part]) for part in theirs)
    assert not all(torch.equal(after[part], before[part]) for part in theirs)
    assert meta == {"network": name, "hears": name in ("audio_probe", "dubbernet_teacher"), "stage": "first"}


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (("dubbernet_teacher", {}), ("dubbernet_student", {}), ("fusion",)),  # `student.init: teacher`
        (("dubbernet_teacher", {}), ("dubbernet_visual", {}), ()),
        (("dubbernet_visual", {}), ("dubbernet_teacher", {}), ("fusion", "audio")),
        (("dubbernet_visual", {}), ("dubbernet_student", {}), ("fusion",)),
        (("dubbernet_student", {}), ("dubbernet_student", {"local_branch": True}), ("local",)),
        (("dubbernet_student", {"local_branch": True}), ("dubbernet_student", {}), ()),
        (("dubbernet_teacher", {"pool": "attention"}), ("dubbernet_student", {}), ("fusion",)),
        (("dubbernet_student", {}), ("dubbernet_student", {"pool": "attention"}), ("head.attention",)),
    ],
)
def test_networks_share_all_but_named_parts(tmp_path, first, second, left):
    theirs = written(tmp_path / "w", first[0], **first[1])
    before, after, _ = started(tmp_path / "w", second[0], **second[1])
    kept = {part for part in after if weights.named(part, left)}
    assert all(torch.equal(after[part], before[part]) for part in kept)
    assert all(torch.equal(after[part], theirs[part]) for part in after.keys() - kept)
    assert bool(kept) == bool(left)


def test_a_teacher_may_read_another_kind_of_sound(tmp_path):
    """Frozen tokens of the network's width need no encoder of their own; the injections are the same modules."""
    config = tiny.config()
    torch.manual_seed(0)
    network = tiny.make(config, "dubbernet_teacher", kind="audio_tokens", bands=config.width)
    theirs = written(tmp_path / "w", "dubbernet_teacher")
    start_from(tmp_path / "w", network)
    assert torch.equal(network.state_dict()["fusion.0.attention.query.weight"], theirs["fusion.0.attention.query.weight"])


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (("dubbernet_teacher", {}), ("dubbernet_teacher", {"fusion_after_blocks": (0,)}), "unexpected: fusion.1"),
        (("dubbernet_teacher", {}), ("dubbernet_teacher", {"injection": "add"}), "missing: fusion.0"),
        (("dubbernet_student", {"fusion_after_blocks": (0,)}), ("dubbernet_student", {}), "missing: fusion.1"),
        (("dubbernet_teacher", {}), ("dubbernet_student", {"classes": 7}), "different: head.classifier.weight"),
        (("dubbernet_teacher", {}), ("dubbernet_student", {"cameras": 2}), "different: embedding.camera"),
        (("dubbernet_teacher", {}), ("dubbernet_student", {"camera_scale": 0.0}), "unexpected: embedding.camera"),
        (("dubbernet_teacher", {}), ("dubbernet_student", {"stride": 8}), "different: embedding.position"),
        (("dubbernet_teacher", {}), ("dubbernet_student", {"depth": 4}), "12 missing: blocks.2"),
        (("audio_probe", {}), ("dubbernet_student", {}), "missing: embedding.cls"),
        (("audio_probe", {}), ("dubbernet_teacher", {}), "missing: embedding.cls"),
        (("dubbernet_teacher", {"local_branch": True}), ("dubbernet_student", {"local_branch": True, "frames": 2}), "different: local"),
    ],
)
def test_anything_else_that_differs_is_refused_as_a_whole(tmp_path, first, second, sentence):
    written(tmp_path / "w", first[0], **first[1])
    network, before = tiny.network(second[0], **second[1]), tiny.network(second[0], **second[1]).state_dict()
    with pytest.raises(WeightsError, match=sentence) as error:
        start_from(tmp_path / "w", network)
    assert "\n" not in str(error.value) and same(network, before)


def test_a_vit_is_no_stage(plain):
    with pytest.raises(WeightsError, match="was not written by dubtrack"):
        start_from(plain, tiny.network("dubbernet_student"))


def test_every_part_of_a_network_is_a_vits_or_named(plain):
    """A part that is new in DubberNet has to be put on one of the lists."""
    network = tiny.network("dubbernet_student")
    assert isinstance(network, DubberNet)
    network.surprise = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match="2 missing: surprise"):
        load_vit(plain, network)
