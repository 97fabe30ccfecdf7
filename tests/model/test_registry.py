import pytest
import torch

from model.api import Network
from model.registry import MODELS, mask_generators
from pipeline.base.config import DistillConfig
from tests.model import tiny


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_goes_forward_and_backward(name):
    network = tiny.network(name).train()
    assert isinstance(network, Network)
    out = network(tiny.batch() if network.hears else tiny.batch().frames_only())
    (out.logits.sum() + out.feat.sum()).backward()
    assert out.logits.shape == (2, tiny.CLASSES)


@pytest.mark.parametrize(("name", "kind"), [("dubbernet_teacher", "audio"), ("dubbernet_student", ""), ("dubbernet_visual", "")])
def test_what_each_network_hears(name, kind):
    network = tiny.network(name)
    assert (network.kind, network.hears, network.bands) == (kind, bool(kind), tiny.BANDS if kind else 0)


@pytest.mark.parametrize("points", [(), (1,), (0, 1)])
def test_one_mask_generator_for_each_fusion_point(points):
    torch.manual_seed(0)
    masks = mask_generators(tiny.config(fusion_after_blocks=points), DistillConfig(mask_dropout=0.0))
    taps = tiny.network("dubbernet_student", fusion_after_blocks=points)(tiny.batch()).taps_fused
    assert [mask(tap, tap).shape for mask, tap in zip(masks, taps, strict=True)] == [(6, 22)] * len(points)
    assert all(mask.score[5].p == 0.0 for mask in masks)
