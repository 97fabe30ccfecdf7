"""The task 'distill': what the student sees, what the teacher keeps, what trains the mask (facts S7, L5)."""

from copy import deepcopy

import pytest
import torch

from model.registry import MODELS
from pipeline.base.errors import TrainError, UserError
from tests.train.tiny import FACTS, batch, run_config
from train.optim import make_optimiser
from train.tasks import Distill


def make(mask: str = "normalized", student: str = "dubbernet_student", **method) -> Distill:
    run = run_config("student", distill={"mask": mask}, **method)
    torch.manual_seed(0)
    networks = [MODELS[name](run.settings.model, **FACTS) for name in (student, "dubbernet_teacher")]
    return Distill(networks[0], run.settings, networks[1])


def weight_of(task: Distill, point: int = 0) -> torch.Tensor | None:
    return task.masks[point].score[1].weight.grad


@pytest.mark.parametrize(("mask", "extra"), [("normalized", ("budget",)), ("raw", ()), ("off", ()), ("detached_random", ())])
def test_names(mask, extra):
    task = make(mask)
    terms = task.terms(batch())
    assert set(terms) == set(task.names) == {"identity", "triplet", "tokens", "logits", *extra}
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())


def test_teacher_never_changes_and_is_no_part_of_the_task():
    task = make()
    before, own = deepcopy(task.teacher.state_dict()), {id(p) for p in task.parameters()}
    optimiser = make_optimiser(task, run_config("student").settings.optim)
    task.train()
    for step in range(3):
        torch.stack(list(task.terms(batch(step)).values())).sum().backward()
        optimiser.step()
    assert not task.teacher.training and task.model.training
    assert all(torch.equal(value, before[name]) for name, value in task.teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad and id(p) not in own for p in task.teacher.parameters())
    assert not any(name.startswith(("teacher", "_teacher")) for name in task.state_dict())


def test_student_never_gets_the_companion():
    task, seen = make(), []
    task.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    some = batch()
    task.terms(some)
    assert [b.companions for b in seen] == [{}] and some.companions
    assert seen[0].frames is some.frames  # the very frames that the teacher sees


def test_teacher_hears():
    """Another voice changes what is taught, though the frames are the same."""
    task = make().eval()
    one, other = batch(0), batch(0)
    other.companions["audio"].values.mul_(-1)
    assert task.terms(one)["tokens"] != task.terms(other)["tokens"]
    assert torch.equal(task.terms(one)["identity"], task.terms(other)["identity"])


def test_budget_trains_the_mask_only():
    task = make()
    task.terms(batch())["budget"].backward()
    assert weight_of(task).abs().sum() > 0
    assert all(p.grad is None for p in task.model.parameters())


@pytest.mark.parametrize(("mask", "learns"), [("normalized", True), ("raw", True), ("detached_random", False)])
def test_tokens_train_the_mask(mask, learns):
    task = make(mask)
    task.terms(batch())["tokens"].backward()
    grad = weight_of(task)
    assert (grad is not None and grad.abs().sum() > 0) == learns
    assert any(p.grad is not None for p in task.model.parameters())


def test_off_has_no_generators():
    task = make("off")
    assert len(task.masks) == 0 and task.stats == {}


def test_statistics_and_remark():
    task = make()
    task.terms(batch())
    assert set(task.stats) == {f"mask_{i}_{name}" for i in (0, 1) for name in ("mean", "zero", "entropy")}
    assert task.remarks({"mask_0_zero": 0.5, "mask_1_mean": 0.99}) == []
    assert "mask_1_zero=0.960: the mask has collapsed" in task.remarks({"mask_0_zero": 0.5, "mask_1_zero": 0.96})[0]


def test_a_student_without_fusion_points_is_refused():
    with pytest.raises(TrainError, match="student gives tokens at 0 fusion points, the teacher at 2"):
        make(student="dubbernet_visual").terms(batch())


def test_a_batch_that_the_teacher_cannot_read_is_refused():
    with pytest.raises(UserError, match="hears 'audio'"):
        make().check(batch(hears=False))


def test_no_teacher_and_no_fusion_points_are_refused():
    settings = run_config("student").settings
    model = MODELS["dubbernet_student"](settings.model, **FACTS)
    with pytest.raises(TrainError, match="needs a teacher"):
        Distill(model, settings)
    with pytest.raises(TrainError, match="name at least one"):
        make(model={"fusion_after_blocks": []})
