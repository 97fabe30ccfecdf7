"""AST: filter bank and network against plain computations, averages over frequency, both published layouts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.encoders.fill import fill
from model.encoders.spectrogram import SpectrogramTransformer, filter_bank
from pipeline.base.errors import WeightsError
from tests.model.encoders.small import noise, spectrogram, written

PREFIX = "audio_spectrogram_transformer."


def authors(encoder: SpectrogramTransformer, prefix: str = "module.") -> dict[str, Tensor]:
    """Weights as the authors name them, with the heads that nobody reads."""
    own = encoder.state_dict()
    out = {f"{prefix}v.{new}": own[name] for name, new in (("cls", "cls_token"), ("dist", "dist_token"), ("position", "pos_embed"))}
    out |= {f"{prefix}v.patch_embed.proj.{part}": own[f"patches.{part}"] for part in ("weight", "bias")}
    out |= {f"{prefix}v.{name}": tensor for name, tensor in own.items() if name.startswith(("blocks.", "norm."))}
    heads = ["v.head.weight", "v.head.bias", "v.head_dist.weight", "v.head_dist.bias"]
    heads += ["mlp_head.0.weight", "mlp_head.0.bias", "mlp_head.1.weight", "mlp_head.1.bias"]
    return out | {prefix + name: torch.zeros(3) for name in heads}


def hugging_face(encoder: SpectrogramTransformer) -> dict[str, Tensor]:
    """Weights as Hugging Face's release names them."""
    own = encoder.state_dict()
    out = {
        "embeddings.cls_token": own["cls"],
        "embeddings.distillation_token": own["dist"],
        "embeddings.position_embeddings": own["position"],
    }
    for part in ("weight", "bias"):
        out[f"embeddings.patch_embeddings.projection.{part}"] = own[f"patches.{part}"]
        out[f"layernorm.{part}"] = own[f"norm.{part}"]
        for i in range(len(encoder.blocks)):
            ours, theirs = f"blocks.{i}.", f"encoder.layer.{i}."
            for k, name in enumerate(("query", "key", "value")):
                out[f"{theirs}attention.attention.{name}.{part}"] = own[f"{ours}attn.qkv.{part}"][12 * k : 12 * k + 12]
            out[f"{theirs}attention.output.dense.{part}"] = own[f"{ours}attn.proj.{part}"]
            out[f"{theirs}layernorm_before.{part}"] = own[f"{ours}norm1.{part}"]
            out[f"{theirs}layernorm_after.{part}"] = own[f"{ours}norm2.{part}"]
            out[f"{theirs}intermediate.dense.{part}"] = own[f"{ours}mlp.fc1.{part}"]
            out[f"{theirs}output.dense.{part}"] = own[f"{ours}mlp.fc2.{part}"]
    heads = ["layernorm.weight", "layernorm.bias", "dense.weight", "dense.bias"]
    return {PREFIX + name: tensor for name, tensor in out.items()} | {f"classifier.{name}": torch.zeros(3) for name in heads}


def plain_transform(w: dict[str, Tensor], picture_TB: Tensor, heads: int = 3) -> Tensor:
    """The network from the names of Hugging Face's release, patch by patch and head by head: [1024, 128] -> [1214, D]."""
    w = {name.removeprefix(PREFIX): tensor.double() for name, tensor in w.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    kernel = w["embeddings.patch_embeddings.projection.weight"].flatten(1)
    rows = range(0, 128 - 15, 10)
    columns = range(0, 1024 - 15, 10)
    patches = torch.stack([picture_TB[c : c + 16, r : r + 16].T.flatten() for r in rows for c in columns]).double()
    x = patches @ kernel.T + w["embeddings.patch_embeddings.projection.bias"]
    x = torch.cat([w["embeddings.cls_token"][0], w["embeddings.distillation_token"][0], x]) + w["embeddings.position_embeddings"][0]
    depth = 1 + max(int(name.split(".")[2]) for name in w if name.startswith("encoder.layer."))
    for i in range(depth):
        at = f"encoder.layer.{i}."
        y = norm(x, at + "layernorm_before")
        q, k, v = (linear(y, f"{at}attention.attention.{name}").chunk(heads, dim=1) for name in ("query", "key", "value"))
        mixed = [torch.softmax(a @ b.T / a.shape[1] ** 0.5, dim=1) @ c for a, b, c in zip(q, k, v, strict=True)]
        x = x + linear(torch.cat(mixed, dim=1), at + "attention.output.dense")
        hidden = F.gelu(linear(norm(x, at + "layernorm_after"), at + "intermediate.dense"))
        x = x + linear(hidden, at + "output.dense")
    return norm(x, "layernorm")


def plain_fbank(wave: np.ndarray) -> np.ndarray:
    """Kaldi's filter bank in float64: frames within the clip, mean off, pre-emphasis 0.97, Hann, FFT of 512, mel, logarithm."""
    out = []
    for k in range((len(wave) - 400) // 160 + 1):
        frame = wave[160 * k : 160 * k + 400].astype(np.float64)
        frame -= frame.mean()
        frame -= 0.97 * np.concatenate([frame[:1], frame[:-1]])
        out.append(np.abs(np.fft.rfft(frame * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)), 512)) ** 2)

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hz) / 700)

    edges = np.linspace(mel(20), mel(8000), 130)
    at = mel(np.arange(256) * 16_000 / 512)[:, None]  # Kaldi leaves the last bin out
    bank = np.maximum(0, np.minimum((at - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - at) / np.diff(edges)[1:]))
    return np.log(np.maximum(np.array(out)[:, :256] @ bank, np.finfo(np.float32).eps))


