"""The task 'identify' on a real, tiny network."""

import torch

from model.registry import MODELS
from tests.train.tiny import FACTS, batch, run_config
from train.losses.identity import identity_loss
from train.losses.triplet import triplet_loss
from train.tasks import Identify


def test_terms_are_those_of_the_outputs():
    settings = run_config("visual").settings
    model = MODELS["dubbernet_visual"](settings.model, **FACTS).eval()
    task, some = Identify(model, settings), batch()
    terms, out = task.terms(some), model(some)
    assert tuple(terms) == task.names == ("identity", "triplet")
    assert terms["identity"] == identity_loss(out.logits, some.label, 0.1)
    assert terms["triplet"] == triplet_loss(out.feat, some.label)  # before the batch norm


def test_every_trained_parameter_gets_a_gradient():
    settings = run_config("teacher").settings
    task = Identify(MODELS["dubbernet_teacher"](settings.model, **FACTS), settings)
    torch.stack(list(task.terms(batch()).values())).sum().backward()
    assert [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None] == []
