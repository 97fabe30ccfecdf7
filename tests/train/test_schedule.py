"""The rate table of specs/dubbernet.md section 6 (golden fact D4)."""

import pytest

from pipeline.base.config import ScheduleConfig
from train.schedule import learning_rate

RELEASED = ScheduleConfig(period=120)
TABLE = [
    (1, 0.001664, 0.003264),
    (2, 0.003248, 0.006448),
    (4, 0.006416, 0.012816),
    (5, 0.0079658, 0.0159316),
    (10, 0.0078640, 0.0157277),
    (30, 0.0068308, 0.0136592),
    (60, 0.004008, 0.008008),
    (61, 0.0039035, 0.0077988),
    (90, 0.0011852, 0.0023568),
    (119, 1.7368e-5, 1.8739e-5),
    (120, 1.6e-5, 1.6e-5),
    (121, 1.6e-5, 1.6e-5),
]


@pytest.mark.parametrize(("epoch", "weight", "bias"), TABLE)
def test_d4_table(epoch, weight, bias):
    assert learning_rate(epoch, 61, 0.008, 0.008, RELEASED) == pytest.approx(weight, rel=3e-5)
    assert learning_rate(epoch, 61, 0.016, 0.008, RELEASED) == pytest.approx(bias, rel=3e-5)


def test_period_zero_is_the_length_of_the_stage():
    own = ScheduleConfig()
    assert learning_rate(60, 60, 0.008, 0.008, own) == pytest.approx(1.6e-5)
    assert learning_rate(30, 60, 0.008, 0.008, own) == learning_rate(60, 120, 0.008, 0.008, RELEASED)


def test_without_warm_up_the_cosine_begins_at_once():
    assert learning_rate(1, 2, 1.0, 1.0, ScheduleConfig(warmup_epochs=0, final_factor=0.0)) == pytest.approx(0.5)