def test_filter_bank_is_kaldis_padded_and_normalised():
    wave, _ = noise(80_000)
    found = filter_bank(wave[0]).numpy()
    plain = plain_fbank(wave[0].numpy())
    assert plain.shape == (498, 128) and found.shape == (1024, 128)
    assert np.abs(found[:498] - (plain + 4.2677393) / (2 * 4.5689974)).max() < 1e-3
    assert found[498:] == pytest.approx(4.2677393 / (2 * 4.5689974))  # zeros before they are normalised


def test_1214_tokens():
    encoder = spectrogram().freeze()
    assert encoder.tokens == 12 * 101 + 2 == 1214
    assert encoder(*noise(80_000), 0).shape == (1, 1214, 12)


def test_the_network_is_the_plain_one():
    encoder = spectrogram().freeze()
    picture = torch.randn(1024, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = encoder.transform(picture[None])[0]
    expected = plain_transform(hugging_face(encoder), picture)
    assert torch.allclose(found.double(), expected, atol=1e-4)
    assert not torch.allclose(found.double(), plain_transform(hugging_face(encoder), picture.flip(0)), atol=1e-1)


def test_averages_go_over_frequency_first_and_leave_cls_and_dist_out():
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(101.0), indexing="ij")
    tokens = torch.cat([torch.full((2,), 1e6), (1000 * rows + columns).flatten()])[None, :, None]
    steps = spectrogram().steps(tokens)
    assert steps[0, :, 0].tolist() == [5500 + column for column in range(101)]


@pytest.mark.parametrize(
    ("samples", "columns"), [(400, 1), (400 + 15 * 160, 1), (400 + 25 * 160 - 1, 1), (400 + 25 * 160, 2), (80_000, 49)]
)
def test_a_column_counts_when_its_16_frames_are_of_the_clip(samples, columns):
    assert spectrogram().valid_steps(torch.tensor([samples])).tolist() == [columns]


LAYOUTS = {
    "hugging_face": hugging_face,
    "parallel": authors,
    "plain": lambda encoder: authors(encoder, ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_are_read_but_for_their_heads(tmp_path, layout):
    source, encoder = spectrogram(seed=1), spectrogram()
    fill(written(tmp_path / "w.safetensors", LAYOUTS[layout](source)), encoder)
    assert all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), source.state_dict().values(), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_else_may_be_there_or_be_missing(tmp_path, layout):
    tensors = LAYOUTS[layout](spectrogram())
    gone = next(name for name in sorted(tensors) if "query" in name or "qkv" in name)
    with pytest.raises(WeightsError, match=rf"1 missing: {gone}; 1 unexpected: extra\.bias"):
        fill(written(tmp_path / "w.safetensors", {"extra.bias": tensors.pop(gone), **tensors}), spectrogram())


def test_a_network_for_shorter_clips_is_another_one(tmp_path):
    """Speech commands, 128 frames: 12 x 12 + 2 positions."""
    tensors = hugging_face(spectrogram())
    tensors[f"{PREFIX}embeddings.position_embeddings"] = torch.zeros(1, 146, 12)
    with pytest.raises(WeightsError, match=r"position_embeddings is float32 \[1, 146, 12\] instead of float32 \[1, 1214, 12\]"):
        fill(written(tmp_path / "w.safetensors", tensors), spectrogram())


@pytest.mark.slow
def test_the_whole_transformer_gives_1214_tokens_of_width_768():
    encoder = SpectrogramTransformer().freeze()
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 12 * 7_087_872 + 1536 + 256 * 768 + 768 + 2 * 768 + 1214 * 768
    wave, samples = noise(80_000)
    assert encoder(wave, samples, 0).shape == (1, 1214, 768)
    assert encoder(wave, samples, 16).shape == (1, 16, 768)
