"""Each known way to score wrongly is refused or gives another number; what changes no rule gives the same (bad_evaluators.py)."""

from __future__ import annotations

import pytest

from evaluate.protocols import apply
from pipeline.base.errors import ScoreError
from tests.evaluate.bad_evaluators import BAD, HARMLESS, REFUSED, RIGHT, flagged, plain, scene


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_is_refused_or_gives_another_number(bad):
    assert flagged(bad)


@pytest.mark.parametrize("bad", REFUSED, ids=lambda bad: bad.__name__)
def test_damaged_input_is_refused(bad):
    with pytest.raises(ScoreError):
        bad(scene())


@pytest.mark.parametrize("same", HARMLESS, ids=lambda same: same.__name__)
def test_the_same_rule_gives_the_same_number(same):
    """Negative control: what does not change the rule does not change a number."""
    assert not flagged(lambda s: apply(RIGHT, same(s)))


def test_the_plain_evaluator_is_not_flagged():
    """Negative control: it is not for being another program that a variant is flagged."""
    assert not flagged(plain)
