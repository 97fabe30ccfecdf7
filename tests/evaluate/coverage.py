"""How often 95 % intervals of verification hold the true number, on made-up persons: ``python -m tests.evaluate.coverage`` (minutes).

A person is 16 normal numbers, an item of it these and noise of a width of the person's own (log-normal around 0.8, 0.4 in the
logarithm); a score is the cosine. The truth is that of 3,000,000 pairs of either kind, all of other persons. A list has every pair of
one identity and a number of pairs of two; identities are drawn 300 times for each interval.
"""

from __future__ import annotations

import numpy as np

from evaluate.report_page.summary import markdown_table
from evaluate.verification import Trials, interval
from pipeline.base.seeds import rng

NUMBERS, WIDTH, UNEVEN, ITEMS, SAMPLES = 16, 0.8, 0.4, 4, 300
P_TARGETS = (0.05, 0.01)
LISTS: tuple[tuple[int, int | None], ...] = ((100, None), (100, 5000), (100, 1000), (30, None), (30, 1000))
"""Identities, and pairs of two of them (None: all) of the lists in docs/protocols.md."""
ROUNDS = 400


def persons(random: np.random.Generator, count: int, items: int) -> np.ndarray:
    """float64 [count, items, NUMBERS], of length 1."""
    width = WIDTH * np.exp(UNEVEN * random.normal(size=(count, 1, 1)))
    vector = random.normal(size=(count, 1, NUMBERS)) + width * random.normal(size=(count, items, NUMBERS))
    return vector / np.linalg.norm(vector, axis=2, keepdims=True)


def numbers(trials: Trials) -> list[float]:
    return [trials.equal_error_rate(), *(trials.min_detection_cost(p_target) for p_target in P_TARGETS)]


def truth(parts: int = 10, each: int = 300_000) -> np.ndarray:
    """EER and minDCF of independent pairs."""
    random, same, different = rng(0, "coverage", "truth"), [], []
    for _ in range(parts):
        vector = persons(random, each, 2)
        same.append(np.einsum("nd,nd->n", vector[:, 0], vector[:, 1]))
        different.append(np.einsum("nd,nd->n", vector[:-1, 0], vector[1:, 1]))
    scores = np.concatenate([*same, *different])
    return np.array(numbers(Trials(scores, np.arange(len(scores)) < parts * each)))


def held(identities: int, different: int | None, true: np.ndarray, rounds: int) -> np.ndarray:
    """Parts of the lists whose intervals hold the truth, float64 [1 + P_TARGETS], then parts whose intervals lie below it."""
    left, right = np.triu_indices(identities * ITEMS, 1)
    same = left // ITEMS == right // ITEMS
    out = np.zeros((2, len(true)))
    for number in range(rounds):
        random = rng(number, "coverage", identities)
        vector = persons(random, identities, ITEMS).reshape(-1, NUMBERS)
        others = np.flatnonzero(~same)
        taken = others if different is None else random.choice(others, different, replace=False)
        rows = np.concatenate([np.flatnonzero(same), taken])
        one, other = left[rows], right[rows]
        trials = Trials(np.einsum("nd,nd->n", vector[one], vector[other]), same[rows])
        low, high = interval(trials.resampled(P_TARGETS, SAMPLES, number, (one // ITEMS, other // ITEMS)), 0.95)
        out += (low <= true) & (true <= high), high < true
    return out / rounds


def percent(identities: int, different: int | None, true: np.ndarray) -> list[tuple[int, int]]:
    """A line of the table: per number how often intervals held it, and how often they were below it."""
    inside, below = held(identities, different, true, ROUNDS)
    return [(round(100 * a), round(100 * b)) for a, b in zip(inside.tolist(), below.tolist(), strict=True)]


def pairs(identities: int, different: int | None) -> int:
    return ITEMS**2 * identities * (identities - 1) // 2 if different is None else different


def main() -> None:
    true = truth()
    table = [[str(n), f"{pairs(n, some):,}", *(f"{a} ({b})" for a, b in percent(n, some, true))] for n, some in LISTS]
    print("truth:", ", ".join(f"{number:.4f}" for number in true))
    print(markdown_table(("identities", "pairs of two", "EER", *(f"minDCF, P = {p}" for p in P_TARGETS)), table))


if __name__ == "__main__":
    main()
