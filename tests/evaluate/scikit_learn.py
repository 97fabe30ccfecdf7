"""Writes scikit_learn.json: equal error rates as published code makes them from scikit-learn's ROC, for trials that are drawn here.

Made once, with scikit-learn 1.9.1 in an environment of its own, which is no part of dubtrack's:

    python -m venv /tmp/other && /tmp/other/bin/pip install scikit-learn==1.9.1 numpy==2.4.6
    /tmp/other/bin/python tests/evaluate/scikit_learn.py

`roc_curve` as it is by default, then the threshold at which |FNR - FPR| is smallest, and there the larger of the two. The rounding
of these numbers is part of the rule, so they are stored to the last bit (as `float.hex`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")
CASES, MOST = 60, 150


def main() -> None:
    import sklearn
    from sklearn.metrics import roc_curve

    random, cases = np.random.default_rng(0), []
    for _ in range(CASES):
        count = int(random.integers(2, MOST))
        score, same = random.integers(0, int(random.integers(1, 60)), count), random.random(count) < 0.4
        same[:2] = True, False
        fpr, tpr, _ = roc_curve(same, score / 9)
        at = int(np.argmin(np.abs(1 - tpr - fpr)))
        eer = float(max(fpr[at], 1 - tpr[at])).hex()
        cases.append({"ninths": score.tolist(), "same": "".join("01"[int(answer)] for answer in same), "eer": eer})
    lines = ",\n".join(json.dumps(case) for case in cases)
    FILE.write_text(f'{{"scikit-learn": "{sklearn.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
