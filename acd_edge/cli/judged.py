"""Labelled pictures that precisions are judged on: for `export --max-drop` and for the ladder of `bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from acd_edge.errors import DataError, UsageError

if TYPE_CHECKING:
    from acd_edge.data.samples import Sample
    from acd_edge.results import Report


def judged_samples(
    data: Sequence[Path], root: Path | None, layout: str | None, calib: Path | None, bit_depth: int
) -> list[Sample]:
    """List the pictures of `--data`, and see that none of them sets INT8's ranges.

    Args:
        data, root, layout, bit_depth: see `load_data`.
        calib: the pictures that INT8 is calibrated on, where it is.

    Raises:
        UsageError: a picture lies in both folders, under whatever name.
        DataError: nothing is labelled there, or nothing on which a pixel AUROC can be measured.
        SourceError: `calib` is no folder of pictures.
    """
    from acd_edge.data.samples import load_data

    samples = load_data(data, root, split="test", layout=layout, bit_depth=bit_depth)
    told = ", ".join(map(str, data))
    if not any(sample.label for sample in samples):
        raise DataError(f"{told} holds no defective picture, so there is no pixel AUROC to judge by")
    if not any(sample.mask for sample in samples):
        raise DataError(f"{told} has no masks, so there is no pixel AUROC to judge by")
    if calib is not None:
        _check_apart(calib, samples)
    return samples


def pixel_auroc_of(report: Report) -> float:
    """The mean over the categories, in 0 to 1.

    Raises:
        DataError: there is none.
    """
    if report.mean.pixel_auroc is None:
        raise DataError("no category of --data shows good and defective pixels, so there is no pixel AUROC to judge by")
    return report.mean.pixel_auroc


def _check_apart(calib: Path, samples: Sequence[Sample]) -> None:
    from acd_edge.calib.pictures import pictures_below
    from acd_edge.data.zero_shot import picture_digest

    known = {picture_digest(path): path for path in pictures_below(calib)}
    for sample in samples:
        if (same := known.get(picture_digest(sample.image))) is not None:
            raise UsageError(
                f"{sample.image} of --data is {same} of --calib too; ranges cannot be judged on pictures that set them"
            )
