"""The interval and the test against scipy, against known cases, and against frames that resemble their neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from acd_edge.bench.statistics import (
    block_length,
    block_rank_test,
    compare_medians,
    summarise,
)

RNG = np.random.default_rng(5)


def walk(seed: int, n: int = 400, memory: float = 0.95) -> np.ndarray:
    """Latencies around 10 ms that remember the frame before (an autoregressive series)."""
    noise = np.random.default_rng(seed).normal(size=n)
    values = np.empty(n)
    values[0] = noise[0] / np.sqrt(1 - memory**2)
    for place in range(1, n):
        values[place] = memory * values[place - 1] + noise[place]
    return 10 + 0.2 * values


def test_summary_by_hand() -> None:
    found = summarise(np.arange(1, 101)[::-1])
    assert (found.mean, found.p50, found.p90, found.p99, found.max) == pytest.approx((50.5, 50.5, 90.1, 99.01, 100))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (RNG.normal(10, 1, 200), RNG.normal(10.3, 1, 150)),
        (RNG.integers(0, 9, 200), RNG.integers(1, 10, 90)),  # many ties
        (RNG.normal(10, 1, 40), RNG.normal(10, 1, 40)),
    ],
    ids=["apart", "ties", "alike"],
)
def test_blocks_of_one_are_scipys_test(a: np.ndarray, b: np.ndarray) -> None:
    stats = pytest.importorskip("scipy.stats")
    p, method = block_rank_test(a, b)
    assert method == "Mann-Whitney, normal"
    assert p == pytest.approx(stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False).pvalue, rel=1e-9)


def test_few_frames_are_gone_through_as_scipy_does() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = RNG.normal(10, 1, 7), RNG.normal(11, 1, 8)
    p, method = block_rank_test(a, b)
    assert method == "Mann-Whitney, exact"
    assert p == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue, rel=1e-12)


def test_drawn_permutations_come_near_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = RNG.normal(10, 1, 12), RNG.normal(10.6, 1, 15)
    p, method = block_rank_test(a, b)
    assert method == "Mann-Whitney, 9,999 permutations"
    exact = stats.mannwhitneyu(a, b, method="exact").pvalue
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 9999))  # four standard errors of the draw


def test_a_known_case_by_hand() -> None:
    """All of three below all of three: 2 of the 20 choices are as far from the middle."""
    assert block_rank_test(np.array([1.0, 2, 3]), np.array([4.0, 5, 6])) == (0.1, "Mann-Whitney, exact")
    assert block_rank_test(np.array([1.0, 4]), np.array([1.0, 4]))[0] == 1


def test_equal_frames_are_no_difference() -> None:
    found = compare_medians(np.full(50, 3.0), np.full(60, 3.0))
    assert (found.p, found.differs) == (1.0, False)
    assert (found.ratio.low, found.ratio.value, found.ratio.high) == (1, 1, 1)


@pytest.mark.parametrize("series", [walk(1), RNG.normal(10, 1, 80), np.array([5.0])], ids=["walk", "noise", "one"])
def test_a_against_itself_is_no_difference(series: np.ndarray) -> None:
    found = compare_medians(series, series)
    assert (found.ratio.value, found.differs) == (1, False)
    assert found.p == pytest.approx(1)


def test_a_shift_is_found_with_its_size() -> None:
    a = RNG.lognormal(2.3, 0.02, 300)
    found = compare_medians(a, 1.05 * RNG.lognormal(2.3, 0.02, 200))
    assert found.differs
    assert found.ratio.low < 1.05 < found.ratio.high
    assert found.ratio.low > 1.03


def test_blocks_grow_with_memory() -> None:
    """Independent frames want blocks of few, frames that resemble their neighbours long ones."""
    lengths = [[block_length(walk(seed, memory=memory)) for seed in range(20)] for memory in (0.0, 0.6, 0.95)]
    short, middle, long = (float(np.median(each)) for each in lengths)
    assert short <= 3 < middle < long
    assert block_length(np.full(100, 2.0)) == 1


def test_frames_with_a_memory_do_not_cry_wolf() -> None:
    """Two runs of one thing: with whole blocks about one in twenty differs, by single frames (the control) most do.

    30 pairs: 6 or more false alarms have a probability of 0.3 % at the 5 % that are promised, and some more are
    allowed for since blocks are an approximation.
    """
    pairs = [(walk(2 * seed), walk(2 * seed + 1)) for seed in range(30)]
    with_blocks = sum(compare_medians(a, b).differs for a, b in pairs)
    by_frames = sum(block_rank_test(a, b)[0] < 0.05 for a, b in pairs)
    assert with_blocks <= 6
    assert by_frames >= 15


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8, 0.95])
def test_short_runs_cry_wolf_about_as_often_as_promised(memory: float) -> None:
    """Of 40 pairs of 60 alike frames; 7 or more have a probability of 0.3 % at 5 %.

    Blocks of the rule's own length, the control, let too many through where frames remember long.
    """
    pairs = [(walk(2 * seed, 60, memory), walk(2 * seed + 1, 60, memory)) for seed in range(40)]
    assert sum(compare_medians(a, b).differs for a, b in pairs) <= 6
    if memory == 0.95:
        lengths = [max(block_length(a), block_length(b)) for a, b in pairs]
        narrow = (block_rank_test(a, b, length)[0] for (a, b), length in zip(pairs, lengths, strict=True))
        assert sum(p < 0.05 for p in narrow) >= 8


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_ten_per_cent_are_found(memory: float) -> None:
    """Of 20 pairs of 200 frames that scatter by a few per cent."""
    pairs = [(walk(2 * seed, 200, memory), 1.1 * walk(2 * seed + 1, 200, memory)) for seed in range(20)]
    assert sum(compare_medians(a, b).differs for a, b in pairs) >= 18


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of 60 intervals of 95 %, 52 or more hold the true ratio with a probability of 98.9 %; the control is far off."""
    draws = [np.random.default_rng(seed) for seed in range(60)]
    found = [compare_medians(rng.lognormal(2, 0.1, 60), rng.lognormal(2, 0.1, 60)).ratio for rng in draws]
    assert sum(each.low <= 1 <= each.high for each in found) >= 52
    assert sum(each.low <= 1.1 <= each.high for each in found) < 10
