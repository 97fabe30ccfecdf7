"""The control that only hears (specs/dubbernet.md section 7.4)."""

from dataclasses import replace

import pytest
import torch

from pipeline.base.errors import UserError
from tests.model import tiny


@pytest.mark.parametrize("kind", tiny.ITEM)
def test_it_hears_and_does_not_see(kind):
    probe, batch = tiny.network("audio_probe", kind=kind).eval(), tiny.batch(kind=kind)
    heard = probe.embed(batch)
    assert torch.equal(probe.embed(replace(batch, frames=255 - batch.frames, camera=batch.camera + 7)), heard)
    item = batch.companions[kind]
    item.values[:, ::2] += 3
    assert not torch.allclose(probe.embed(batch), heard, atol=1e-3)


def test_feature_by_hand():
    """Two tokens of width 2 per item; a clip of three frames that hear item 0, item 1 and nothing."""
    probe = tiny.make(tiny.config(width=2, heads=1), "audio_probe", kind="audio_tokens", bands=2).eval()
    batch = tiny.batch(clips=1, frames=3, kind="audio_tokens")
    batch.companions["audio_tokens"] = replace(
        batch.companions["audio_tokens"],
        values=torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[10.0, 0.0], [30.0, 2.0]]]),  # means over tokens: (2, 3), (20, 1)
        lengths=torch.tensor([2, 2]),
        align=torch.tensor([[0, 1, -1]]),
    )
    out = probe(batch)
    # mean over frames (22/3, 4/3): the LayerNorm of two numbers is 1 and -1
    assert out.feat.tolist() == [pytest.approx([1.0, -1.0], abs=1e-4)]
    assert torch.allclose(out.feat_bn, out.feat / (1 + 1e-5) ** 0.5) and torch.equal(probe.embed(batch), out.feat_bn)
    assert torch.allclose(out.logits, out.feat_bn @ probe.classifier.weight.T)


def test_it_has_the_teachers_audio_tokens_and_no_taps():
    probe, teacher = tiny.network("audio_probe"), tiny.network("dubbernet_teacher")
    parts = {name: value.shape for name, value in teacher.state_dict().items() if name.startswith("audio.")}
    assert {name: value.shape for name, value in probe.state_dict().items() if name.startswith("audio.")} == parts
    out = probe(tiny.batch())
    assert out.taps_attn == out.taps_fused == out.local_logits == [] and out.attention is None
    assert probe.hears and probe.cameras == 0


def test_the_order_of_tokens_and_of_frames_does_not_matter():
    probe, batch = tiny.network("audio_probe", kind="audio_tokens").eval(), tiny.batch(kind="audio_tokens")
    item = batch.companions["audio_tokens"]
    other = replace(item, values=item.values.flip(1), align=item.align.flip(1))
    assert torch.allclose(probe.embed(replace(batch, companions={"audio_tokens": other})), probe.embed(batch), atol=1e-5)


def test_a_voice_is_learned():
    """Two identities with a voice each: a few steps tell them apart."""
    probe, batch = tiny.network("audio_probe", classes=2).train(), tiny.batch(clips=4, frames=2)
    batch.companions["audio"].align = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
    label, optimiser = torch.tensor([0, 0, 1, 1]), torch.optim.Adam(probe.parameters(), lr=0.01)
    for _ in range(20):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(probe(batch).logits, label)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1


def test_frames_of_another_size_are_refused_though_it_does_not_see():
    probe, batch = tiny.network("audio_probe"), tiny.batch()
    with pytest.raises(UserError, match=r"frames of 32x15 pixels"):
        probe(replace(batch, frames=batch.frames[..., 1:]))


def test_silence_of_all_frames_is_a_feature_of_zeros():
    probe = tiny.network("audio_probe").eval()
    assert not probe(tiny.batch(items=0)).feat.any()
