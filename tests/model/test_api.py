from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

from model.api import UNITS
from pipeline.base.config import CompanionConfig
from pipeline.base.errors import UserError
from tests.model import tiny


@pytest.mark.parametrize("name", ["dubbernet_teacher", "dubbernet_student"])
def test_embed_is_the_feature_after_the_neck_without_gradient(name):
    network, batch = tiny.network(name).eval(), tiny.batch()
    feature = network.embed(batch)
    assert torch.equal(feature, network(batch).feat_bn)
    assert not feature.requires_grad and feature.shape == (2, 24)


def test_embed_refuses_training_mode():
    with pytest.raises(AssertionError, match="eval"):
        tiny.network().train().embed(tiny.batch())


def _other_camera(batch):
    return replace(batch, camera=torch.tensor([0, 3]))


def _negative_camera(batch):
    return replace(batch, camera=torch.tensor([-1, 0]))


def _other_size(batch):
    return replace(batch, frames=batch.frames[..., :-1, :])


def _no_audio(batch):
    return batch.frames_only()


def _other_bands(batch):
    return _audio(batch, values=batch.companions["audio"].values[..., 1:])


def _other_item(batch):
    return _audio(batch, align=batch.companions["audio"].align + 1)


def _no_frames(batch):
    return _audio(batch, lengths=torch.tensor([20, 0]))


def _audio(batch, **changes):
    return replace(batch, companions={"audio": replace(batch.companions["audio"], **changes)})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_other_camera, r"tracklet t1 has camera index 3, but the network learned cameras 0\.\.2; .*camera_scale=0"),
        (_negative_camera, r"tracklet t0 has camera index -1"),
        (_other_size, r"frames of 31x16 pixels .* built for 32x16"),
        (_no_audio, r"hears 'audio', but the batch has no such companion \(found: none\)"),
        (_other_bands, r"has 7 bands, the network was built for 8"),
        (_other_item, r"point to items 1\.\.2, but it holds 2"),
        (_no_frames, r"have 0\.\.20 valid frames, expected 1\.\.20"),
    ],
)
def test_a_batch_that_does_not_fit_is_one_sentence(spoil, sentence):
    network, good = tiny.network(), tiny.batch()
    network.check(good)
    with pytest.raises(UserError, match=sentence):
        network.check(spoil(good))
    with pytest.raises(UserError, match=sentence):
        network(spoil(good))


def _tokens(batch, **changes):
    return replace(batch, companions={"audio_tokens": replace(batch.companions["audio_tokens"], **changes)})


@pytest.mark.parametrize("name", ["dubbernet_teacher", "audio_probe"])
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda batch: tiny.batch(), r"hears 'audio_tokens', but the batch has no such companion \(found: 'audio'\)"),
        (lambda batch: _tokens(batch, values=torch.zeros(2, 6, 9)), r"has 9 values per token, the network was built for 10"),
        (
            lambda batch: _tokens(batch, values=torch.zeros(2, 1, 10), lengths=torch.tensor([1, 1])),
            r"have 1 token, expected at least 2, because attention over one key gives the same vector for every patch",
        ),
        (lambda batch: _tokens(batch, lengths=torch.tensor([6, 5])), r"have 5\.\.6 valid tokens, expected exactly 6"),
        (lambda batch: _tokens(batch, align=torch.full((2, 3), 2)), r"point to items 2\.\.2, but it holds 2"),
        (lambda batch: replace(batch, frames=batch.frames[..., 1:]), r"frames of 32x15 pixels .* built for 32x16"),
    ],
)
def test_tokens_that_do_not_fit_are_one_sentence(name, spoil, sentence):
    network, good = tiny.network(name, kind="audio_tokens"), tiny.batch(kind="audio_tokens")
    network.check(good)
    with pytest.raises(UserError, match=sentence) as error:
        network(spoil(good))
    assert "\n" not in str(error.value)


def test_every_kind_of_companion_has_words_for_its_messages():
    assert set(get_args(get_type_hints(CompanionConfig)["kind"])) == set(UNITS)


def test_a_batch_in_which_nobody_hears_has_no_item_to_check():
    for kind in tiny.ITEM:
        tiny.network(kind=kind).check(tiny.batch(items=0, kind=kind))


def test_without_camera_embedding_any_camera_will_do():
    network = tiny.network("dubbernet_student", camera_scale=0.0).eval()
    known = network.embed(tiny.batch())
    assert torch.equal(network.embed(_other_camera(tiny.batch())), known)


def test_a_network_that_does_not_hear_never_looks_at_the_companion():
    network = tiny.network("dubbernet_student").eval()
    seen = network.embed(tiny.batch().frames_only())
    assert torch.equal(network.embed(_other_item(tiny.batch())), seen)
