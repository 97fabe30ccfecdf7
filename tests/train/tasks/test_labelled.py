"""What labels teach: terms by hand from fixed Outputs, names from the settings, and what a network must give for them."""

import pytest
import torch

from model.api import Outputs
from pipeline.base.errors import TrainError
from tests.train.tiny import Saying, batch, run_config
from train.losses.identity import identity_loss
from train.losses.triplet import triplet_loss
from train.tasks import Identify

BOTH = {"local_branch": True, "pool": "attention"}


def outputs(seed: int = 0, **more) -> Outputs:
    """Random numbers for 4 clips, 3 classes and width 5."""
    draw = torch.Generator().manual_seed(seed)
    return Outputs(torch.randn(4, 3, generator=draw), torch.randn(4, 5, generator=draw), torch.zeros(4, 5), **more)


def make(out: Outputs, **model) -> Identify:
    return Identify(Saying(out), run_config("visual", model=model).settings)


@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ({}, ()),
        ({"local_branch": True}, ("identity_local", "triplet_local")),
        ({"pool": "attention"}, ("attention",)),
        (BOTH, ("identity_local", "triplet_local", "attention")),
    ],
)
def test_names_are_known_before_the_first_batch(model, extra):
    assert make(outputs(), **model).names == ("identity", "triplet", *extra)


def test_terms_are_those_of_the_outputs():
    out, some = outputs(), batch()
    terms = make(out).terms(some)
    assert terms == {"identity": identity_loss(out.logits, some.label, 0.1), "triplet": triplet_loss(out.feat, some.label)}


def test_parts_count_equally_and_alike():
    parts, some = [outputs(seed) for seed in range(1, 5)], batch()
    out = outputs(local_logits=[part.logits for part in parts], local_feats=[part.feat for part in parts])
    terms = make(out, local_branch=True).terms(some)
    identity = [identity_loss(part.logits, some.label, 0.1).item() for part in parts]
    triplet = [triplet_loss(part.feat, some.label).item() for part in parts]
    assert terms["identity_local"].item() == pytest.approx(sum(identity) / 4)
    assert terms["triplet_local"].item() == pytest.approx(sum(triplet) / 4)
    assert terms["identity"] == identity_loss(out.logits, some.label, 0.1)  # the whole is not one of the parts


def test_attention_reads_what_was_erased():
    """Weights 1/4 and 3/4; of four clips the first lost its first frame, the second both: (1/4 + 1) / 4."""
    some = batch()
    some.erased = torch.tensor([[True, False], [True, True], [False, False], [False, False]])
    out = outputs(attention=torch.tensor([[0.25, 0.75]] * 4))
    assert make(out, pool="attention").terms(some)["attention"].item() == pytest.approx(1.25 / 4)


def test_a_batch_that_does_not_say_what_was_erased_is_refused():
    some = batch()
    make(outputs(), pool="attention").check(some)
    some.erased = None
    make(outputs()).check(some)
    with pytest.raises(TrainError, match=r"does not say which frames were erased \(Batch.erased\)"):
        make(outputs(), pool="attention").check(some)


@pytest.mark.parametrize(
    ("model", "message"),
    [({"local_branch": True}, "Saying gives no parts; switch"), ({"pool": "attention"}, "Saying gives no weights over time; set")],
)
def test_a_network_without_them_is_one_sentence(model, message):
    with pytest.raises(TrainError, match=message):
        make(outputs(), **model).terms(batch())
