"""Say where the numbers of a run come from, and check that nothing behind them has changed since.

    python -m evaluate.trace results/runs/<method>/<dataset>-<split>/seed<n>/<stage>/metrics.json [...] [--check] [--json]

In:      metrics.json of one or more runs, as the report names them; also those of tests on another data set, below the run in
         on/<dataset>-<split>/; and what `evaluate.score_trials` and `evaluate.legacy_eval --out` write, which note their inputs, too.
Out:     the numbers, then every file behind them with its SHA-256 as noted when it was read: settings, weights (the teacher's,
         too), embeddings, shards, manifests, lists of the sources; the code of training, embedding and scoring; what differs.
Source:  promise R13. Without --check only notes are read. With it every byte of every file is read again, tars and code
         included (once, also where several of the runs were trained on one store), and every score is compared with the mean over
         its queries; what differs is named and the exit status is 2.

A file that fits some of its notes and not others was made anew: what has the other notes is out of date. A file that fits none is
damaged where it cannot be read, and else damaged or made anew. Pictures and clips as shipped are no part of the chain: what was
used of them lies in the shards.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open

from evaluate.chain import UNREADABLE, Chain, Link
from evaluate.queries import METRICS, RERANKED, read_answers
from pipeline.base import cli, origin, tables
from pipeline.base.errors import ScoreError, UserError
from pipeline.base.files import digest_file, read_json
from shards.verify import verify

SHOWN = 16
"""Characters of a digest that lines for readers show; --json has all 64."""
AGAIN = "run the same target again"
QUERIES = "queries.parquet"
SAME = 1e-9
"""Two ways to sum some thousand numbers differ by less."""


Verified = dict[tuple[Path, str], list[str]]
"""What is wrong with each store that was read already, by its INDEX and the digest of that."""


def check(chain: Chain, sources: bool = True, verified: Verified | None = None) -> list[str]:
    """What is wrong with the files behind one run, one sentence each; empty if every byte is as it was noted.

    Args:
        sources: also what lies outside the results folder: lists as shipped, pretrained weights.
        verified: stores that runs checked just before have in common with this one are not read again; those read here are added.
    """
    verified = {} if verified is None else verified
    links = [link for link in chain.links if sources or not link.outside]
    wrong = [*_unknown(links, chain), *_seals(links, chain), *chain.strangers]
    fitting = set()
    for path, found in _by_path(links).items():
        told, fits = _compare(path, found)
        wrong += [told] if told else []
        if fits:
            fitting.add(path)
            wrong += dict.fromkeys(f"{path}: {link.fault}" for link in found if link.fault)
    for store in chain.stores:
        if store.index in fitting:  # else its rows vouch for nothing
            known = store.index.absolute(), digest_file(store.index)
            if known not in verified:
                verified[known] = _store(store.index)
            wrong += verified[known]
    if chain.metrics.with_name(QUERIES) in fitting:
        wrong += _means(chain)
    return [*wrong, *_code(chain)]


def _means(chain: Chain) -> list[str]:
    """Numbers that are not the means over QUERIES that they are said to be: a seal does not say who set it."""
    wrong = []
    try:
        answered = read_answers(chain.metrics.with_name(QUERIES), chain.scores["made"]["queries"])
        for (ranking, protocol), answers in answered.items():
            numbers = chain.scores[RERANKED if ranking == RERANKED else "protocols"][protocol]
            mean = answers.over(numbers["averaged_over"]).values.mean(axis=0)
            for name, of_queries in zip(METRICS, mean.tolist(), strict=True):
                said = numbers[name]
                if (said is None) != math.isnan(of_queries) or (said is not None and abs(said - of_queries) > SAME):
                    wrong.append(
                        f"{chain.metrics}: says {name} {said} by {protocol} ({ranking}), and the mean over {QUERIES} is {of_queries}; delete it "
                        f"and {AGAIN}"
                    )
    except UNREADABLE as error:
        wrong.append(f"{chain.metrics}: does not fit the {QUERIES} beside it ({error}); delete it and {AGAIN}")
    return wrong


def _store(index: Path) -> list[str]:
    try:
        return [f"{index.parent}: {line}" for line in verify(index)]
    except UserError as error:
        return [str(error)]


def _anew(chain: Chain, path: Path) -> str:
    """What to do about a file that cannot be mended: only what the workflow makes is deleted."""
    return f"make it again with python -m {chain.maker}" if chain.maker and path == chain.metrics else f"delete it and {AGAIN}"


def _unknown(links: list[Link], chain: Chain) -> list[str]:
    """Links without a digest, or without a place."""
    wrong = []
    for link in links:
        if not link.recorded and not link.sealed:
            wrong.append(
                f"{link.by}: does not say which {link.name} it was made from (damaged, or of an older form); {_anew(chain, link.by)}"
            )
        elif link.path is None:
            wrong.append(
                f"{link.by}: was made from {link.name}, and where '{link.outside}' lies is not known here; say it with --at "
                f"{link.outside}=PATH, or leave sources out with --without-sources"
            )
    return list(dict.fromkeys(wrong))


def _seals(links: list[Link], chain: Chain) -> list[str]:
    """Files that carry a digest of themselves."""
    wrong = []
    for link in links:
        if link.sealed and link.path is not None:
            if not link.path.is_file():
                wrong.append(f"{link.path}: missing; {AGAIN}")
            elif broken := origin.broken_seal(link.path) or link.fault:
                wrong.append(f"{link.path}: not as it was written ({broken}); {_anew(chain, link.path)}")
    return wrong


def _by_path(links: list[Link]) -> dict[Path, list[Link]]:
    """Links with a digest, by file."""
    found: dict[Path, list[Link]] = {}
    for link in links:
        if link.path is not None and link.recorded:
            found.setdefault(link.path, []).append(link)
    return found


def _compare(path: Path, links: list[Link]) -> tuple[str, bool]:
    """What is wrong with a file, given all that is noted of it, and whether it fits any of these notes."""
    makers = ", ".join(dict.fromkeys(str(link.by) for link in links))
    try:
        now = digest_file(path)
    except OSError as error:
        return f"{path}: missing ({error.strerror}), and {makers} read it; bring it back, or {AGAIN}", False
    others = [link for link in links if link.recorded != now]
    if not others:
        return "", True
    noted = f"noted {others[0].recorded[:SHOWN]}, found {now[:SHOWN]}"
    if len(others) < len(links):
        old = ", ".join(dict.fromkeys(str(link.by) for link in others))
        return f"{path}: made anew after it was read for {old} ({noted}), which is out of date; {AGAIN}", True
    if damage := _damage(path, links[0]):
        return f"{path}: damaged ({damage}; {noted} by {makers}); bring it back, or delete it and {AGAIN}", False
    return f"{path}: not what was read for {makers} ({noted}): damaged, or made anew since; bring it back, or delete it and {AGAIN}", False


def _damage(path: Path, link: Link) -> str:
    """Why a file is no whole file of its kind; '' if that cannot be seen."""
    try:
        if link.schema is not None:
            tables.read(path, link.schema)
        elif path.suffix == ".safetensors":
            with safe_open(str(path), framework="numpy") as file:
                file.keys()
        elif path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".jsonl":
            for line in path.read_bytes().decode().splitlines():
                json.loads(line)
    except UNREADABLE as error:
        return str(error).removeprefix(f"{path}: ").splitlines()[0]
    return ""


def _code(chain: Chain) -> list[str]:
    wrong = []
    for path, note in chain.code:
        if (state := code_state(note, _anew(chain, path))) != "":
            wrong.append(f"{path}: {state}")
    return wrong


def code_state(note: Mapping[str, Any], anew: str = f"delete it and {AGAIN}") -> str:
    """Whether code is what a note says; '' if it is. `anew`: what to do about a file without a note."""
    of, noted = note.get("of"), note.get("digest")
    if not isinstance(of, list) or not of or not all(isinstance(path, str) for path in of):
        return f"does not say by what code it was made (an older form); {anew}"
    try:
        now = origin.code_of(*of)["digest"]
    except OSError as error:
        now = f"no {error.filename}"
    return (
        ""
        if now == noted
        else f"made by other code than is here now (noted {noted}, now {now}: {', '.join(of)}); check that out, or {AGAIN}"
    )


def told(chain: Chain) -> list[str]:
    """The chain as lines for readers."""
    lines = []
    for link in chain.links:
        where = str(link.path) if link.path else f"(place not known: --at {link.outside}=PATH)"
        digest = "sealed" if link.sealed else link.recorded[:SHOWN] or "not noted"
        if not link.depth and link.path and link.path.is_file():
            digest = digest_file(link.path)[:SHOWN]
        lines.append(f"{'  ' * link.depth}{link.name}  {where}  {digest}{'  (see above)' if link.again else ''}")
        lines += [f"{'  ' * link.depth}    {fact}" for fact in ([f"not readable: {link.fault}"] if link.fault else link.facts)]
    lines.append("code")
    for path, note in chain.code:
        lines.append(f"    {path}  {note.get('digest', 'not noted')}  {' '.join(map(str, note.get('of', [])))}")
    return lines


def as_json(chain: Chain, wrong: list[str] | None) -> dict[str, Any]:
    """The same as plain values, digests in full; `problems` is null where nothing was checked."""
    return {
        "metrics": str(chain.metrics),
        "protocols": chain.scores.get("protocols"),
        **{name: chain.scores[name] for name in ("trials", "eer", "min_dcf", "runs") if chain.maker and name in chain.scores},
        "files": [
            {
                "depth": link.depth,
                "name": link.name,
                "path": None if link.path is None else str(link.path),
                "sha256": link.recorded or None,
                "noted_by": str(link.by),
                "facts": link.facts,
                "fault": link.fault,
            }
            for link in chain.links
        ],
        "stores": [
            {"index": str(store.index), "root": store.root, "shards": [asdict(shard) for shard in store.shards]} for store in chain.stores
        ],
        "code": [{"made": str(path), **note} for path, note in chain.code],
        "commit_now": origin.commit(),
        "problems": wrong,
    }


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument(
        "metrics", type=Path, nargs="+", metavar="FILE", help="metrics.json of a run, or what score_trials or legacy_eval --out wrote"
    )
    arguments.add_argument("--check", action="store_true", help="read every byte again; exit status 2 if anything differs")
    arguments.add_argument("--json", action="store_true", help="one JSON object per run instead of lines")
    arguments.add_argument(
        "--at",
        type=_place,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="where roots.NAME or the pretrained file NAME lies (default: what the settings of the newest report say); trials and cohort "
        "of score_trials",
    )
    arguments.add_argument("--without-sources", action="store_true", help="check only what lies in the results folder")
    args = arguments.parse_args(argv)
    problems, verified = 0, Verified()
    for path in args.metrics:
        chain = Chain(path, dict(args.at))
        if chain.links[0].fault and not args.check:
            raise ScoreError(f"{path}: {chain.links[0].fault}")
        wrong = check(chain, not args.without_sources, verified) if args.check else None
        problems += len(wrong or [])
        if args.json:
            print(json.dumps(as_json(chain, wrong), ensure_ascii=False))
        else:
            print("\n".join([*told(chain), f"    checkout now: {origin.commit() or 'no commit known'}"]))
        for line in wrong or []:
            print(line, file=sys.stderr)
        if args.check and not wrong and not args.json:
            print(f"checked: every byte of {len({link.path for link in chain.links})} files, of the tars and of the code is as noted")
    if problems:
        raise ScoreError(f"{problems} things behind these numbers are not as noted (named above)")
    if not args.check and not args.json:
        print("not checked: --check reads every byte again")


def _place(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not name or not sign or not path:
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME=PATH")
    return name, path


if __name__ == "__main__":
    cli.run(main)
