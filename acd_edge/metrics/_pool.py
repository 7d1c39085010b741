"""Scores and labels gathered piece by piece, in memory that does not grow without end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from acd_edge.errors import DataError, ShapeError
from acd_edge.lazy import require
from acd_edge.metrics._bins import BINS, bin_keys, is_mixed
from acd_edge.metrics._steps import Counts, Doubles, Steps

Floats = npt.NDArray[np.floating[Any]]
Areas = npt.NDArray[np.int32]

EXACT_VALUES = 2**25
"""Values that a `Pool` keeps, 4 bytes each and 4 more for an anomalous pixel; 125 maps at 518 x 518."""
_AT_ONCE = 2**22  # values that are turned into bins in one go


class Pool:
    """Scores with their labels, pooled.

    Values are kept as they come up to `limit`. Beyond it they are counted in `BINS` bins, where two values of one bin
    are a tie; each `Measure` then says how far it can be off.

    Attributes:
        regions: connected anomalous regions so far.
    """

    def __init__(self, limit: int = EXACT_VALUES) -> None:
        self._limit = limit
        self._kept = _Kept()
        self._binned: _Binned | None = None
        self._steps: Steps | None = None
        self.regions = 0

    @property
    def is_exact(self) -> bool:
        """Whether every value is still known."""
        return self._binned is None

    def add(self, scores: Floats, labels: npt.NDArray[Any]) -> None:
        """Add scores and their labels (nonzero: anomalous), of one shape.

        Raises:
            ShapeError: the shapes differ.
            DataError: a score is not a finite number; or is outside 0 to 1, where there are too many to keep.
        """
        self._add(scores, labels.astype(bool), None)

    def add_map(self, anomaly_map: Floats, mask: npt.NDArray[Any]) -> None:
        """Add the pixels of a picture and the regions of its mask (nonzero: anomalous), both (H, W); as `add`."""
        if anomaly_map.ndim != 2:
            raise ShapeError(f"a map is (H, W), got {anomaly_map.shape}")
        inside = mask.astype(bool)
        count, areas = region_areas(inside)
        self._add(anomaly_map, inside, areas)
        self.regions += count

    def steps(self) -> Steps | None:
        """What the figures are made of; None while there is no anomalous, or no normal, value."""
        if self._steps is None:
            source = self._kept if self._binned is None else self._binned
            self._steps = source.steps(self.regions)
        return self._steps

    def _add(self, scores: Floats, anomalous: npt.NDArray[np.bool_], areas: Areas | None) -> None:
        if scores.shape != anomalous.shape:
            raise ShapeError(f"scores {scores.shape} and labels {anomalous.shape} differ in shape")
        if not np.isfinite(scores).all():
            raise DataError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not finite numbers")
        assert areas is not None or not self.regions, "a pool of maps takes no bare values"
        self._steps = None
        sides = scores[~anomalous], scores[anomalous]
        if self._binned is not None:
            self._binned.add(*sides, areas)
            return
        self._kept.add(*sides, areas)
        if self._kept.count > self._limit:
            binned = _Binned()
            for piece in self._kept.taken():
                binned.add(*piece)
            self._binned = binned


def region_areas(mask: npt.NDArray[np.bool_]) -> tuple[int, Areas]:
    """Count the 8-connected regions of a mask (H, W), and tell the area in pixels of the region of each pixel inside.

    Returns:
        the count; areas (P,), int32, in the order of `mask[mask]`.
    """
    if not mask.any():
        return 0, np.zeros(0, np.int32)
    cv2 = require("cv2", "cpu")
    count, labels = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    inside = labels[mask]
    return count - 1, np.bincount(inside, minlength=count).astype(np.int32)[inside]


@dataclass
class _Kept:
    """Every value, as it came."""

    normal: list[Floats] = field(default_factory=list)
    anomalous: list[Floats] = field(default_factory=list)
    areas: list[Areas | None] = field(default_factory=list)
    count: int = 0

    def add(self, normal: Floats, anomalous: Floats, areas: Areas | None) -> None:
        self.normal.append(normal)
        self.anomalous.append(anomalous)
        self.areas.append(areas)
        self.count += normal.size + anomalous.size

    def taken(self) -> Iterator[tuple[Floats, Floats, Areas | None]]:
        """Give the pieces away, one after the other."""
        nothing = np.zeros(0, np.float32)
        while self.normal:
            yield self.normal.pop(), nothing, None
        while self.anomalous:
            yield nothing, self.anomalous.pop(), self.areas.pop()

    def steps(self, regions: int) -> Steps | None:
        if not any(map(np.size, self.normal)) or not any(map(np.size, self.anomalous)):
            return None
        self.normal = [_sorted(self.normal)]
        (normal,) = self.normal
        values, here, overlap = self._distinct(regions)
        above = normal.size - np.searchsorted(normal, values, side="right")
        level = normal.size - np.searchsorted(normal, values, side="left") - above
        return Steps(here=here, above=above, level=level, normal=normal.size, overlap=overlap)

    def _distinct(self, regions: int) -> tuple[Floats, Counts, Doubles | None]:
        """The distinct anomalous values from the highest, how many have each, and what those overlap."""
        values = np.concatenate(self.anomalous)
        if not regions:
            values, here = np.unique(values, return_counts=True)
            return values[::-1], here[::-1].astype(np.int64), None
        order = np.argsort(values)[::-1]
        values = values[order]
        first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
        weights = 1 / np.concatenate([piece for piece in self.areas if piece is not None])[order]
        overlap = np.add.reduceat(weights, first) / regions
        return values[first], np.diff(np.append(first, values.size)), overlap


class _Binned:
    """How many values each bin holds, and what they overlap."""

    def __init__(self) -> None:
        self._normal = np.zeros(BINS, np.int64)
        self._anomalous = np.zeros(BINS, np.int64)
        self._overlap = np.zeros(BINS, np.float64)

    def add(self, normal: Floats, anomalous: Floats, areas: Areas | None) -> None:
        for part in _parts(normal):
            _count(self._normal, bin_keys(part))
        for place, part in enumerate(_parts(anomalous)):
            keys = bin_keys(part)
            _count(self._anomalous, keys)
            if areas is not None:
                _count(self._overlap, keys, 1 / areas[place * _AT_ONCE :][: keys.size])

    def steps(self, regions: int) -> Steps | None:
        used = np.flatnonzero(self._anomalous)[::-1]
        normal = int(self._normal.sum())
        if not used.size or not normal:
            return None
        above = normal - np.cumsum(self._normal)  # above each bin
        return Steps(
            here=self._anomalous[used],
            above=above[used],
            level=self._normal[used],
            normal=normal,
            overlap=self._overlap[used] / regions if regions else None,
            mixed=is_mixed(used),
        )


def _parts(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, values.size, _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def _count(totals: npt.NDArray[Any], keys: npt.NDArray[np.int32], weights: Doubles | None = None) -> None:
    """Add to the bins between the least and the largest key, which is where a picture's values are."""
    low = int(keys.min())
    found = np.bincount(keys - low, weights)
    totals[low : low + found.size] += found


def _sorted(pieces: list[Floats]) -> Floats:
    joined = np.concatenate(pieces)
    pieces.clear()  # the pieces go before the sort
    joined.sort()
    return joined
