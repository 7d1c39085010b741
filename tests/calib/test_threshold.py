from __future__ import annotations

import numpy as np
import pytest

from acd_edge.calib.threshold import calibrate, needed_parts, with_product
from acd_edge.errors import ConfigError, DataError


@pytest.mark.parametrize(("count", "rate"), [(99, 0.01), (19, 0.05), (50, 0.1), (7, 0.3)])
def test_the_rate_holds_for_parts_never_seen(count: int, rate: float) -> None:
    rng = np.random.default_rng(0)
    draws = rng.gamma(2.0, size=(4000, count + 1))
    alarms = np.mean([row[-1] >= calibrate(row[:-1].tolist(), false_alarm_rate=rate).threshold for row in draws])
    expected = calibrate(draws[0, :-1].tolist(), false_alarm_rate=rate).expected_false_alarm_rate
    sigma = (rate / 4000) ** 0.5  # of a share of 4000 trials
    assert expected <= rate
    assert alarms == pytest.approx(expected, abs=4 * sigma)
    # the control: the plain quantile of so few parts promises more than it holds
    naive = np.mean([row[-1] >= np.quantile(row[:-1], 1 - rate) for row in draws])
    assert naive > rate


def test_no_good_part_of_a_small_sample_is_anomalous_and_the_sample_says_what_it_is_worth() -> None:
    found = calibrate([0.3, 0.1, 0.2], false_alarm_rate=0.01)
    assert max(0.3, found.low) < found.threshold
    assert found.expected_false_alarm_rate == 0.25
    assert not found.supported
    assert found.needed == 99
    assert (found.low, found.median, found.high) == (0.1, 0.2, 0.3)


def test_exactly_enough_is_supported_and_one_less_is_not() -> None:
    for rate in (0.01, 0.02, 0.05, 0.1):
        needed = needed_parts(rate)
        assert calibrate(range(needed), false_alarm_rate=rate).supported
        assert not calibrate(range(needed - 1), false_alarm_rate=rate).supported


def test_the_largest_rate_takes_the_smallest_score() -> None:
    assert 0.1 < calibrate([0.3, 0.1, 0.2], false_alarm_rate=1 - 1e-12).threshold < 0.1001


@pytest.mark.parametrize("scores", [[], [0.5], [0.1, float("nan")]])
def test_too_little_is_refused(scores: list[float]) -> None:
    with pytest.raises(DataError):
        calibrate(scores)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5])
def test_odd_rates_are_refused(rate: float) -> None:
    with pytest.raises(ConfigError):
        calibrate([0.1, 0.2], false_alarm_rate=rate)


def test_products_keep_their_own_thresholds() -> None:
    first = with_product({}, "nut", calibrate([0.1, 0.2]))
    both = with_product(first, "bolt", calibrate([0.3, 0.4]))
    assert both["products"]["nut"] == first["products"]["nut"]
    assert both["products"]["bolt"]["threshold"] > 0.4
