import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from model.pretrained import load_vit, resize_positions
from model.registry import MODELS
from pipeline.base.errors import WeightsError
from tests.model import tiny


def vit(**changes):
    torch.manual_seed(7)
    return VisionTransformer(**{"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 10} | changes)


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


def test_a_grid_that_is_the_same_stays_as_it_is():
    position = torch.randn(1, 17, 3)
    assert torch.equal(resize_positions(position, (4, 4)), position)


def test_the_baseline_then_computes_what_the_plain_vit_computes(plain):
    config = tiny.config(stride=8, camera_scale=0.0)
    network = MODELS["dubbernet_visual"](config, classes=5, cameras=1, bands=0, height=32, width=32).eval()
    batch = tiny.batch(clips=2, frames=1)
    batch.frames = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8)
    expected = vit().eval().forward_features(batch.frames[:, 0] / 127.5 - 1)[:, 0]
    assert not torch.allclose(network(batch).feat, expected, atol=1e-3)
    load_vit(plain, network)
    assert torch.allclose(network(batch).feat, expected, atol=1e-5)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_fusion_camera_and_neck_keep_their_own_values(plain, name):
    network, before = tiny.network(name), tiny.network(name).state_dict()
    load_vit(plain, network)
    kept = {part.split(".")[0] for part, value in network.state_dict().items() if torch.equal(value, before[part]) and "norm" not in part}
    changed = {part for part, value in network.state_dict().items() if not torch.equal(value, before[part])}
    assert {part.split(".")[0] for part in changed} == {"embedding", "blocks", "head"}
    assert not [part for part in changed if part.startswith(("fusion", "audio", "embedding.camera", "head.neck", "head.classifier"))]
    assert {"fusion", "head"} & kept


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"depth": 2}, "12 missing: head.block.norm1"),
        ({"depth": 4}, "12 unexpected: blocks.3.attn"),
        ({"embed_dim": 48}, r"different: .* float32 \[144, 48\] instead of float32 \[72, 24\]"),
        ({"patch_size": 16}, r"1 different: embedding.patches.weight is float32 \[24, 3, 16, 16\]"),
        ({"class_token": False, "global_pool": "avg"}, "other: pos_embed is for CLS and 15 patches"),
    ],
)
def test_another_vit_is_refused_as_a_whole(tmp_path, changes, sentence):
    save_file(vit(**changes).state_dict(), tmp_path / "other")
    network, before = tiny.network("dubbernet_student"), tiny.network("dubbernet_student").state_dict()
    with pytest.raises(WeightsError, match=sentence):
        load_vit(tmp_path / "other", network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
