"""Networks by name, in all their switches; and the parameter counts of specs/dubbernet.md section 11.1."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from model.api import Network
from model.audio_probe import AudioProbe
from model.blocks.mask import MaskGenerator
from model.dubbernet import DubberNet
from model.registry import MODELS, make, mask_generators
from pipeline.base.config import ClipConfig, DistillConfig, MethodConfig, ModelConfig, RunConfig, StageConfig
from pipeline.base.errors import ConfigError
from tests.model import tiny

FULL = ModelConfig()
SPLITS = {"MARS": (625, 6), "iLIDS-VID": (150, 2), "PRID-2011": (89, 2)}
"""Training identities K and cameras C."""


def full_size(name, classes=625, cameras=6, **changes):
    """ViT-B/16 on 256x128, hearing frozen tokens of its own width, without memory."""
    facts = {"kind": "audio_tokens", "classes": classes, "cameras": cameras, "bands": 768, "height": 256, "width": 128, "frames": 6}
    with torch.device("meta"):
        return MODELS[name](replace(FULL, **changes), **facts)


def count(module, skip=()):
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith(skip))


# --- section 11.1: parameters ----------------------------------------------------------------------------------------

LINEAR, NORM, BLOCK = 768 * 768, 2 * 768, 12 * 768 * 768 + 13 * 768
UNUSED_TRUNK = {"block 12, of which the head has a copy": BLOCK, "norm of the trunk": NORM, "linear layer to 1000 classes": 769 * 1000}
"""Parameters that the released networks have and never use (section 9, B12)."""


def test_p_parts():
    teacher, student = full_size("dubbernet_teacher"), full_size("dubbernet_student")
    assert count(teacher.embedding.patches) == 590_592
    assert teacher.embedding.position.numel() == 162_048
    assert teacher.embedding.cls.numel() == 768
    assert teacher.embedding.camera.weight.shape == (6, 768)
    assert [count(block) for block in teacher.blocks] == [7_087_872] * 11 == [BLOCK] * 11
    block = teacher.blocks[0]
    assert (count(block.attn), count(block.mlp), count(block.norm1) + count(block.norm2)) == (2_362_368, 4_722_432, 3_072)
    assert count(teacher.head.norm) == 1_536
    assert count(teacher.head.block) + count(teacher.head.norm) == 7_089_408
    assert count(teacher.head.neck) == 1_536 and sum(p.numel() for p in teacher.head.neck.parameters() if p.requires_grad) == 768
    assert count(teacher.head.classifier) == 768 * 625
    assert count(teacher.audio) == 0  # tokens of the network's width are used as they are
    for injection in teacher.fusion.values():
        assert (count(injection), count(injection.attention), count(injection.adapter)) == (2_660_544, 2_360_064, 295_872)
    assert [count(part) for part in student.fusion.values()] == [2_363_904] * 2
    with torch.device("meta"):
        assert [count(part) for part in mask_generators(FULL, DistillConfig())] == [1_479_937] * 2


def test_p_parts_as_in_the_reference():
    """Ours and the LayerNorms that the released modules create and never use."""
    teacher, student = full_size("dubbernet_teacher"), full_size("dubbernet_student")
    assert count(teacher.fusion["4"]) + NORM == 2_662_080
    assert count(student.fusion["4"]) + 2 * NORM == 2_366_976
    with torch.device("meta"):
        assert count(MaskGenerator(768, 0.2)) + NORM == 1_481_473


@pytest.mark.parametrize(("split", "reference"), [("MARS", 99_478_120), ("iLIDS-VID", 99_110_248), ("PRID-2011", 99_063_400)])
def test_p_teacher(split, reference):
    classes, cameras = SPLITS[split]
    found = count(full_size("dubbernet_teacher", classes, cameras))
    assert found == 91_132_032 + 768 * (classes + cameras)
    assert split != "MARS" or found == 91_616_640
    unused = sum(UNUSED_TRUNK.values()) + 2 * NORM  # a spare LayerNorm in each injection
    assert unused == 7_861_480
    assert found + unused == 98_993_512 + 768 * (classes + cameras) == reference


@pytest.mark.parametrize(("split", "reference"), [("MARS", 101_850_858), ("iLIDS-VID", 101_482_986), ("PRID-2011", 101_436_138)])
def test_p_student(split, reference):
    classes, cameras = SPLITS[split]
    student = full_size("dubbernet_student", classes, cameras)
    assert count(student) == 90_538_752 + 768 * (classes + cameras)
    if split == "MARS":
        assert count(student) == 91_023_360
        assert count(student, skip=("head.classifier",)) == 90_543_360  # at inference
    with torch.device("meta"):
        masks = count(mask_generators(FULL, DistillConfig()))
    unused = sum(UNUSED_TRUNK.values()) + 2 * 2 * NORM + 2 * NORM  # two spare ones in each perception, one in each mask generator
    assert count(student) + masks + unused == 101_366_250 + 768 * (classes + cameras) == reference


def test_p_only_the_bias_of_the_neck_does_not_learn():
    """The released teacher has 7,861,480 parameters that never get a gradient; ours has none but the BNNeck's fixed bias."""
    for name in ("dubbernet_teacher", "dubbernet_student"):
        assert [part for part, p in full_size(name).named_parameters() if not p.requires_grad] == ["head.neck.bias"]


