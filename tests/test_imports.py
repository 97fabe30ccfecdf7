"""The picture of who may import whom, held by reading every import statement; and what GPU nodes lack stays out of training."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGES = ("pipeline", "shards", "model", "train", "evaluate")

# Longest prefix wins. A value lists the prefixes of our own modules that may be imported.
MAY_IMPORT = {
    "pipeline.base": ["pipeline.base"],
    "pipeline.sources": ["pipeline.base", "pipeline.sources"],
    "pipeline.features": ["pipeline.base", "pipeline.features"],
    "pipeline.demo": ["pipeline.base", "pipeline.demo"],
    "pipeline": ["pipeline.base", "pipeline.sources", "pipeline.features", "pipeline.allocation", "pipeline.voices"],
    "shards": ["pipeline.base", "shards"],
    "model": ["pipeline.base", "model"],
    "train.losses": ["train.losses"],
    "train": ["pipeline.base", "shards", "model", "train"],
    # the rules of scoring, which are functions of arrays: nothing of a test set comes with them
    "train.validate": ["pipeline.base", "shards", "model", "train", "evaluate.protocols"],
    "evaluate.embed": ["pipeline.base", "shards", "model"],
    # every byte of the tars is looked at by the one module that knows them
    "evaluate.trace": ["pipeline.base", "evaluate", "shards.verify"],
    "evaluate": ["pipeline.base", "evaluate"],
}
HEAVY = ("soundfile", "soxr", "ffmpeg", "imageio_ffmpeg", "polars", "webdataset", "snakemake", "scipy", "tensorboard")
TORCH_FREE = (
    "pipeline.base",
    "evaluate.score",
    "evaluate.score_trials",
    "evaluate.make_trials",
    "evaluate.report",
    "evaluate.trace",
    "evaluate.retrieval",
    "shards.read",
    "shards.codec",
    "shards.draw",
    "shards.balance",
    "shards.augment",
    "shards.checks",
    "shards.order",
    "shards.windows",
    "shards.stream",
)
LIGHT = (
    "shards.loader",
    "model.registry",
    "model.weights",
    "model.pretrained",
    "model.encode_tokens",
    "model.convert_weights",
    "train.fit",
    "train.validate",
    "train.board",
    "evaluate.embed",
    "evaluate.score",
    "evaluate.score_trials",
    "evaluate.make_trials",
    "evaluate.report",
)
SHARDS_TO_BATCHES = ("shards.loader", "shards.training", "shards.clips", "shards.device", "shards.streamed", "shards.resident")
TORCH = ("model", "train", *SHARDS_TO_BATCHES, "shards.prepare", "evaluate.embed")
"""Who may import torch and what is built on it."""
BUILT_ON_TORCH = {"torch", "torchaudio", "torchvision", "timm"}


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(module: str) -> list[str]:
    return MAY_IMPORT[max((p for p in MAY_IMPORT if module == p or module.startswith(p + ".")), key=len)]


def breaches(module: str, source: str) -> list[str]:
    """Imports of our own code that the picture forbids to this module."""
    own = [name for name in imports(ast.walk(ast.parse(source))) if name.split(".")[0] in (*PACKAGES, "tests")]
    return [f"{module} imports {name}" for name in own if not any(name == p or name.startswith(p + ".") for p in allowed(module))]


def run_parts(node: ast.AST, late: bool) -> Iterator[ast.AST]:
    """What runs when a module is imported, and with `late` also what runs when it is used; not what type checkers alone read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not late:
            continue
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            child = ast.Module(child.orelse, [])
        yield child
        yield from run_parts(child, late)


def torch_breaches(module: str, source: str) -> list[str]:
    """Imports of torch, or of what is built on it, where the picture has none."""

    def used(late: bool) -> bool:
        return any(name.split(".")[0] in BUILT_ON_TORCH for name in imports(run_parts(ast.parse(source), late)))

    def among(*prefixes: str) -> bool:
        return any(module == p or module.startswith(p + ".") for p in prefixes)

    if among(*TORCH):
        return []
    return [f"{module} imports torch {where}" for late, where in ((False, "at its top"), (True, "in a function")) if used(late)][:1]


def modules(repository: Path) -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((repository / package).rglob("*.py")):
            name = ".".join(path.relative_to(repository).with_suffix("").parts).removesuffix(".__init__")
            yield name, path.read_text()


def test_nobody_imports_what_the_picture_forbids(repository):
    found = list(modules(repository))
    assert len(found) > 40
    assert [breach for name, source in found for breach in breaches(name, source)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model.dubbernet", "from shards.loader import TrainLoader"),
        ("model.encode_tokens", "from pipeline.features import audio"),
        ("model.encode_tokens", "from evaluate.embed import embed"),
        ("shards.loader", "import model.registry"),
        ("evaluate.score", "from train.trainer import Trainer"),
        ("evaluate.trace", "from shards.loader import DenseLoader"),
        ("train.trainer", "from evaluate.protocols import apply"),
        ("train.validate", "from evaluate.embed import embed"),
        ("pipeline.base.tables", "from pipeline.sources import mars"),
        ("shards.read", "from pipeline import align_companion"),
    ],
)
def test_a_forbidden_import_is_found(module, source):
    assert breaches(module, source)


def test_torch_is_imported_only_where_the_picture_says(repository):
    assert [breach for name, source in modules(repository) for breach in torch_breaches(name, source)] == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("shards.balance", "import torch", True),
        ("shards.preparation", "import torch", True),  # a prefix is a whole name
        ("pipeline.features.audio", "from torchaudio.transforms import MelSpectrogram", True),
        ("pipeline.features.audio", "def f():\n    import torch", True),
        ("pipeline.features.audio", "class A:\n    import torch", True),
        ("pipeline.features.audio", "class A:\n    def f(self):\n        import torch", True),
        ("pipeline.align_companion", "def f():\n    import torch", True),
        ("pipeline.base.batch", "if TYPE_CHECKING:\n    from torch import Tensor", False),
        ("pipeline.base.batch", "if True:\n    from torch import Tensor", True),
        ("evaluate.score", "try:\n    import timm\nexcept ImportError:\n    pass", True),
        ("model.encode_tokens", "import torchaudio", False),
    ],
)
def test_a_torch_import_out_of_place_is_found(module, source, found):
    assert bool(torch_breaches(module, source)) == found


@pytest.mark.parametrize(("names", "blocked"), [(LIGHT, HEAVY), (TORCH_FREE, (*HEAVY, "torch"))])
def test_light_modules_import_without_what_gpu_nodes_lack(repository, names, blocked):
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\nimport importlib\nfor name in {names!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    control = subprocess.run(
        [sys.executable, "-c", code + f"\nimport {blocked[0]}"], cwd=repository, capture_output=True, text=True, check=False
    )
    assert control.returncode != 0
