"""The task 'distill': its terms by hand, what the student sees, what the teacher keeps, what trains the mask (S7, L3, L5)."""

from copy import deepcopy

import pytest
import torch

from model.api import Outputs
from model.registry import make as make_network
from pipeline.base.errors import TrainError, UserError
from tests.train.tiny import CAMERAS, CLASSES, Saying, batch, network, run_config
from train.losses.distill import DISTANCES
from train.optim import make_optimiser
from train.tasks import Distill
from train.tasks.distill import TAPS

MASKS = ["normalized", "raw", "detached_random", "off"]


def make(student: str = "dubbernet_student", teacher: str = "dubbernet_teacher", model: dict | None = None, **distill) -> Distill:
    """The task on two real networks; `distill` settings are laid over the defaults."""
    stages = {"student": {"network": student}, "teacher": {"network": teacher, "hears": teacher == "dubbernet_teacher"}}
    run = run_config("student", distill=distill, model=model or {}, stages=stages)
    torch.manual_seed(0)
    return Distill(network(run), run.settings, make_network(run.teacher, CLASSES, CAMERAS))


def fixed(fused: list[float], attn: list[float], level: float = 0.0, tokens: int = 3, width: int = 16) -> Saying:
    """A network whose tokens at each fusion point, whose logits and whose features are constants."""
    taps = [[torch.full((8, tokens, width), value) for value in values] for values in (fused, attn)]
    return Saying(
        Outputs(torch.zeros(4, CLASSES), torch.full((4, width), level), torch.zeros(4, width), taps_fused=taps[0], taps_attn=taps[1])
    )


def terms_of(student: Saying, teacher: Saying, **distill) -> dict[str, float]:
    run = run_config("student", distill={"mask": "off", **distill})
    return {name: term.item() for name, term in Distill(student, run.settings, teacher).terms(batch()).items()}


def watch(task: Distill) -> list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """A list that fills with what each mask generator is given and gives."""
    seen: list[tuple[tuple[torch.Tensor, ...], torch.Tensor]] = []
    for generator in task.masks:
        generator.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    return seen


def weight_of(task: Distill, point: int = 0) -> torch.Tensor | None:
    return task.masks[point].score[1].weight.grad


# --- which terms there are, and what they are -------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("token", ["kl", "l1", "mse", "off"])
def test_names_of_the_token_terms(token, mask):
    task = make(token=token, mask=mask)
    extra = {"tokens"} if token != "off" else set()
    extra |= {"budget"} if mask == "normalized" and token != "off" else set()
    assert set(task.names) == {"identity", "triplet", "logits", *extra}
    assert len(task.masks) == (0 if "off" in (mask, token) else 2)
    terms = task.terms(batch())
    assert set(terms) == set(task.names) and all(term.ndim == 0 and term.isfinite() for term in terms.values())
    assert bool(task.stats) == (len(task.masks) > 0)


@pytest.mark.parametrize(
    ("logits", "extra"), [("kl", {"logits"}), ("feat_mse", {"features"}), ("both", {"logits", "features"}), ("off", set())]
)
def test_names_of_the_clip_terms(logits, extra):
    task = make(logits=logits, mask="off")
    assert set(task.names) == set(task.terms(batch())) == {"identity", "triplet", "tokens", *extra}


def test_l3_released_terms():
    """The student's fused tokens against what the teacher's attention gave: gaps 1 and 2; features 0.5 apart."""
    student, teacher = fixed([3.0, 4.0], [9.0, 9.0], 0.5), fixed([9.0, 9.0], [2.0, 6.0], 0.0)
    terms = terms_of(student, teacher, token="l1", tap="released", logits="feat_mse")
    assert (terms["tokens"], terms["features"]) == pytest.approx((24.0, 4.0))


@pytest.mark.parametrize(("tap", "gaps"), [("fused", (1, 3)), ("attn", (2, 5)), ("released", (10, 10))])
def test_taps(tap, gaps):
    student, teacher = fixed([0.0, 0.0], [8.0, 5.0]), fixed([1.0, 3.0], [10.0, 10.0])
    assert terms_of(student, teacher, token="l1", tap=tap)["tokens"] == pytest.approx(16 * sum(gaps) / 2)
    assert terms_of(student, teacher, token="mse", tap=tap, temperature=1.0)["tokens"] == pytest.approx(sum(g * g for g in gaps) / 2)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("tap", TAPS)
