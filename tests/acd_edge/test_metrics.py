"""Every figure against scikit-learn's, with ties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from acd_edge.errors import DataError, ShapeError
from acd_edge.metrics import Pool, auroc, average_precision

sklearn_metrics = pytest.importorskip("sklearn.metrics")

Scores = npt.NDArray[np.float32]


def _distinct(rng: np.random.Generator) -> Scores:
    return (rng.permutation(500) / 500).astype(np.float32)


def _tied(rng: np.random.Generator) -> Scores:
    return (rng.integers(0, 5, 500) / 4).astype(np.float32)


def _all_equal(rng: np.random.Generator) -> Scores:
    return np.full(500, 0.5, np.float32)


def _negative_and_large(rng: np.random.Generator) -> Scores:
    return (rng.standard_normal(500) * 1e6).astype(np.float32)


CASES = [_distinct, _tied, _all_equal, _negative_and_large]


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("share", [0.002, 0.3, 0.998])
def test_equal_scikit_learn(make: Callable[[np.random.Generator], Scores], share: float) -> None:
    rng = np.random.default_rng(1)
    scores = make(rng)
    labels = np.arange(500) < 500 * share
    # Both sum at most 500 float64 terms of counts: 1e-12 leaves room for another order of summation.
    assert auroc(scores, labels) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)
    expected = sklearn_metrics.average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_ties_count_half_and_not_nothing() -> None:
    assert auroc([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5
    assert auroc([0.5, 0.5, 0.6], [0, 1, 1]) == 0.75
    assert average_precision([0.5, 0.5], [0, 1]) == 0.5


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_one_class_has_no_figure(labels: list[int]) -> None:
    assert auroc([0.1, 0.2], labels) is None
    assert average_precision([0.1, 0.2], labels) is None


def test_pieces_give_what_the_whole_gives() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.random((6, 40, 40), dtype=np.float32), rng.random((6, 40, 40)) < 0.1
    pool = Pool()
    for piece, marks in zip(scores, labels, strict=True):
        pool.add(piece, marks)
        pool.auroc()  # asking midway changes nothing
    assert pool.is_exact
    assert pool.auroc() == auroc(scores, labels)
    assert pool.average_precision() == average_precision(scores, labels)
    assert pool.auroc_bound() == 0


def test_bins_stay_within_the_bound_they_state() -> None:
    rng = np.random.default_rng(3)
    labels = rng.random(200_000) < 0.05
    scores = (rng.random(200_000) ** (2 - labels) * 2e-3).astype(np.float32)  # crowded into 131 of the 65,536 bins
    exact, binned = Pool(), Pool(limit=1000)
    for part in np.array_split(np.arange(200_000), 7):
        exact.add(scores[part], labels[part])
        binned.add(scores[part], labels[part])
    assert exact.is_exact
    assert not binned.is_exact
    off = abs(binned.auroc() - exact.auroc())  # type: ignore[operator]  # both classes are there
    assert 0 < off <= binned.auroc_bound() < 0.01
    assert binned.average_precision() == pytest.approx(exact.average_precision(), abs=0.01)


def test_bins_equal_exact_where_bins_hold_one_value_each() -> None:
    rng = np.random.default_rng(4)
    scores = rng.permutation(2**16).astype(np.float32)[:5000] / 2**16
    labels = rng.random(5000) < 0.4
    binned = Pool(limit=10)
    binned.add(scores, labels)
    assert binned.auroc_bound() == 0
    assert binned.auroc() == auroc(scores, labels)
    assert binned.average_precision() == average_precision(scores, labels)


def test_refusals_name_what_came() -> None:
    with pytest.raises(ShapeError, match=r"\(2,\) and labels \(3,\)"):
        auroc([0.1, 0.2], [0, 1, 1])
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        auroc([0.1, np.nan], [0, 1])
    with pytest.raises(DataError, match=r"bins over 0 to 1, got -?\d.* to 7"):
        Pool(limit=1).add(np.array([0.5, 7.0]), np.array([0, 1]))
