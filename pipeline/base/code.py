"""Which code decides what a training, its embeddings and its scores are: files and folders of the checkout.

Rules run a step again when this code has changed, steps note its digest in what they write (`pipeline.base.origin.code_of`), and
`evaluate.trace --check` compares: one list for the three, so that what is out of date for one is so for the others.
"""

from __future__ import annotations

LOADER = tuple(
    f"shards/{name}"
    for name in (
        "loader.py",
        "training.py",
        "resident.py",
        "streamed.py",
        "stream.py",
        "device.py",
        "clips.py",
        "checks.py",
        "order.py",
        "balance.py",
        "windows.py",
        "augment.py",
        "draw.py",
        "read.py",
        "codec.py",
        "prepare",
    )
)
"""Turns shards into batches. Without `shards.whole`: it only refuses, so no batch is another one when it changes."""

RULES = tuple(f"evaluate/{name}.py" for name in ("retrieval", "distance", "protocols"))
"""Makes ranks and scores of vectors."""

TRAINING = ("train", "model", *LOADER, "pipeline/base/batch.py", "pipeline/base/seeds.py", *RULES)
EMBEDDING = ("evaluate/embed.py", "model", *LOADER, "pipeline/base/batch.py", "pipeline/base/seeds.py", "pipeline/base/tables.py")
SCORING = (
    *(f"evaluate/{name}.py" for name in ("score", "queries", "bootstrap", "rerank")),
    *RULES,
    "pipeline/base/seeds.py",
    "pipeline/base/tables.py",
)
VERIFYING = (*(f"evaluate/{name}.py" for name in ("score_trials", "verification", "cohort")), *SCORING)
