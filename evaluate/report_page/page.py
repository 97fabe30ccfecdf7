"""The whole page: one HTML file that asks nobody for anything.

In:      Inputs and ReportConfig.   Out: HTML text; the same inputs give the same bytes.
Source:  ours. No script at all, and a policy in the page that forbids every request, so that a report about people can be
         kept, mailed and opened anywhere. specs/dubbernet.md section 7.4 for the words on label-derived audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from evaluate.report_page import sections
from evaluate.report_page.ablation import Comparison
from evaluate.report_page.ablation_page import ablation_section
from evaluate.report_page.facts import data_facts, left_out
from evaluate.report_page.inputs import Inputs
from evaluate.report_page.markup import Child, Html, el, section
from evaluate.report_page.media import Media
from evaluate.report_page.pictures import persons_section, ranked_section, shown_data
from evaluate.report_page.summary import ScoreRow, chosen, headline_rows
from pipeline.base.config import ReportConfig

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

DEMO = (
    "The data of {names} are generated: persons are drawn and voices are synthesised by a program. These numbers show that every step "
    "from raw folders to this page works. They say nothing about real people, and are not comparable with published results."
)
DUBBING = (
    "Dubbing gives every training identity one speaker's clips. The voice is not that person's: it is privileged information derived from "
    "the label. A network may use it in training. At test time it would give the answer away, so a network that hears label-derived audio "
    "there is marked “oracle”, and such a number is no re-identification accuracy."
)
TRACE = (
    "Where a number comes from: python -m evaluate.trace results/runs/METHOD/DATASET-SPLIT/seedN/STAGE/metrics.json lists every file behind it "
    "with its digest, from the settings and the code to the lists of the sources, and with --check reads every byte of them again."
)
SELECTION = "Every stage is scored after its last epoch; no checkpoint was chosen by looking at test scores."
CHOSEN = (
    "Some stages are scored at the epoch that was best on held-out training identities, which were not trained on (see Training); all others "
    "after their last epoch. No checkpoint was chosen by looking at test scores."
)


def words(inputs: Inputs) -> list[str]:
    """What a reader has to know before quoting a number."""
    generated = _generated(inputs)
    demo = [DEMO.format(names=", ".join(generated))] if generated else []
    return [
        *demo,
        *([DUBBING] if any(data.dubbed for data in inputs.datasets) else []),
        *([TRACE] if any(run.metrics for run in inputs.runs) else []),
        *_origins(inputs),
        CHOSEN if any(map(chosen, inputs.runs)) else SELECTION,
    ]


def _origins(inputs: Inputs) -> list[str]:
    """What the backbones of each method started from, in one sentence where all its stages started alike."""
    methods = list(dict.fromkeys(run.method for run in inputs.runs))
    out = []
    for name in methods:
        method, found = inputs.method(name), dict[str, list[str]]()
        for stage in dict.fromkeys(run.stage for run in inputs.runs if run.method == name):
            this = method.stages[stage]
            if not this.start and this.network != "audio_probe":  # with `start`: that stage's weights; the probe has no backbone
                found.setdefault(method.settings_of(stage).pretrained, []).append(stage)
        for pretrained, stages in found.items():
            whose = (f" of {name}" if len(methods) > 1 else "") + (f" ({_and(stages)})" if len(found) > 1 else "")
            origin = f"pretrained weights: {PurePath(pretrained).name}" if pretrained else "random numbers (no pretrained weights)"
            out.append(f"Backbones{whose} started from {origin}.")
    return out


def _generated(inputs: Inputs) -> list[str]:
    return [group[0].name for group in inputs.groups() if group[0].generated]


def page(
    inputs: Inputs,
    config: ReportConfig,
    rows: Sequence[ScoreRow],
    comparison: Comparison | None = None,
    reranked: Sequence[ScoreRow] = (),
) -> Html:
    """The report as HTML; an ablation's table stands first."""
    media = Media()
    shown = shown_data(inputs, config.media)
    groups = inputs.groups()
    hidden = [group[0].name for group in groups if group[0].name not in shown]
    facts = {group[0].name: data_facts(group, _split(inputs, group[0].name, list(group[0].splits))) for group in groups}
    persons = persons_section(shown, config.identities, media, hidden)
    ranked = ranked_section(inputs, rows, shown, config.queries, media)
    parts: list[Child] = [
        ablation_section(comparison) if comparison else None,
        sections.score_tables(rows),
        sections.reranked_tables(reranked),
        sections.cmc_figures(rows),
        ranked,
        persons,
        sections.training_figures(inputs.runs),
        sections.data_section(groups, facts),
        sections.left_out_section({group[0].name: left_out(group) for group in groups}),
        section("reading", "How to read this", el("ul", [el("li", line) for line in words(inputs)], class_="words")),
        sections.config_section(inputs),
    ]
    return _document(config.title, _header(inputs, config, rows), parts, media)


def _split(inputs: Inputs, dataset: str, known: Sequence[str]) -> str:
    """The split whose roles are counted: the first that was run, else the first there is."""
    return next((run.test_split for run in inputs.runs if run.test_dataset == dataset and run.test_split in known), known[0])


def _header(inputs: Inputs, config: ReportConfig, rows: Sequence[ScoreRow]) -> Html:
    methods = list(dict.fromkeys(run.method for run in inputs.runs))
    datasets = list(dict.fromkeys(run.dataset for run in inputs.runs))
    trained, scored = sum(bool(run.log) for run in inputs.runs if run.is_own), sum(run.metrics is not None for run in inputs.runs)
    stages = list(dict.fromkeys(run.stage for run in inputs.runs))
    what = (
        f"{_and(methods)} on {_and(datasets)}. {trained} trainings ({_and(stages)}), {scored} times scored."
        if inputs.runs
        else "No training was run."
    )
    generated = _generated(inputs)
    note = el("p", el("b", "Generated data. "), DEMO.format(names=_and(generated)), class_="note") if generated else None
    return el(
        "header",
        el("p", "dubtrack", class_="brand"),
        el("h1", config.title),
        el("p", what, class_="lead"),
        note,
        sections.headline(list(headline_rows(inputs, rows).values())),
    )


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


NAVIGATION = {
    "ablation": "Ablation",
    "scores": "Scores",
    "reranked": "Re-ranked",
    "cmc": "Rank curves",
    "ranked": "Ranked lists",
    "persons": "Persons",
    "training": "Training",
    "data": "Data",
    "left-out": "Left out",
    "reading": "Reading",
    "config": "Configuration",
}


def _document(title: str, header: Html, parts: Sequence[Child], media: Media) -> Html:
    body = "".join(part for part in parts if isinstance(part, Html))
    links = [el("a", label, href=f"#{name}") for name, label in NAVIGATION.items() if f'<section id="{name}">' in body]
    missing = (
        el("p", f"Not shown for lack of room or because it could not be read: {len(media.refused)} files ({', '.join(media.refused[:5])}).")
        if media.refused
        else None
    )
    footer = el("footer", el("p", "This page is one file without scripts; it loads nothing from anywhere."), missing)
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    content = el("body", el("main", header, el("nav", links, aria_label="Sections"), Html(body), footer))
    return Html(f"<!doctype html>\n{el('html', head, content, lang='en')}\n")
