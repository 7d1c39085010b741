"""Every figure against scikit-learn's, torchmetrics' or a direct sum, with ties; and the bounds that bins state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from acd_edge.errors import DataError, ShapeError
from acd_edge.metrics import BINS, Measure, Pool, Steps, aupro, auroc, average_precision, f1_max
from acd_edge.metrics._bins import bin_keys, is_mixed
from acd_edge.metrics._pool import region_areas

sklearn_metrics = pytest.importorskip("sklearn.metrics")

Scores = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]


def _distinct(rng: np.random.Generator) -> Scores:
    return (rng.permutation(500) / 500).astype(np.float32)


def _tied(rng: np.random.Generator) -> Scores:
    return (rng.integers(0, 5, 500) / 4).astype(np.float32)


def _all_equal(rng: np.random.Generator) -> Scores:
    return np.full(500, 0.5, np.float32)


def _negative_and_large(rng: np.random.Generator) -> Scores:
    return (rng.standard_normal(500) * 1e6).astype(np.float32)


CASES = [_distinct, _tied, _all_equal, _negative_and_large]


def best_f1(labels: Masks, scores: Scores) -> float:
    precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-300)).max())


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
    assert f1_max(scores, labels) == pytest.approx(best_f1(labels, scores), abs=1e-12)


def test_equal_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    scores, labels = np.round(rng.random(4000), 3).astype(np.float32), rng.random(4000) < 0.1
    scores[labels] = np.sqrt(scores[labels])
    given = torch.from_numpy(scores), torch.from_numpy(labels).long()
    # torchmetrics sums in float32
    assert auroc(scores, labels) == pytest.approx(float(functional.binary_auroc(*given)), abs=1e-6)
    expected = float(functional.binary_average_precision(*given))
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-6)
    assert average_precision(scores, ~labels) != pytest.approx(expected, abs=1e-3)


def test_ties_count_half_and_not_nothing() -> None:
    assert auroc([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5
    assert auroc([0.5, 0.5, 0.6], [0, 1, 1]) == 0.75
    assert average_precision([0.5, 0.5], [0, 1]) == 0.5
    assert f1_max([0.5, 0.5], [0, 1]) == pytest.approx(2 / 3)
    assert aupro([[[0.5, 0.5]]], [[[0, 1]]]) == pytest.approx(0.15)  # a straight line to (1, 1), of which 30 % count


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_one_class_has_no_figure(labels: list[int]) -> None:
    for figure in (auroc, average_precision, f1_max):
        assert figure([0.1, 0.2], labels) is None
    assert aupro([[[0.1, 0.2]]], [[labels]]) is None


def some_maps(seed: int, count: int = 5) -> tuple[Scores, Masks]:
    """Maps (count, 24, 30) with a few values, and masks of several regions, some of which touch by a corner."""
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 24, 30)) < 0.02
    masks[:, 4:9, 5:12] = True
    masks[:, 9, 12] = True
    masks[0] = False  # a good picture
    maps = np.round(rng.random(masks.shape) * 0.7 + masks * rng.random(masks.shape) * 0.4, 2) / 1.1
    return maps.astype(np.float32), masks


def direct_aupro(maps: Scores, masks: Masks, limit: float, connectivity: int = 2) -> float:
    """The definition, one threshold after the other: as the evaluation code of MVTec-AD, with another labelling."""
    label = pytest.importorskip("skimage.measure").label
    regions = []
    for scores, mask in zip(maps, masks, strict=True):
        found = label(mask, connectivity=connectivity)
        regions += [scores[found == number] for number in range(1, found.max() + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        rates.append(float((maps[~masks] >= threshold).mean()))
        overlaps.append(float(np.mean([(region >= threshold).mean() for region in regions])))
    inside = np.array(rates) <= limit
    x = np.append(np.array(rates)[inside], limit)
    y = np.append(np.array(overlaps)[inside], np.interp(limit, rates, overlaps))
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum()) / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_is_the_direct_sum(limit: float, seed: int) -> None:
    maps, masks = some_maps(seed)
    expected = direct_aupro(maps, masks, limit)
    assert aupro(maps, masks, fpr_limit=limit) == pytest.approx(expected, abs=1e-9)  # sums of a hundred terms
    assert direct_aupro(maps, masks, limit, connectivity=1) != pytest.approx(expected, abs=1e-4)  # corners join


def test_small_region_counts_as_much_as_a_large_one() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0, 0], mask[4:8, 2:10] = True, True
    found = mask.astype(np.float32)
    found[0, 0] = 0
    # half of the regions until all pixels are taken: 0.5, and then a line from (0, 0.5) to (1, 1)
    assert aupro([found], [mask]) == pytest.approx(0.5 + 0.5 * 0.3 / 2)
    assert auroc(found, mask) == pytest.approx(1 - 0.5 / 33)


def test_regions_join_at_corners_and_know_their_area() -> None:
    mask = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]], bool)
    count, areas = region_areas(mask)
    assert count == 3
    assert areas.tolist() == [3, 3, 3, 1, 1]
    assert region_areas(np.zeros((2, 2), bool))[0] == 0


def measures(steps: Steps | None) -> list[Measure]:
    assert steps is not None
    found = [steps.auroc(), steps.average_precision(), steps.f1_max()]
    return found if steps.overlap is None else [*found, steps.aupro(), steps.aupro(0.07)]


def test_pieces_give_what_the_whole_gives() -> None:
    maps, masks = some_maps(2, 9)
    whole, pieces, late = Pool(), Pool(), Pool(limit=3000)
    whole.add(maps, masks)
    for piece, marks in zip(maps, masks, strict=True):
        for pool in (pieces, late):
            pool.add_map(piece, marks)
            pool.steps()  # asking midway changes nothing
    assert pieces.is_exact
    assert measures(pieces.steps())[:3] == measures(whole.steps())
    assert not late.is_exact
    assert late.regions == pieces.regions
    steps, other = pieces.steps(), late.steps()
    assert steps is not None
    assert other is not None
    assert (steps.anomalous, steps.normal) == (other.anomalous, other.normal)
    assert other.overlap is not None
    assert other.overlap.sum() == pytest.approx(1)


def _crowded(rng: np.random.Generator, masks: Masks) -> Scores:
    """Within a few bins, so that most pairs are ties."""
    return (0.3 + rng.random(masks.shape) * 2e-5 + masks * 4e-6).astype(np.float32)


def _spread(rng: np.random.Generator, masks: Masks) -> Scores:
    return (rng.random(masks.shape) ** (3 - 2 * masks)).astype(np.float32)


def _sure(rng: np.random.Generator, masks: Masks) -> Scores:
    return (rng.random(masks.shape) * 1e-4 * (1 - masks) + masks * (1 - rng.random(masks.shape) * 3e-4)).astype(
        np.float32
    )


@pytest.mark.parametrize("make", [_crowded, _spread, _sure])
def test_bins_stay_within_the_bounds_they_state(make: Callable[[np.random.Generator, Masks], Scores]) -> None:
    rng = np.random.default_rng(3)
    masks = np.zeros((20, 80, 100), bool)
    masks[::2, 10:30, 10:40] = True
    masks[1, 5, 5] = True
    maps = make(rng, masks)
    exact, binned = Pool(), Pool(limit=1000)
    for scores, mask in zip(maps, masks, strict=True):
        exact.add_map(scores, mask)
        binned.add_map(scores, mask)
    for true, found in zip(measures(exact.steps()), measures(binned.steps()), strict=True):
        assert true.within == 0
        assert abs(found.value - true.value) <= found.within + 1e-12
    off = [abs(a.value - b.value) for a, b in zip(measures(exact.steps()), measures(binned.steps()), strict=True)]
    if make is _crowded:
        assert max(off) > 1e-3  # the control: these bins do hide something, and say so
    else:
        assert all(found.within < 1e-4 for found in measures(binned.steps()))


def test_bins_equal_exact_where_bins_hold_one_value_each() -> None:
    rng = np.random.default_rng(4)
    scores = np.concatenate([1 - rng.permutation(2**16)[:5000] / 2**24, np.zeros(500)]).astype(np.float32)
    labels = rng.random(5500) < 0.4
    binned = Pool(limit=10)
    binned.add(scores, labels)
    assert not binned.is_exact
    assert measures(binned.steps()) == [
        (auroc(scores, labels), 0), (average_precision(scores, labels), 0), (f1_max(scores, labels), 0)
    ]  # fmt: skip


def test_bins_keep_the_order_and_are_as_narrow_as_they_say() -> None:
    rng = np.random.default_rng(5)
    near = np.float32(10.0) ** rng.uniform(-12, 0, 200_000).astype(np.float32) / 2
    values = np.unique(np.concatenate([near, 1 - near, [0, 2**-32, 0.5, 1]]).astype(np.float32))
    keys = bin_keys(values)
    assert (keys[0], keys[-1]) == (0, BINS - 1)
    assert (np.diff(keys) >= 0).all()
    distance = np.minimum(values, 1 - values)
    same = (np.diff(keys) == 0) & (distance[1:] >= 2**-31) & (distance[:-1] >= 2**-31)
    assert same.any()
    assert (np.diff(values)[same] <= distance[1:][same] * 2.0**-16 + 2.0**-24).all()
    assert is_mixed(keys[1:][np.diff(keys) == 0]).all()  # two values in a bin: the bin is said to be mixed
    assert not is_mixed(bin_keys(np.array([0, 1, 1 - 2**-20], np.float32))).any()


def test_negative_zero_is_zero() -> None:
    assert bin_keys(np.array([-0.0], np.float32)).tolist() == [0]


def test_curves_are_thin_and_keep_their_ends_and_area() -> None:
    maps, masks = some_maps(6, 40)
    pool = Pool()
    for scores, mask in zip(maps + np.random.default_rng(0).random(maps.shape) * 1e-3, masks, strict=True):
        pool.add_map(scores, mask)
    steps = pool.steps()
    assert steps is not None
    roc, pro, recall = steps.roc(), steps.pro(), steps.precision_recall()
    assert max(len(curve.x) for curve in (roc, pro, recall)) <= 243
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, pytest.approx(1))
    assert (pro.x[0], pro.x[-1], recall.x[-1]) == (0, 0.3, 1)
    area = float(((roc.y[1:] + roc.y[:-1]) / 2 * np.diff(roc.x)).sum())
    assert area == pytest.approx(steps.auroc().value, abs=1e-3)
    area = float(((pro.y[1:] + pro.y[:-1]) / 2 * np.diff(pro.x)).sum()) / 0.3
    assert area == pytest.approx(steps.aupro().value, abs=1e-3)


def test_refusals_name_what_came() -> None:
    with pytest.raises(ShapeError, match=r"\(2,\) and labels \(3,\)"):
        auroc([0.1, 0.2], [0, 1, 1])
    with pytest.raises(ShapeError, match=r"a map is \(H, W\), got \(2,\)"):
        Pool().add_map(np.zeros(2), np.zeros(2))
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        auroc([0.1, np.nan], [0, 1])
    with pytest.raises(DataError, match=r"bins over 0 to 1, got -?\d.* to 7"):
        Pool(limit=1).add(np.array([0.5, 7.0]), np.array([0, 1]))
