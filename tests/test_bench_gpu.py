"""`make bench-gpu` works where there is no GPU to try it on: its sums, its imports, and all of it on tiny networks."""

import json
import subprocess
import sys

import pytest
import torch

from pipeline.base.config import ModelConfig
from tests.bench import gpu

ABSENT = ("soundfile", "soxr", "webdataset", "polars", "snakemake", "scipy", "tensorboard", "pytest", "ffmpeg")
"""What a GPU node need not have."""


@pytest.mark.parametrize(("stage", "stride16", "stride12"), [("visual", 22.7, 37.7), ("teacher", 24.0, 39.5), ("student", 24.8, 41.2)])
def test_gflop_of_a_frame(stage, stride16, stride12):
    """ViT-B/16 of 256x128 by hand, per token and layer 24 D^2 + 4 N D: 12 * 211 * (14.16 M + 0.65 M) + 210 * 1.18 M = 37.7 G."""
    found = [gpu.gflop(stage, ModelConfig(stride=stride), 256, 128, 101) for stride in (16, 12)]
    assert [round(value, 1) for value in found] == [stride16, stride12]


def test_floors_are_those_of_the_formula():
    assert {stage: round(gpu.step_tflop(stage, gpu.FULL) / 790 * 1e3, 1) for stage in gpu.FLOORS_MS} == gpu.FLOORS_MS


def test_the_heads_block_for_its_first_token_saves_most_of_it():
    """Of 24 D^2 per token, keys and values (4 D^2) are left for all tokens; all of it for one of 211."""
    saved = gpu.gflop("visual", ModelConfig(), 256, 128, 0) - gpu.gflop("visual", ModelConfig(), 256, 128, 0, first_only=True)
    assert saved * 1e9 == pytest.approx(210 * (20 * 768**2 + 4 * 211 * 768))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: torch finds no CUDA GPU here; run this on a GPU node")


@pytest.mark.slow
def test_it_runs_with_what_a_gpu_node_has(tmp_path):
    out = tmp_path / "found.json"
    block = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); from tests.bench import gpu; "
    script = block + f"gpu.main(['--device', 'cpu', '--small', '--json', {str(out)!r}])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert [(row["stage"], row["row"]) for row in report["steps"]] == [(stage, row) for stage in gpu.FLOORS_MS for row in gpu.ROWS]
    assert all(row["ms"] > 0 and row["tflops"] > 0 for row in report["steps"])
    equal = [value for stage in report["checks"].values() for name, value in stage.items() if name.startswith("equal seeds")]
    assert equal == [True] * 4
    assert [row["data"] for row in report["data"]] == ["indexed", "resident"]
