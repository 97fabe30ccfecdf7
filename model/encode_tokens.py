"""Turn the waveforms of one shard's companion items into audio tokens, with a frozen encoder (one job per shard).

In:      FEATURES of waveforms (`pipeline.encode_companion`), the settings of the tokens, for some encoders a weight file.
Out:     FEATURES of tokens, float16 [L, 768], one row per item; the meta says by which encoder, and the weights' SHA-256.
Source:  specs/dubbernet.md 3.1. A GPU is used where there is one; nothing that decodes sound is imported.

The bytes of an item: on a CPU each clip is computed by itself, by one thread, so that they depend neither on --threads nor on
what else is in the shard; other kinds of processors may differ in the last bits. With --batch above 1, which is the default on
a GPU, matrix products are formed differently, and the last bits of float16 differ from those of single clips; a batch is always
full, its last clip fills it up, so that a clip's neighbours still decide nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import timm
import torch
import torchaudio

from model.encoders import make
from model.encoders.frozen import RATE, SAMPLES, FrozenEncoder
from pipeline.base import cli
from pipeline.base.config import TokensConfig
from pipeline.base.errors import ConfigError, ShardError, WeightsError
from pipeline.base.files import digest_file
from pipeline.base.tables import FEATURES, read, read_meta, write_rows

FULL_SCALE = 32_768
"""int16 of amplitude 1."""
GPU_BATCH = 32


def waveforms(waves: pa.Table) -> dict[str, np.ndarray]:
    """FEATURES of waveforms by item: int16 [samples], on the table's memory.

    Raises:
        ShardError: a row is no waveform of 1..80,000 samples.
    """
    out = {}
    names, lengths, widths, dtypes = (waves.column(name).to_pylist() for name in ("item", "length", "width", "dtype"))
    for row, (item, length, width, dtype) in enumerate(zip(names, lengths, widths, dtypes, strict=True)):
        values = waves.column("values")[row].as_buffer()
        if (dtype, width) != ("int16", 1) or not 1 <= length <= SAMPLES or values.size != 2 * length:
            raise ShardError(
                f"FEATURES of item {item}: {values.size} bytes as {dtype} [{length}, {width}], expected int16 [1..{SAMPLES}, 1]; "
                "run encode_companion again"
            )
        out[item] = np.frombuffer(values, np.int16)
    return out


def encode(
    encoder: FrozenEncoder, clips: dict[str, np.ndarray], length: int, batch: int, threads: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Rows of FEATURES, in the order of `clips`.

    Args:
        encoder: on `device`.
        clips: int16 [samples] by item.
        length: L, or 0 for all tokens of clips padded to 5 s.
        batch: clips that are computed together.
        threads: batches at work at once.

    Raises:
        WeightsError: tokens that float16 cannot hold.
    """
    names = list(clips)

    def one(first: int) -> list[dict[str, Any]]:
        some = names[first : first + batch]
        wave_NS, samples_N = padded([clips[item] for item in some], batch)
        tokens = encoder(wave_NS.to(device), samples_N.to(device), length).half().cpu().numpy()
        return [features_row(item, values) for item, values in zip(some, tokens, strict=False)]  # the rest fills the batch

    with ThreadPoolExecutor(threads) as pool:
        for rows in pool.map(one, range(0, len(names), batch)):
            yield from rows


def padded(clips: list[np.ndarray], batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips, and the last one again until there are `batch`: float32 [batch, longest], full scale is 1; int64 [batch] samples."""
    clips = [*clips, *clips[-1:] * (batch - len(clips))]
    wave_NS = np.zeros((batch, max(map(len, clips))), np.float32)
    for row, clip in zip(wave_NS, clips, strict=True):
        row[: len(clip)] = clip.astype(np.float32) / FULL_SCALE
    return torch.from_numpy(wave_NS), torch.tensor([len(clip) for clip in clips])


def features_row(item: str, values: np.ndarray) -> dict[str, Any]:
    """One row of FEATURES: float16 [L, width]."""
    if not np.isfinite(values).all():
        raise WeightsError(f"item {item}: tokens that are not finite or too large for float16; the encoder's weights are damaged")
    length, width = values.shape
    return {"item": item, "values": values.tobytes(), "length": length, "width": width, "dtype": str(values.dtype)}


def check_waves(path: str, meta: dict[str, Any]) -> None:
    """Refuse FEATURES that hold something else.

    Raises:
        ShardError: log-mel pictures or tokens, or another rate.
    """
    if meta.get("form") != "waves":
        found = meta.get("form", "an older form")
        raise ShardError(f"{path}: FEATURES hold {found}, expected waves; give what encode_companion makes of kind audio_tokens")
    if meta["waves"]["rate"] != RATE:
        raise ShardError(f"{path}: {meta['waves']['rate']} samples per second, expected {RATE}; run encode_companion again")


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", help="FEATURES to write")
    arguments.add_argument("--waves", required=True, help="FEATURES of waveforms")
    arguments.add_argument("--seed", type=int, required=True, help="decides the weights of random_frozen")
    arguments.add_argument("--weights", type=Path, help="safetensors file of the encoder")
    arguments.add_argument("--threads", type=int, default=1, help="clips at work at once on a CPU")
    arguments.add_argument("--batch", type=int, default=0, help=f"clips computed together; 0: 1 on a CPU, {GPU_BATCH} on a GPU")
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    config = cli.load(TokensConfig, args.config, "tokens")
    if config.encoder == "precomputed":
        raise ConfigError(
            "tokens.encoder=precomputed: these tokens are there already; encode_companion reads them, and its output is packed"
        )
    if args.batch < 0:
        raise ConfigError(f"--batch {args.batch}: 0 or more")
    waves, meta = read(args.waves, FEATURES), read_meta(args.waves)
    check_waves(args.waves, meta)
    clips = waveforms(waves)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)  # clips side by side use the cores better than one clip in parts, and the sums keep their order
    torch.set_float32_matmul_precision("highest")  # no TF32: tokens are float32 on every device until they are stored
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    batch = args.batch or (1 if device.type == "cpu" else GPU_BATCH)
    threads = max(args.threads, 1) if device.type == "cpu" else 1
    encoder = make(config.encoder, args.seed, args.weights).to(device)

    begun = time.perf_counter()
    rows = list(encode(encoder, clips, config.tokens, batch, threads, device))
    seconds = time.perf_counter() - begun
    tokens = {
        "encoder": config.encoder,
        "weights_sha256": digest_file(args.weights) if args.weights else "",
        "length": config.length,
        **meta["waves"],
    }
    versions = meta["versions"] | {"torch": torch.__version__, "torchaudio": torchaudio.__version__, "timm": timm.__version__}
    note = {"kind": meta["kind"], "form": "tokens", "bands": config.width, "shard": meta["shard"], "seed": args.seed}
    write_rows(args.out, rows, FEATURES, {**note, "tokens": tokens, "versions": versions})
    heard = sum(map(len, clips.values())) / RATE
    print(
        f"encode_tokens: {len(rows)} items by {config.encoder} on {device.type}, {config.length} tokens of {config.width} each, "
        f"{heard / max(seconds, 1e-9):.1f} s of audio per second"
    )


if __name__ == "__main__":
    cli.run(main)
