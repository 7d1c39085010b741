"""AUROC, average precision, F1-max and AUPRO: exact while the values are few, in bounded memory when they are many.

All four follow from how many normal values lie above each anomalous one (`Steps`), so the two sides are sorted, or
counted, apart: neither an index of all pixels nor a joint sort is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from acd_edge.metrics._bins import BINS
from acd_edge.metrics._pool import EXACT_VALUES, Pool
from acd_edge.metrics._steps import FPR_LIMIT, Curve, Measure, Steps

__all__ = [
    "BINS",
    "EXACT_VALUES",
    "FPR_LIMIT",
    "Curve",
    "Measure",
    "Pool",
    "Steps",
    "aupro",
    "auroc",
    "average_precision",
    "f1_max",
]


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Chance that an anomalous value is above a normal one, ties counting half; None where either is absent.

    Args:
        scores: any shape.
        labels: the same shape, nonzero where anomalous.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    return _figure(scores, labels, Steps.auroc)


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Precision at each threshold, weighted by the recall it adds; None without anomalous or without normal values.

    >>> round(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
    0.8333
    """
    return _figure(scores, labels, Steps.average_precision)


def f1_max(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """The best F1 that any threshold gives; None without anomalous or without normal values.

    >>> f1_max([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.8
    """
    return _figure(scores, labels, Steps.f1_max)


def aupro(
    maps: Iterable[npt.ArrayLike], masks: Iterable[npt.ArrayLike], *, fpr_limit: float = FPR_LIMIT
) -> float | None:
    """Area under the per-region overlap up to a false positive rate, divided by that rate.

    At each threshold the overlap of a region is the share of its pixels at or above it; the mean over all regions of
    all pictures is drawn over the share of normal pixels at or above it (Bergmann et al., MVTec-AD, IJCV 2021,
    section 5.1). A region is 8-connected.

    Args:
        maps: pictures (H, W), higher is more anomalous.
        masks: their truth (H, W), nonzero where anomalous.
        fpr_limit: above 0, at most 1.

    Returns:
        0 to 1; None without a region or without a normal pixel.

    >>> truth = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]])
    >>> aupro([truth / 2], [truth])
    1.0
    """
    pool = Pool()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pool.add_map(np.asarray(anomaly_map), np.asarray(mask))
    steps = pool.steps()
    return None if steps is None or steps.overlap is None else steps.aupro(fpr_limit).value


def _figure(scores: npt.ArrayLike, labels: npt.ArrayLike, of: Callable[[Steps], Measure]) -> float | None:
    pool = Pool()
    pool.add(np.asarray(scores), np.asarray(labels))
    steps = pool.steps()
    return None if steps is None else of(steps).value
