"""What makes a step cheap and must not change it: recomputing, compiling, fused attention, never waiting for the device."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from model.api import Network
from model.blocks.part import compile_parts, parts_of, recompute_parts
from model.registry import MODELS
from pipeline.base.batch import Batch, Companion
from pipeline.base.config import MethodConfig, ModelConfig, StageConfig
from tests.model import tiny
from train.losses.distill import divergence
from train.losses.triplet import pairwise_distance, triplet_loss
from train.tasks import Distill, Identify, labelled

EVERYTHING = {"drop_path": 0.5, "audio_dropout": 0.5, "local_branch": True, "pool": "attention"}
NAMES = ("dubbernet_teacher", "dubbernet_student", "dubbernet_visual")


def gradients(network, bf16=False):
    """Loss and gradients of a step that uses every output, from equal draws."""
    network.zero_grad()
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = network(tiny.batch(clips=4))
    used = [out.logits, out.feat, *out.local_logits, *out.taps_fused]
    loss = torch.stack([part.float().square().mean() for part in used]).sum()
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


# --- recompute -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_recomputing_changes_no_bit(name, bf16):
    network, runs = tiny.network(name, **EVERYTHING).train(), []
    network.blocks[1].mlp.register_forward_hook(lambda module, given, out: runs.append(out))
    kept = gradients(network, bf16)
    assert len(runs) == 1
    recompute_parts(network)
    again = gradients(network, bf16)
    assert len(runs) == 3  # control: it did compute it again
    assert kept.keys() == again.keys() and all(torch.equal(kept[key], again[key]) for key in kept)


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_keeps_less(name):
    """Bytes that the graph holds between forward and backward."""
    held = []
    for recompute in (False, True):
        network, kept = tiny.network(name, depth=6, fusion_after_blocks=(1, 3), **EVERYTHING).train(), {}
        recompute_parts(network, recompute)

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(tiny.batch(clips=4))
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        held.append(sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights))
    assert held[1] < held[0] / 2


def test_recomputing_does_not_touch_evaluation():
    network, batch = tiny.network("dubbernet_student").eval(), tiny.batch()
    before = network.embed(batch)
    recompute_parts(network)
    assert torch.equal(network.embed(batch), before)


# --- compile ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def dynamo():
    """torch._dynamo as new, and its counters."""
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def close(found, expected, bf16=False):
    scale = 0.02 if bf16 else 1e-4
    assert found.keys() == expected.keys()
    for key, t in expected.items():
        assert float((found[key] - t).abs().max()) <= scale * max(float(t.abs().max()), 1e-3), key


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("name", "kinds"), [("dubbernet_teacher", 4), ("dubbernet_student", 4), ("dubbernet_visual", 3)])
def test_blocks_share_one_program(dynamo, name, kinds, bf16):
    """Kinds: what makes tokens, block, block of the head, fusion."""
    deep = {"depth": 8, "fusion_after_blocks": (1, 3, 5), **EVERYTHING}
    plain, compiled = (tiny.network(name, **deep).train() for _ in range(2))
    compile_parts(compiled, "aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    close(gradients(compiled, bf16), gradients(plain, bf16), bf16)
    first = dynamo["stats"]["unique_graphs"]
    assert first == kinds
    recompute_parts(compiled)
    close(gradients(compiled, bf16), gradients(plain, bf16), bf16)
    assert dynamo["stats"]["unique_graphs"] == first
    assert not dynamo["graph_break"]


def test_a_rate_of_its_own_would_be_a_program_of_its_own(dynamo):
    """Control: timm's blocks hold their rate as a number, which the program is made for."""
    from timm.models.vision_transformer import Block

    blocks = [Block(24, 3, drop_path=rate).train() for rate in (0.1, 0.2, 0.3)]
    for block in blocks:
        block.compile(backend="aot_eager")
        block(torch.randn(2, 7, 24))
    assert dynamo["stats"]["unique_graphs"] == 3


def test_evaluation_adds_as_many_programs_again_and_no_more(dynamo):
    network, plain = (tiny.network("dubbernet_teacher", drop_path=0.5) for _ in range(2))
    compile_parts(network, "aot_eager")
    close(gradients(network), gradients(plain))
    first = dynamo["stats"]["unique_graphs"]
    seen = []
    for clips, frames in ((2, 3), (3, 3), (4, 2), (1, 5), (5, 3), (2, 3)):
        batch = tiny.batch(clips=clips, frames=frames)
        assert torch.allclose(network.eval().embed(batch), plain.eval().embed(batch), atol=1e-5)
        seen.append(dynamo["stats"]["unique_graphs"])
    assert seen[-3:] == seen[-3:-2] * 3 and seen[-1] <= 3 * first, seen  # whatever the size
    close(gradients(network.train()), gradients(plain.train()))
    assert dynamo["stats"]["unique_graphs"] == seen[-1]


def test_a_student_and_its_teacher_are_compiled_together(dynamo):
    task, batch = distill(), replace(tiny.batch(clips=4), erased=torch.zeros(4, 3, dtype=torch.bool))
    torch.manual_seed(0)
    expected = task.terms(batch)
    compile_parts(task, "aot_eager")
    compile_parts(task.teacher, "aot_eager")
    torch.manual_seed(0)
    found = task.terms(batch)
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4) for name in expected)
    programs = {type(part).__name__: part.program for part in (*parts_of(task), *parts_of(task.teacher)) if part.compiles}
    assert programs.keys() == {"FrameTokens", "Block", "Perception", "AttentionInjection", "Score"} and all(programs.values())


