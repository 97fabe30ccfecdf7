"""Each known way to score wrongly is refused or gives another number; what changes no rule gives the same (bad_evaluators.py)."""

from __future__ import annotations

import pytest

from evaluate.protocols import apply
from tests.evaluate.bad_evaluators import BAD, HARMLESS, RIGHT, flagged


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_is_refused_or_gives_another_number(bad):
    assert flagged(bad)


@pytest.mark.parametrize("same", HARMLESS, ids=lambda same: same.__name__)
def test_the_same_rule_gives_the_same_number(same):
    """Negative control: what does not change the rule does not change a number."""
    assert not flagged(lambda s: apply(RIGHT, same(s)))
