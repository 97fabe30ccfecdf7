"""Resolve the settings of one training into the one file that `train.fit` and `evaluate.embed` read.

In:      sections of the settings (method, data set, companion) and the names of the run.   Out: config.json (RunConfig).
`machine` is left at its defaults in the file: it decides nothing, and reaches `train.fit` as a file of its own.
Source:  layout.md section 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipeline.base import cli
from pipeline.base.build import plain
from pipeline.base.config import HEARING, AlignmentConfig, CompanionConfig, DatasetConfig, DistillConfig, MethodConfig, RunConfig
from pipeline.base.errors import ConfigError, did_you_mean
from pipeline.base.files import write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Sections:
    """The settings that one training depends on."""

    method: MethodConfig
    dataset: DatasetConfig
    companions: dict[str, CompanionConfig]
    """Entries that the batches of the stage and of its teachers carry, by name; empty where that is 'none'."""


def resolve(sections: Sections, *, method: str, dataset: str, split: str, seed: int, stage: str) -> RunConfig:
    """All that one stage needs, in one value; its teacher's run is resolved likewise and stands inside.

    Raises:
        ConfigError: the method has no such stage, the data set no such split, a companion is missing, or a network
            that hears would be given another medium than it was trained on.
    """
    stages, splits = sections.method.stages, sections.dataset.splits
    if stage not in stages:
        raise ConfigError(f"--stage={stage}: no stage of method {method}{did_you_mean(stage, stages)}")
    if split not in splits:
        raise ConfigError(f"--split={split}: not in datasets.{dataset}.splits{did_you_mean(split, splits)}")
    name, this, settings = sections.method.companion_of(stage), stages[stage], sections.method.settings_of(stage)
    test_name = sections.method.test_companion_of(stage)
    for needed in (name, test_name):
        if needed != "none" and needed not in sections.companions:
            raise ConfigError(
                f"stage {stage} of {method} needs the companion '{needed}', which was not given{did_you_mean(needed, sections.companions)}"
            )
    if this.task != "distill":  # what no loss of this stage reads must not train it again
        settings = replace(settings, distill=DistillConfig())
    companion = None if name == "none" else sections.companions[name]
    frames = item_frames(companion, settings) if companion else 0
    if this.hears and test_name not in (name, "none"):
        test = sections.companions[test_name]
        wrong = differences(medium(test, item_frames(test, settings)), medium(companion, frames))
        if wrong:
            raise ConfigError(
                f"stages.{stage} of {method}: it hears '{name}' in training, but its test_companion '{test_name}' is another medium "
                f"({', '.join(wrong)}); give both companions the same kind, audio and tokens"
            )
    if this.evaluate and this.network in HEARING and test_name != "none" and not heard_at_test(sections.companions[test_name].alignment):
        raise ConfigError(
            f"stages.{stage} of {method}: it hears and is evaluated, but under the companion '{test_name}' test tracklets have no sound; set "
            "evaluate: false, or a test_companion of policy silence or recorded (or one with oracle_test_audio, for numbers marked oracle)"
        )
    teacher = this.teacher and resolve(sections, method=method, dataset=dataset, split=split, seed=seed, stage=this.teacher)
    if teacher and teacher.this.hears:
        wrong = differences(medium(companion, frames), medium(sections.companions[teacher.companion], teacher.item_frames))
        if wrong:
            raise ConfigError(
                f"stages.{stage} of {method}: its batches carry the companion '{name}', but its teacher {teacher.stage} was trained to hear "
                f"'{teacher.companion}' ({', '.join(wrong)}); leave its own companion and changes of model.audio_frames out, or name a "
                "companion of the same medium"
            )
    return RunConfig(
        method=method,
        dataset=dataset,
        split=split,
        seed=seed,
        stage=stage,
        companion=name,
        test_companion=test_name,
        kind=companion.kind if companion else "",
        bands=companion.bands if companion else 0,
        item_frames=frames,
        height=sections.dataset.frames.height,
        width=sections.dataset.frames.width,
        this=this,
        settings=settings,
        teacher=teacher or None,
    )


def heard_at_test(alignment: AlignmentConfig) -> bool:
    """Whether test tracklets have sound, too."""
    return alignment.policy in ("recorded", "silence") or alignment.oracle_test_audio


def medium(companion: CompanionConfig | None, frames: int) -> dict[str, Any]:
    """What decides the form of a companion item in a batch, by name. Not whose voice it is: that may change, as a control.

    Args:
        companion: None where batches have none.
        frames: companion frames of an item in a batch.
    """
    if companion is None:
        return {"kind": "none"}
    tokens = companion.kind == "audio_tokens"
    made = plain(companion.tokens if tokens else companion.audio)
    elsewhere = ("store",) if tokens else ("min_seconds", "silence_dbfs")  # where files lie; which clips are quarantined
    return {"kind": companion.kind, "item_frames": frames, **{name: value for name, value in made.items() if name not in elsewhere}}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """'bands 80 instead of 64' and so on; between two kinds only that."""
    names = ["kind"] if found["kind"] != wanted["kind"] else list(wanted)
    return [f"{name} {found[name]} instead of {wanted[name]}" for name in names if found[name] != wanted[name]]


def item_frames(companion: CompanionConfig, method: MethodConfig) -> int:
    """Companion frames of each item in a batch: tokens as they are; log-mel as many as the network looks at."""
    return companion.tokens.length if companion.kind == "audio_tokens" else method.model.audio_frames


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", help="config.json to write")
    for name, what in (("method", "method"), ("dataset", "data set"), ("split", "split"), ("stage", "stage of the method")):
        arguments.add_argument(f"--{name}", required=True, help=f"name of the {what}")
    arguments.add_argument("--seed", type=int, required=True, help="seed of the training")
    cli.config_argument(arguments)
    args = arguments.parse_args(argv)
    sections = cli.load(Sections, args.config)
    sections = replace(sections, method=sections.method.without_machine())
    run = resolve(sections, method=args.method, dataset=args.dataset, split=args.split, seed=args.seed, stage=args.stage)
    write_json(args.out, plain(run))


if __name__ == "__main__":
    cli.run(main)
