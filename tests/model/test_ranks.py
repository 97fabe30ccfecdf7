"""Two ranks compute what one computes. Their process group is gloo, on the CPU."""

import dataclasses

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from model import dubbernet, ranks
from model.blocks import chance
from model.blocks.mask import MaskGenerator
from model.blocks.neck import BNNeck
from pipeline.base.batch import Batch
from tests.model import tiny
from tests.model.test_registry import CANCELLED
from train.losses.triplet import triplet_loss

RANKS, CLIPS = 2, 8
SWITCHES = {"drop_path": 0.5, "audio_dropout": 0.5, "local_branch": True, "pool": "attention"}
NETWORKS = ("dubbernet_teacher", "dubbernet_student", "audio_probe")
CONTROLS = {"as it is": None, "local statistics": (BNNeck, "forward", nn.BatchNorm1d.forward), "local draws": "rand"}


def part(batch: Batch, rank: int) -> Batch:
    """What the loader of a rank gives: its clips, and the items that these hear, numbered anew."""
    mine = slice(rank * CLIPS // RANKS, (rank + 1) * CLIPS // RANKS)
    companion = batch.companions["audio"]
    align = companion.align[mine]
    used, numbered = align.unique(return_inverse=True)
    own_items = dataclasses.replace(companion, values=companion.values[used], lengths=companion.lengths[used], align=numbered)
    return Batch(batch.frames[mine], batch.label[mine], batch.camera[mine], batch.tracklet[mine], {"audio": own_items})


def whole() -> Batch:
    """Eight clips of three identities; each hears its own item."""
    batch = tiny.batch(clips=CLIPS, items=CLIPS)
    batch.companions["audio"].lengths = 20 - 2 * torch.arange(CLIPS)
    batch.companions["audio"].align = torch.arange(CLIPS)[:, None].expand(CLIPS, tiny.FRAMES).clone()
    batch.label = torch.arange(CLIPS) % 3
    return batch


def computed(name: str, batch: Batch) -> dict[str, torch.Tensor]:
    """One step of network and mask generator: outputs of this rank's clips, gradients averaged over ranks, buffers."""
    network = tiny.network(name, **SWITCHES).train()
    mask = MaskGenerator(24, 0.5).train()
    torch.manual_seed(7)  # as the trainer before each step
    out = network(batch)
    per_clip = [nn.functional.cross_entropy(logits, batch.label) for logits in (out.logits, *out.local_logits)]
    hardest = [triplet_loss(ranks.gather(feat), ranks.gather(batch.label)) for feat in (out.feat, *out.local_feats)]
    masked = [mask(tap, tap.flip(2)) for tap in out.taps_fused]
    per_frame = [(weight[..., None] * tap).square().mean() for (weight, _), tap in zip(masked, out.taps_fused, strict=True)]
    budget = [(ranks.gather(score).clamp(max=1).mean() - 0.7).square() for _, score in masked]
    torch.stack([*per_clip, *hardest, *per_frame, *budget]).sum().backward()
    found = {"logits": out.logits, "feat": out.feat, "feat_bn": out.feat_bn}
    found |= {f"part {i}": feat for i, feat in enumerate(out.local_feats_bn)} | {f"mask {i}": pair[0] for i, pair in enumerate(masked)}
    found = {f"out {key}": tensor.detach() for key, tensor in found.items()}
    for key, p in [*network.named_parameters(), *((f"mask.{key}", p) for key, p in mask.named_parameters())]:
        if p.grad is not None:
            if ranks.ranks() > 1:
                torch.distributed.all_reduce(p.grad)
            found[f"grad {key}"] = p.grad / ranks.ranks()
    return found | {f"state {key}": tensor for key, tensor in network.named_buffers()}


def child(rank: int, folder: str) -> None:
    """A rank; leaves what it computed in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    found = {}
    for control, patch in CONTROLS.items():
        with pytest.MonkeyPatch.context() as patched:
            if patch == "rand":
                for module in (chance, dubbernet):
                    patched.setattr(module, "rand", lambda rows, *shape, device: torch.rand(rows, *shape, device=device))
            elif patch:
                patched.setattr(*patch)
            found |= {(control, name): computed(name, part(whole(), rank)) for name in NETWORKS}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two ranks computed: outputs one after the other; gradients and buffers, which both must have alike."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(child, (str(folder),), RANKS, start_method="fork")  # to import everything anew takes ten times as long
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(RANKS))
    joined = {}
    for run, values in first.items():
        for key, tensor in values.items():
            if not key.startswith("out"):
                assert run[0] != "as it is" or torch.equal(tensor, second[run][key]), (run, key)
        joined[run] = {key: torch.cat([t, second[run][key]]) if key.startswith("out") else t for key, t in values.items()}
    return joined


def different(found, expected):
    """Names of the values that are apart by more than 1e-5 of their tensor's largest; rounding alone is left out."""
    assert found.keys() == expected.keys()
    compared = {key: t for key, t in expected.items() if key.removeprefix("grad ") not in CANCELLED}
    return [key for key, t in compared.items() if float((found[key] - t).abs().max()) > 1e-5 * float(t.abs().max())]


@pytest.mark.parametrize("name", NETWORKS)
def test_two_ranks_compute_what_one_computes(two, name):
    expected = computed(name, whole())
    assert different(two["as it is", name], expected) == []
    assert any(key.startswith("grad") for key in expected) and any("running_mean" in key for key in expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_with_statistics_of_its_own_clips_a_rank_would_not(two, name):
    expected = computed(name, whole())
    assert {"out feat_bn", "grad classifier.weight" if name == "audio_probe" else "grad head.classifier.weight"} <= set(
        different(two["local statistics", name], expected)
    )
    assert "out feat" not in different(two["local statistics", name], expected)


@pytest.mark.parametrize("name", NETWORKS[:2])
def test_with_draws_of_its_own_a_rank_would_not(two, name):
    wrong = different(two["local draws", name], computed(name, whole()))
    assert {"out feat", "out mask 0", "grad head.classifier.weight"} <= set(wrong)


def test_one_rank_gives_back_what_it_got():
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    assert ranks.gather(x) is x and ranks.own(x) is x and (ranks.rank(), ranks.ranks()) == (0, 1)
    torch.manual_seed(1)
    drawn = ranks.rand(4, 3, device=x.device)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(4, 3))


def test_with_one_rank_the_neck_is_batch_norm_bit_for_bit():
    torch.manual_seed(0)
    ours, theirs = BNNeck(6), nn.BatchNorm1d(6)
    x = torch.randn(5, 6)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        assert torch.equal(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
