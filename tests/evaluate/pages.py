"""What tests of the report need: the inputs of a small report, made by hand, and the report made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PIL import Image

from evaluate import report
from pipeline.base import origin, tables
from pipeline.base.build import plain
from pipeline.base.config import ScoringConfig
from pipeline.base.files import digest_file


def protocol(r1, ap="hit", **more):
    cmc = [r1] + [1.0] * 49
    return {
        "description": "a rule",
        "gallery_definition": "a set",
        "gallery": 9330,
        "queries": 1980,
        "valid": 1840,
        "skipped_queries": 140,
        "ap": ap,
        "averaged_over": "valid",
        "R1": r1,
        "R5": 1.0,
        "R10": 1.0,
        "R20": 1.0,
        "mAP": r1 / 2,
        "mINP": None,
        "cmc": cmc,
        **more,
    }


def scored(folder: Path, modality: str, protocols: dict, ranked=(), reranked=None) -> None:
    """metrics.json and QUERIES of one run; of each protocol's valid queries as many are answered at rank 1 as its R1 says, all others at 2."""
    rows = []
    kinds = [("distance", *item) for item in protocols.items()] + [("reranked", *item) for item in (reranked or {}).items()]
    for ranking, name, numbers in kinds:
        answered = round(numbers["R1"] * numbers["valid"])
        for i in range(numbers["queries"]):
            valid, first = i < numbers["valid"], 1 if i < answered else 2
            ap = {"ap": (0.5 if i < answered else 0.0) if valid else None, "inp": None}
            place = {"good": int(valid), "removed": 0, "first": first if valid else 0, **ap}
            rows.append({"ranking": ranking, "protocol": name, "query": f"q{i:04d}", "identity": f"{i // 4:04d}", "camera": 0, **place})
    tables.write_rows(folder / "queries.parquet", rows, tables.QUERIES)
    metrics = {
        "modality": modality,
        "oracle": "oracle" in modality,
        "protocols": protocols,
        "reranked": reranked,
        "ranked": list(ranked),
        "feature": {"dim": 8, "normalised": False, "distance": "squared euclidean"},
        "scoring": {**plain(ScoringConfig(resamples=100)), "seed": 0},
        "headline": next(iter(protocols)),
        "made": {"queries": digest_file(folder / "queries.parquet")},
    }
    seal(folder / "metrics.json", metrics)


def seal(file: Path, metrics: dict) -> None:
    """Write metrics.json as evaluate.score does, whether the value was read from one or not."""
    origin.write_sealed(file, {name: value for name, value in metrics.items() if name != origin.SEAL})