def test_a_copy_of_a_compiled_network_computes_with_its_own_weights(dynamo):
    """As an average of weights does (EMA)."""
    network, batch = tiny.network("dubbernet_student").eval(), tiny.batch()
    compile_parts(network, "aot_eager")
    before = network.embed(batch)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        copied.blocks[0].attn.qkv.weight.zero_()
    assert torch.equal(network.embed(batch), before) and not torch.equal(copied.embed(batch), before)


@pytest.mark.slow
def test_inductor_computes_the_same(dynamo):
    if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
        pytest.skip("torch.compile on a CPU needs a C++ compiler (g++ or clang++), which this machine lacks")
    plain, compiled = (tiny.network("dubbernet_student", **EVERYTHING).train() for _ in range(2))
    compile_parts(compiled)
    for recompute in (False, True):
        recompute_parts(compiled, recompute)
        close(gradients(compiled), gradients(plain))


# --- attention, precision, waiting -----------------------------------------------------------------------------------


def distill():
    """A tiny student with all switches, and its teacher."""
    settings = MethodConfig(
        stages={"teacher": StageConfig(network="dubbernet_teacher", hears=True)},
        model=tiny.config(**EVERYTHING),
        distill=replace(MethodConfig(stages={}).distill, logits="both"),
    )
    task = Distill(tiny.network("dubbernet_student", **EVERYTHING), settings, tiny.network("dubbernet_teacher", **EVERYTHING))
    return task.train()


@pytest.mark.parametrize(("name", "expected"), [("dubbernet_teacher", 9), ("dubbernet_student", 9), ("dubbernet_visual", 7)])
@pytest.mark.parametrize("training", [True, False])
def test_all_attention_goes_through_torchs_own(monkeypatch, name, expected, training):
    """Three blocks, two fusions, four parts: torch takes a fused kernel where it has one."""
    called = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *given: called.append(given[0].shape) or fused(*given))
    tiny.network(name, **EVERYTHING).train(training)(tiny.batch())
    assert len(called) == expected


def on_a_fake(device, task_of):
    """A step at full size on a device that nothing can be read back from; on the CPU with its backward pass."""
    full, kind = ModelConfig(pool="attention", local_branch=True, audio_dropout=0.5), "audio" if device == "cpu" else "audio_tokens"
    settings = MethodConfig(stages={}, model=full)
    facts = {"classes": 625, "cameras": 6, "height": 256, "width": 128, "frames": 6}
    with FakeTensorMode(), torch.device(device):
        teacher = MODELS["dubbernet_teacher"](full, kind=kind, bands=80, **facts)
        student = MODELS["dubbernet_student"](full, kind="", bands=0, **facts)
        task = (Identify(teacher, settings) if task_of == "teacher" else Distill(student, settings, teacher)).train()
        index, erased = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.bool)
        sound = Companion(torch.empty(3, 100, 80), torch.ones(3, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.int64))
        frames = torch.zeros(2, 6, 3, 256, 128, dtype=torch.uint8)
        terms = task.terms(Batch(frames, index, index, ["a", "b"], {kind: sound}, erased))
        if device == "cpu":  # torch cannot go back through fake tensors of a GPU that is not there
            torch.stack(list(terms.values())).sum().backward()
    return terms


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("task_of", ["teacher", "student"])
def test_a_step_never_waits_for_the_device(monkeypatch, task_of, device):
    """Both networks, every term, every gradient: reading back a value of a fake tensor raises."""
    if device == "cpu":
        monkeypatch.setattr(Network, "check", lambda self, batch: None)  # it looks at values of batches on the host
    terms = on_a_fake(device, task_of)
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_a_step_that_waited_would_be_found(monkeypatch):
    real = labelled.triplet_loss
    monkeypatch.setattr(labelled, "triplet_loss", lambda feat, label: real(feat, label) * (2 if label.sum() > 3 else 1))
    with pytest.raises(DataDependentOutputException):
        on_a_fake("cuda", "teacher")


@pytest.mark.parametrize("task_of", ["teacher", "student"])
def test_under_autocast_all_large_products_are_bf16(monkeypatch, task_of):
    """And what the losses compare is float32: distances, softmaxes, all terms."""
    small, attended = [], []
    task = (
        distill()
        if task_of == "student"
        else Identify(tiny.network(**EVERYTHING), MethodConfig(stages={}, model=tiny.config(**EVERYTHING)))
    )
    for name, module in task.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, given, out, name=name: small.append(name) if out.dtype == torch.float32 else None)
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *given: attended.append(given[0].dtype) or fused(*given))
    seen = []
    monkeypatch.setattr(labelled, "triplet_loss", lambda feat, label: seen.append(feat.dtype) or triplet_loss(feat, label))
    with torch.autocast("cpu", torch.bfloat16):
        terms = task.train().terms(replace(tiny.batch(clips=4), erased=torch.zeros(4, 3, dtype=torch.bool)))
    assert {name.split(".")[-2 if "classifiers" in name else -1] for name in small} <= {"classifier", "classifiers"}
    assert set(attended) == {torch.bfloat16}
    assert {term.dtype for term in terms.values()} == set(seen) == {torch.float32}


def test_the_losses_are_float32_whatever_they_get():
    torch.manual_seed(0)
    feat, label = torch.randn(4, 8).bfloat16(), torch.tensor([0, 0, 1, 1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pairwise_distance(feat), pairwise_distance(feat.float()))
        assert torch.equal(triplet_loss(feat, label), triplet_loss(feat.float(), label))
        assert torch.equal(divergence(feat, feat.flip(1), 4.0), divergence(feat.float(), feat.flip(1).float(), 4.0))