def test_p_visual_baseline_is_the_student_without_perception():
    assert count(full_size("dubbernet_student")) - count(full_size("dubbernet_visual")) == 2 * 2_363_904


def test_p_switches_add_what_they_need_and_nothing_when_off():
    teacher = count(full_size("dubbernet_teacher"))
    assert count(full_size("dubbernet_teacher", fusion_zero_init=True, audio_dropout=0.5)) == teacher
    assert teacher - count(full_size("dubbernet_teacher", injection="add")) == 2 * (4 * LINEAR + NORM - LINEAR)  # Q, KV, O for one linear
    assert teacher - count(full_size("dubbernet_teacher", injection="concat_cls")) == 2 * (4 * LINEAR - 2 * LINEAR)
    assert count(full_size("dubbernet_teacher", pool="attention")) - teacher == 769 * 256 + (3 * 256 + 1)
    joined = 6 * 768
    branch = 12 * joined**2 + 13 * joined + 2 * joined + 4 * (2 * joined + joined * 625)  # block, norm, four necks and classifiers
    assert count(full_size("dubbernet_teacher", local_branch=True)) - teacher == branch


# --- by name ---------------------------------------------------------------------------------------------------------

ALL = sorted(MODELS)
SWITCHES = {
    "": {},
    "add": {"injection": "add"},
    "concat_cls": {"injection": "concat_cls"},
    "zero_init": {"fusion_zero_init": True},
    "dropout": {"audio_dropout": 0.5},
    "attention": {"pool": "attention"},
    "local": {"local_branch": True},
    "both": {"pool": "attention", "local_branch": True},
    "no camera": {"camera_scale": 0.0},
}
CANCELLED = {
    "head.norm.bias",  # batch statistics of the BNNeck take out what all clips have in common
    "local.norm.bias",
    "head.attention.over_time.bias",  # so does the softmax for all frames, while none is cut off at 0
}


def total(out):
    """A loss that needs everything that the network gives for labels."""
    label = torch.arange(len(out.logits)) % tiny.CLASSES
    return sum(torch.nn.functional.cross_entropy(1000 * logits, label) for logits in (out.logits, *out.local_logits))


@pytest.mark.parametrize(("name", "kind", "bf16"), [*product(ALL, tiny.ITEM, [False, True])])
def test_every_network_goes_forward_and_backward(name, kind, bf16):
    for switch in SWITCHES.values():
        network = tiny.network(name, kind=kind, **switch).train()
        assert isinstance(network, Network)
        batches = [tiny.batch(kind=kind), tiny.batch(kind=kind, items=0)]  # some hear something; nobody hears anything
        for batch in batches if network.hears else [*batches, batches[0].frames_only()]:
            network.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                out = network(batch)
                loss = total(out)
            loss.backward()
            assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
            given = (out.logits, out.feat, out.feat_bn, *out.local_feats, *out.local_feats_bn, *out.local_logits, *out.taps_fused)
            assert {tensor.dtype for tensor in given} == {torch.float32}
            assert out.attention is None or out.attention.dtype == torch.float32
            assert loss.isfinite()