def make(folder: Path, *, identity="0001", generated=True, oracle=False, policy="id_speaker", splits=("0",), r1=(0.625,)) -> Path:
    """A data set of four tracklets with pictures and sound, one teacher and one student per split; returns inputs.json."""
    root, voices = folder / "root", folder / "voices"
    names = ["q", "g", "t", "d"]
    rows = []
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), (40 * i, 90, 120)).save(root / name / "1.jpg")
        kind = "distractor" if name == "d" else "person"
        rows.append(
            {"tracklet": name, "dataset": "set", "identity": identity, "kind": kind, "camera": i % 2, "frames": [f"{name}/1.jpg"] * 7}
        )
    voices.mkdir(exist_ok=True)
    (voices / "a.mp3").write_bytes(b"ID3 not really sound")
    tables.write_rows(folder / "t.parquet", rows, tables.TRACKLETS)
    roles = [{"tracklet": n, "role": r, "label": -1} for n, r in zip(names, ["query", "gallery", "train", "gallery"], strict=True)]
    tables.write_rows(folder / "s.parquet", roles, tables.SPLIT)
    run = {"item": "a", "owner": "spk_1", "path": "a.mp3", "start": None, "seconds": 1.5}
    heard = [{"tracklet": "t", "first": 0, "last": 5, **run}, {"tracklet": "t", "first": 6, "last": 6, **run}]
    tables.write_rows(folder / "a.parquet", heard, tables.ALIGNMENT, {"policy": policy})
    quarantine = [{"path": "x/broken.jpg", "what": "frame", "reason": "truncated", "detail": identity}]
    tables.write_rows(folder / "quarantine.parquet", quarantine, tables.QUARANTINE)
    place = {"shard": "0.tar", "items": 0, "size": 1000, "members": [], "digest": "", "frames": 7, "camera": 0, "identity": identity}
    index = [{"key": n, "kind": "person", "offset": 1000 * i, **place} for i, n in enumerate(names)]
    companion = {"kind": "audio", "policy": policy, "oracle": oracle, "label_derived": True, "test": oracle, "bands": 80, "seed": 0}
    tables.write_rows(folder / "i.parquet", index, tables.INDEX, {"frames": {"height": 32, "width": 16}, "companion": companion})
    runs = []
    for split, value in zip(splits, r1, strict=True):
        for stage in ("teacher", "student"):
            here = folder / f"{split}-{stage}"
            here.mkdir(exist_ok=True)
            log = [{"epoch": e, "step": e, "steps": 1, "lr": 0.1 / e, "loss": 2.0 / e, "terms": {"identity": 1.0 / e}} for e in (1, 2, 3)]
            lines = [json.dumps(line) for line in [*log, {"done": True}]]
            (here / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            runs.append(
                {
                    "method": "m",
                    "dataset": "set",
                    "split": split,
                    "seed": 0,
                    "stage": stage,
                    "folder": str(here),
                    "scored": stage == "student",
                }
            )
        entry = {"identity": identity, "camera": 0, "query": "q", "chosen": "first", "ap": 0.5, "first_hit": 2, "right_answers": 1}
        cells = [("d", False), ("g", True)]
        entry["gallery"] = [{"tracklet": n, "identity": identity, "camera": 1, "distance": 1.5, "match": m} for n, m in cells]
        protocols = {"market": protocol(value), "mars_official": protocol(value / 5, "trapezoid", gallery=12180, valid=1980)}
        modality = "oracle frames + label-derived audio" if oracle else "frames only"
        scored(folder / f"{split}-student", modality, protocols, [entry])
    data = {
        **{
            "tracklets": str(folder / "t.parquet"),
            "splits": {"0": str(folder / "s.parquet")},
            "plan": "",
            "index": str(folder / "i.parquet"),
        },
        **{"alignment": str(folder / "a.parquet"), "probes": None, "quarantine": [str(folder / "quarantine.parquet")]},
        **{"root": str(root), "voices_root": str(voices), "generated": generated, "licence": "CC0 " + identity, "voices_licence": None},
    }
    stages = {
        "teacher": {"network": "dubbernet_teacher", "hears": True},
        "student": {"network": "dubbernet_student", "task": "distill", "teacher": "teacher"},
    }
    settings = {
        "seed": 0,
        "datasets": {"set": {"protocols": ["market", "mars_official"]}},
        "methods": {"m": {"stages": stages}},
        "companions": {"audio": {}},
        "roots": {"set": "/secret"},
    }
    inputs = {"settings": settings, "versions": {"numpy": "2"}, "runs": runs, "datasets": {"set": data}, "ablation": None}
    (folder / "inputs.json").write_text(json.dumps(inputs))
    return folder / "inputs.json"


def run(inputs: Path, name="report", config="{}"):
    """(page, Markdown, CSV) as text; beside them the CSV of an ablation, if there is one."""
    out = [inputs.parent / f"{name}.{end}" for end in ("html", "md", "csv")]
    more = ["--ablation-csv", f"{inputs.parent / name}.ablation.csv"] if json.loads(inputs.read_text()).get("ablation") else []
    report.main([str(out[0]), "--markdown", str(out[1]), "--csv", str(out[2]), *more, "--inputs", str(inputs), "--config", config])
    return [path.read_text(encoding="utf-8") for path in out]


def part(page, name):
    """One section of the page."""
    return re.search(rf'<section id="{name}">.*?</section>', page, re.S)[0]


ABLATION_STAGES = {
    "teacher": {"network": "dubbernet_teacher", "hears": True, "evaluate": False},
    "teacher_visual": {"network": "dubbernet_visual", "evaluate": False},
    "plain": {"network": "dubbernet_student", "task": "distill", "teacher": "teacher_visual"},
    "student": {"network": "dubbernet_student", "task": "distill", "teacher": "teacher"},
    "baseline": {"network": "dubbernet_student"},
    "silent": {"network": "dubbernet_teacher", "start": "teacher", "epochs": 0, "hears": True, "test_companion": "audio_silence"},
    "probe": {"network": "audio_probe", "hears": True, "test_companion": "audio_oracle"},
}
ROWS = {"probe": "hears only", "baseline": "no teacher", "plain": "plain KD", "student": "KD with <voices>", "silent": "teacher in silence"}
"""Not in the order of the stages, nor of the alphabet: the order of the table is the one given here. The oracle comes last anyway."""
R1 = {
    "probe": (0.99, 0.98, 1.0),
    "baseline": (0.48, 0.60, 0.50),
    "plain": (0.50, 0.60, 0.55),
    "student": (0.60, 0.64, 0.56),
    "silent": (0.40, 0.50, 0.52),
}
"""R1 of three seeds; mAP is half of it (see `protocol`)."""
SEEN = {"probe": "oracle audio only: label-derived audio", "silent": "frames + silence"}


def make_ablation(folder: Path, *, seeds=(0, 1, 2), rows=ROWS, r1=R1, reference="plain", against=None, remarks=None) -> Path:
    """The data set of `make` with three companions, and an ablation over one split and some seeds; returns inputs.json.

    Args:
        remarks: {(stage, seed): remarks of the last of its three epochs}.
    """
    value = json.loads(make(folder).read_text())
    value["runs"] = []
    for stage in rows:
        for seed, value_of in zip(seeds, r1[stage], strict=False):
            here = folder / f"{stage}-{seed}"
            here.mkdir()
            log = [
                {"epoch": e, "step": e, "steps": 1, "lr": 0.1, "loss": 1.0, "terms": {"identity": 1.0}, "remarks": []} for e in (1, 2, 3)
            ]
            log[-1]["remarks"] = (remarks or {}).get((stage, seed), [])
            (here / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
            seen = SEEN.get(stage, "frames only")
            scored(here, seen, {"market": protocol(value_of)})
            what = {"method": "m", "dataset": "set", "split": "0", "seed": seed, "stage": stage}
            value["runs"].append({**what, "folder": str(here), "scored": True})
    value["settings"]["methods"]["m"]["stages"] = ABLATION_STAGES
    value["settings"]["companions"] = {
        "audio": {},
        "audio_silence": {"alignment": {"policy": "silence"}},
        "audio_oracle": {"alignment": {"oracle_test_audio": True}},
    }
    for name in ("audio_silence", "audio_oracle"):
        value["datasets"][f"set with {name}"] = value["datasets"]["set"]
    about = {"name": "a", "method": "m", "dataset": "set", "question": "What does the <voice> add?", "reference": reference}
    value["ablation"] = {**about, "rows": rows, "splits": ["0"], "seeds": list(seeds), **({"against": against} if against else {})}
    (folder / "inputs.json").write_text(json.dumps(value))
    return folder / "inputs.json"