def test_masks_weigh_the_tokens_of_every_distance(distance, tap):
    """A generator that always says 2: raw doubles the loss, normalized leaves it; both see the tokens that are compared."""
    found = {}
    for mask in ("off", "raw", "normalized"):
        task, some = make(token=distance, tap=tap, mask=mask).eval(), batch()
        seen = watch(task)
        for generator in task.masks:
            generator.score[4].weight.data.zero_()
            generator.score[4].bias.data.fill_(2.0)
        found[mask] = task.terms(some)["tokens"].item()
        with torch.no_grad():
            out, target = task.model(some.frames_only()), task.teacher(some)
        wanted = list(zip(getattr(out, TAPS[tap][0]), getattr(target, TAPS[tap][1]), strict=True))
        if mask != "off":
            assert all(torch.equal(a, b) for (pair, _), two in zip(seen, wanted, strict=True) for a, b in zip(pair, two, strict=True))
    assert found["raw"] == pytest.approx(2 * found["off"], rel=1e-5)
    assert found["normalized"] == pytest.approx(found["off"], rel=1e-5)


def test_normalising_changes_the_distance_only():
    """Tokens of another length but the same direction are equal once normalised."""
    student, teacher = fixed([3.0, 4.0], []), fixed([1.0, 1.0], [])
    assert terms_of(student, teacher, token="l1", normalize="l2")["tokens"] == pytest.approx(0, abs=1e-6)
    assert terms_of(student, teacher, token="l1")["tokens"] == pytest.approx(16 * 2.5)


# --- student and teacher ----------------------------------------------------------------------------------------------


def test_s7_a_step_leaves_the_teacher_as_it_was():
    """Weights and buffers unchanged, no gradient, evaluation mode; and it is no part of the task."""
    task = make()
    before, own = deepcopy(task.teacher.state_dict()), {id(p) for p in task.parameters()}
    student = deepcopy(task.model.state_dict())
    optimiser = make_optimiser(task, run_config("student").settings.optim)
    task.train()
    for step in range(3):
        torch.stack(list(task.terms(batch(step)).values())).sum().backward()
        optimiser.step()
    assert not task.teacher.training and task.model.training
    assert all(torch.equal(value, before[name]) for name, value in task.teacher.state_dict().items())
    assert not all(torch.equal(value, student[name]) for name, value in task.model.state_dict().items())  # negative control
    assert all(p.grad is None and not p.requires_grad and id(p) not in own for p in task.teacher.parameters())
    assert not any(name.startswith(("teacher", "_teacher")) for name in task.state_dict())


def test_student_never_gets_the_companion():
    task, seen = make(), []
    task.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    some = batch()
    task.terms(some)
    assert [b.companions for b in seen] == [{}] and some.companions
    assert seen[0].frames is some.frames  # the very frames that the teacher sees


def test_s5_student_state_has_no_mask_and_no_audio():
    assert not [name for name in make().model.state_dict() if "mask" in name or "audio" in name]


def test_teacher_hears():
    """Another voice changes what is taught, though the frames are the same."""
    task = make().eval()
    one, other = batch(0), batch(0)
    other.companions["audio"].values.mul_(-1)
    assert task.terms(one)["tokens"] != task.terms(other)["tokens"]
    assert torch.equal(task.terms(one)["identity"], task.terms(other)["identity"])


@pytest.mark.parametrize("student", ["dubbernet_student", "dubbernet_visual"])
def test_a_teacher_without_audio_teaches(student):
    """Plain distillation: its tokens are those after the same blocks. Batches need no companion."""
    task, some = make(student, teacher="dubbernet_visual"), batch(hears=False)
    task.check(some)
    terms = task.terms(some)
    assert set(terms) == {"identity", "triplet", "tokens", "budget", "logits"} and terms["tokens"] > 0


def test_parts_and_attention_of_the_student_are_trained_too():
    task = make(model={"local_branch": True, "pool": "attention"})
    terms = task.terms(batch())
    assert {"identity_local", "triplet_local", "attention", "tokens"} < set(terms) == set(task.names)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_budget_trains_the_mask_only():
    task = make()
    task.terms(batch())["budget"].backward()
    assert weight_of(task).abs().sum() > 0
    assert all(p.grad is None for p in task.model.parameters())