@pytest.mark.parametrize(("name", "kind", "switch"), [*product(ALL, tiny.ITEM, SWITCHES)])
def test_every_parameter_learns(name, kind, switch):
    """No dead parameter (section 9, B12): all that may learn gets a gradient that is more than rounding."""
    network = tiny.network(name, kind=kind, drop_path=0.0, **SWITCHES[switch]).train()
    batch = tiny.batch(clips=8, kind=kind)
    learned = set()
    for _ in range(3 if switch == "zero_init" else 1):  # from weights of zero, gradients reach one fusion more with each step
        network.zero_grad()
        total(network(batch)).backward()
        learned |= {part for part, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-5}
        torch.optim.SGD(network.parameters(), lr=1e-3).step()
    fixed = {part for part, p in network.named_parameters() if not p.requires_grad}
    assert fixed == {part for part, _ in network.named_parameters() if "neck" in part and part.endswith("bias")}
    idle = {part for part, _ in network.named_parameters()} - learned - fixed
    assert idle <= CANCELLED


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_left_to_chance_in_evaluation(name):
    network = tiny.network(name, audio_dropout=0.5, drop_path=0.5).eval()
    assert torch.equal(network.embed(tiny.batch()), network.embed(tiny.batch()))


@pytest.mark.parametrize("kind", tiny.ITEM)
@pytest.mark.parametrize(("name", "hears"), [("dubbernet_teacher", True), ("dubbernet_student", False), ("audio_probe", True)])
def test_what_each_network_hears(name, hears, kind):
    network = tiny.network(name, kind=kind)
    assert (network.kind, network.hears, network.bands) == ((kind, True, tiny.ITEM[kind][1]) if hears else ("", False, 0))


@pytest.mark.parametrize("points", [(), (1,), (0, 1)])
def test_one_mask_generator_for_each_fusion_point(points):
    torch.manual_seed(0)
    masks = mask_generators(tiny.config(fusion_after_blocks=points), DistillConfig(mask_dropout=0.0))
    taps = tiny.network("dubbernet_student", fusion_after_blocks=points)(tiny.batch()).taps_fused
    assert [mask(tap, tap)[0].shape for mask, tap in zip(masks, taps, strict=True)] == [(6, 22)] * len(points)
    assert all(mask.dropout.rate == 0.0 for mask in masks)


# --- of a run --------------------------------------------------------------------------------------------------------


def run(network, kind="audio_tokens", **changes):
    """A stage that trains `network` on frames of 32x16 and clips of 3."""
    stage = StageConfig(network=network, hears=True)
    facts = {"method": "m", "dataset": "d", "split": "0", "seed": 0, "stage": "s", "companion": "c", "test_companion": "c"}
    settings = MethodConfig(stages={"s": stage}, model=tiny.config(**changes), clip=ClipConfig(frames=3))
    length, bands = tiny.ITEM.get(kind, (0, 0))
    return RunConfig(**facts, kind=kind, bands=bands, item_frames=length, height=32, width=16, this=stage, settings=settings)


@pytest.mark.parametrize("kind", tiny.ITEM)
@pytest.mark.parametrize("name", ALL)
def test_make_builds_the_network_of_a_run(name, kind):
    torch.manual_seed(0)
    made = make(run(name, kind, local_branch=True, pool="attention"), classes=7, cameras=2)
    expected = tiny.network(name, classes=7, cameras=2, kind=kind, local_branch=True, pool="attention")
    assert type(made) is (AudioProbe if name == "audio_probe" else DubberNet)
    assert (made.kind, made.bands, made.cameras, made.frames) == (expected.kind, expected.bands, expected.cameras, expected.frames)
    for (part, ours), (_, theirs) in zip(made.state_dict().items(), expected.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), part


def test_make_does_not_seed():
    torch.manual_seed(0)
    first, second = (make(run("dubbernet_student"), classes=3, cameras=2) for _ in range(2))
    assert not torch.equal(first.embedding.position, second.embedding.position)


def test_make_says_which_network_is_unknown():
    unknown = run("dubbernet_student")
    unknown = replace(unknown, this=replace(unknown.this, network="dubernet_student"))
    with pytest.raises(ConfigError, match=r"stages\.s\.network='dubernet_student': no such network; did you mean 'dubbernet_student'"):
        make(unknown, classes=3, cameras=2)


@pytest.mark.parametrize("name", ["dubbernet_teacher", "audio_probe"])
def test_a_network_that_hears_needs_a_companion(name):
    with pytest.raises(ConfigError, match=r"kind='', bands=0: .* a kind it can read \(audio or audio_tokens\)"):
        make(run(name, kind=""), classes=3, cameras=2)
    make(run("dubbernet_student", kind=""), classes=3, cameras=2)
