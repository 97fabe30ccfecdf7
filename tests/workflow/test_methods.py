"""Every method of workflow/config can be trained: main stages, and all that an ablation asks for, fit their networks and teachers."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import yaml

from model.api import Network
from model.registry import make
from pipeline.base.build import build, inherit, merge, plain
from pipeline.base.config import MethodConfig, RunConfig, Settings
from pipeline.base.errors import TrainError
from pipeline.resolve_config import Sections, resolve
from tests.conftest import REPOSITORY
from train.tasks import TASKS
from train.trainer import loss_weights


@cache
def settings() -> Settings:
    """The settings as the workflow lays them together (workflow/rules/common.smk)."""
    config: dict = {}
    folder = REPOSITORY / "workflow/config"
    for layer in ("default.yaml", "companions.yaml", "datasets/*.yaml", "methods/*.yaml", "ablations.yaml"):
        for file in sorted(folder.glob(layer)):
            config = merge(yaml.safe_load(file.read_text()), config)
    config["methods"] = inherit(config["methods"], "methods")
    return build(Settings, config)


BUILT: dict[tuple[str, ...], Network] = {}
"""Networks by what decides their form: most methods differ in other things."""


def network_of(run: RunConfig) -> Network:
    """The network of a run, without memory."""
    form = tuple(map(str, (run.settings.model, run.this.network, run.kind, run.bands, run.settings.clip.frames)))
    if form not in BUILT:
        with torch.device("meta"):
            BUILT[form] = make(run, classes=8, cameras=2)
    return BUILT[form]


def stages() -> list[tuple[str, str]]:
    """Main stages of every method, and whatever an ablation asks for."""
    found = {(name, stage) for name, method in settings().methods.items() for stage in method.main or method.stages}
    found |= {(about.method, stage) for about in settings().ablations.values() for stage in about.rows}
    return sorted((name, part) for name, stage in found for part in settings().methods[name].needed(stage))


@pytest.mark.parametrize(("name", "stage"), sorted(set(stages())))
def test_a_stage_can_be_trained(name, stage):
    dataset = next((e.dataset for e in settings().ablations.values() if e.method == name), "mars")
    sections = Sections(method=settings().methods[name], dataset=settings().datasets[dataset], companions=settings().companions)
    run = resolve(sections, method=name, dataset=dataset, split="official", seed=0, stage=stage)
    teacher = network_of(run.teacher) if run.teacher else None
    task = TASKS[run.this.task](network_of(run), run.settings, teacher)
    assert set(loss_weights(task.names, run)) == set(task.names)
    heard = task.model.hears or bool(teacher and teacher.hears)
    assert heard == (run.this.hears or bool(run.teacher and run.teacher.this.hears))
    if teacher:
        assert len(run.settings.model.fusion_after_blocks) == len(run.teacher.settings.model.fusion_after_blocks)


def test_a_weight_of_a_term_that_is_not_there_is_found():
    method = merge(plain(settings().methods["dubbernet"]), {"stages": {"student": {"weights": {"features": 1}}}})
    sections = Sections(method=build(MethodConfig, method), dataset=settings().datasets["mars"], companions=settings().companions)
    run = resolve(sections, method="dubbernet", dataset="mars", split="official", seed=0, stage="student")
    task = TASKS["distill"](network_of(run), run.settings, network_of(run.teacher))
    with pytest.raises(TrainError, match="no term for the weight features"):
        loss_weights(task.names, run)


def test_every_switch_of_the_method_has_a_value_here():
    """Section 10 of the specification: a setting that no method changes is a switch that nobody can find."""
    methods = [plain(method) for method in settings().methods.values()]
    for section, names in {
        "model": ["injection", "fusion_after_blocks", "audio_tokens", "camera_scale", "stride", "pool", "local_branch", "audio_dropout"],
        "distill": ["token", "normalize", "temperature", "tap", "logits", "mask"],
        "clip": ["frames"],
    }.items():
        for name in names:
            assert len({repr(method[section][name]) for method in methods}) > 1, f"{section}.{name}"