@pytest.mark.parametrize("token", ["kl", "l1", "mse"])
@pytest.mark.parametrize(("mask", "learns"), [("normalized", True), ("raw", True), ("detached_random", False)])
def test_s7_tokens_train_the_mask(mask, learns, token):
    task = make(mask=mask, token=token)
    task.terms(batch())["tokens"].backward()
    for point in (0, 1):
        grad = weight_of(task, point)
        assert (grad is not None and bool(grad.abs().sum() > 0)) == learns
    assert any(p.grad is not None for p in task.model.parameters())


def test_s7_masks_are_between_0_and_6():
    """As initialised, and with scores so large that both ends are reached."""
    task = make()
    seen = watch(task)
    task.terms(batch())
    for generator in task.masks:
        generator.score[4].weight.data.mul_(100)
    task.terms(batch())
    masks = [mask for _, (mask, _) in seen]
    assert [mask.shape for mask in masks] == [(8, 5)] * 4  # 4 clips of 2 frames; CLS and 2 x 2 patches
    assert all(mask.min() >= 0 and mask.max() <= 6 for mask in masks)
    assert min(mask.min() for mask in masks) == 0 and max(mask.max() for mask in masks) == 6


def test_statistics_and_remark():
    task = make()
    task.terms(batch())
    assert set(task.stats) == {f"mask_{i}_{name}" for i in (0, 1) for name in ("mean", "zero", "entropy")}
    assert task.remarks({"mask_0_zero": 0.5, "mask_1_mean": 0.99}) == []
    assert "mask_1_zero=0.960: the mask has collapsed" in task.remarks({"mask_0_zero": 0.5, "mask_1_zero": 0.96})[0]


# --- what is refused, in one sentence, before the first step ----------------------------------------------------------


@pytest.mark.parametrize(
    ("networks", "distill", "message"),
    [
        ({"teacher": "dubbernet_visual"}, {"tap": "attn"}, r"tap=attn: the teacher \(DubberNet\) fuses nothing"),
        ({"teacher": "dubbernet_visual"}, {"tap": "released"}, r"tap=released: the teacher \(DubberNet\) fuses nothing"),
        ({"student": "dubbernet_visual"}, {"tap": "attn"}, r"tap=attn: the student \(DubberNet\) fuses nothing"),
    ],
)
def test_a_tap_that_a_network_does_not_have(networks, distill, message):
    with pytest.raises(TrainError, match=message):
        make(**networks, **distill).terms(batch())


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (fixed([1.0], []), "student gives tokens at 2 fusion points, the teacher at 1"),
        (fixed([1.0, 1.0], [], tokens=4), r"tokens of the student are \[8, 3, 16\], of the teacher \[8, 4, 16\]"),
        (fixed([1.0, 1.0], [], width=1), r"tokens of the student are \[8, 3, 16\], of the teacher \[8, 3, 1\]"),
    ],
)
def test_networks_that_cannot_be_compared(teacher, message):
    with pytest.raises(TrainError, match=message):
        terms_of(fixed([1.0, 1.0], []), teacher)


def test_features_of_another_width():
    with pytest.raises(TrainError, match=r"clip features of the student are \[4, 16\], of the teacher \[4, 8\]"):
        terms_of(fixed([], []), fixed([], [], width=8), token="off", logits="feat_mse")


def test_a_batch_that_the_teacher_cannot_read():
    with pytest.raises(UserError, match="hears 'audio'"):
        make().check(batch(hears=False))


def test_no_teacher_a_hearing_student_no_fusion_point():
    run = run_config("student")
    with pytest.raises(TrainError, match="needs a teacher"):
        Distill(network(run), run.settings)
    with pytest.raises(TrainError, match="a student sees frames only, but DubberNet hears 'audio'"):
        make(student="dubbernet_teacher")
    with pytest.raises(TrainError, match=r"name at least one, or set distill\.token to off"):
        make(model={"fusion_after_blocks": []})
    make(model={"fusion_after_blocks": []}, token="off").terms(batch())
