"""Choosing what a page shows: the pictures whose maps are best and worst, and the good ones that look worst."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from acd_edge.data.samples import Sample
from acd_edge.metrics import average_precision
from acd_edge.results import Exhibit

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_Ranked = list[tuple[float, Exhibit]]


class Showcase:
    """Keeps `count` pictures of each kind while they come by, and forgets the others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._by_ap = False
        self._best: _Ranked = []
        self._worst: _Ranked = []
        self._alarms: _Ranked = []

    def offer(self, sample: Sample, anomaly_map: Floats, score: float, mask: Bytes | None) -> None:
        """Consider a picture; its map and mask at the model's size (S, S), no mask where the defect's place is unknown.

        Defective pictures rank by the AP of their own pixels; by their score where no picture has a mask.
        """
        ap = average_precision(anomaly_map, mask) if sample.label and mask is not None else None
        if sample.label and ap is None and (mask is not None or self._by_ap):
            return  # nothing is left of its mask, or nothing but its mask; or it has none and the others do
        if ap is not None and not self._by_ap:
            self._best, self._worst, self._by_ap = [], [], True
        levels = np.asarray(np.clip(anomaly_map, 0, 1) * 255 + 0.5, np.uint8)
        exhibit = Exhibit(sample=sample, score=score, ap=ap, levels=levels)
        if not sample.label:
            self._alarms = self._kept(self._alarms, (score, exhibit), highest=True)
            return
        ranked = (score if ap is None else ap, exhibit)
        self._best = self._kept(self._best, ranked, highest=True)
        self._worst = self._kept(self._worst, ranked, highest=False)

    def extremes(self) -> tuple[tuple[Exhibit, ...], tuple[Exhibit, ...]]:
        """The best and the worst defective pictures, none of them in both."""
        best = [exhibit for _, exhibit in self._best]
        worst = [exhibit for _, exhibit in self._worst]
        if shared := [exhibit for exhibit in worst if any(exhibit is other for other in best)]:
            shared_best = shared[len(shared) // 2 :]  # worst ascend, so the upper half stays with the best
            worst = [exhibit for exhibit in worst if not _among(exhibit, shared_best)]
            best = [exhibit for exhibit in best if not _among(exhibit, worst)]
        return tuple(best), tuple(worst)

    def alarms(self) -> tuple[Exhibit, ...]:
        """The good pictures with the highest scores."""
        return tuple(exhibit for _, exhibit in self._alarms)

    def _kept(self, ranked: _Ranked, new: tuple[float, Exhibit], *, highest: bool) -> _Ranked:
        return sorted([*ranked, new], key=itemgetter(0), reverse=highest)[: self._count]


def _among(exhibit: Exhibit, others: Iterable[Exhibit]) -> bool:
    return any(exhibit is other for other in others)
