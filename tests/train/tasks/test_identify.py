"""The task 'identify' on real, tiny networks."""

import pytest
import torch

from tests.train.tiny import batch, network, run_config
from train.losses.identity import identity_loss
from train.losses.triplet import triplet_loss
from train.tasks import Identify

SIDE = {"local_branch": True, "pool": "attention"}


def test_terms_are_those_of_the_outputs():
    run, some = run_config("visual"), batch()
    task = Identify(network(run).eval(), run.settings)
    terms, out = task.terms(some), task.model(some)
    assert tuple(terms) == task.names == ("identity", "triplet")
    assert terms["identity"] == identity_loss(out.logits, some.label, 0.1)
    assert terms["triplet"] == triplet_loss(out.feat, some.label)  # before the batch norm


@pytest.mark.parametrize("model", [{}, {"local_branch": True}, {"pool": "attention"}, SIDE])
@pytest.mark.parametrize("stage", ["teacher", "untrained", "visual"])
def test_every_trained_parameter_gets_a_gradient(stage, model):
    run = run_config(stage, model=model)
    task = Identify(network(run), run.settings)
    terms = task.terms(batch())
    assert set(terms) == set(task.names)
    torch.stack(list(terms.values())).sum().backward()
    assert [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None] == []


def test_attention_moves_weight_away_from_erased_frames():
    """The term alone, minimised on the same batch."""
    run = run_config("visual", model={"pool": "attention", "drop_path": 0.0})
    task, some = Identify(network(run), run.settings), batch()
    some.erased = torch.tensor([[True, False]] * 4)
    optimiser = torch.optim.SGD(task.parameters(), lr=0.1)
    values = []
    for _ in range(20):
        term = task.terms(some)["attention"]
        optimiser.zero_grad()
        term.backward()
        optimiser.step()
        values.append(term.item())
    assert values[-1] < values[0] - 0.01
