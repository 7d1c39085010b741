"""Reading every file of a data set, and naming all that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from acd_edge.config import Domain
from acd_edge.data.folders import Finding
from acd_edge.data.reading import Bytes, Part, Sample, binary_mask, misfit_of, read_pixels
from acd_edge.data.sets import DATA_SETS, Listing, categories_by_name, metrics_of, open_data, words_of
from acd_edge.errors import DataError

Progress = Callable[[int, int], None]
"""Called with files done and files in all."""

_WORKERS = min(8, os.cpu_count() or 1)  # decoding leaves the interpreter's lock
_AHEAD = 32  # pictures handed out before the first is done, so that Ctrl-C is soon


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Pictures of one category in one part."""

    good: int
    defective: int


@dataclass(frozen=True, kw_only=True)
class CategoryRow:
    """What a category holds.

    Attributes:
        words: what the prompts call it.
        parts: `train`, `valid`, `test` -> its pictures.
        metrics: which figures its test pictures allow: `pixel`, `image`.
    """

    words: str
    parts: dict[Part, Counts]
    metrics: list[str]


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        path: what was read.
        data_set, title: name of the set, and what papers call it.
        layout: how it lies.
        domain: which use its pictures belong to.
        categories: by name.
        findings: all that is wrong, in the order of the listing.
    """

    path: Path
    data_set: str
    title: str
    layout: str
    domain: Domain
    categories: dict[str, CategoryRow]
    findings: list[Finding]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        findings = [{"kind": each.kind, "path": str(each.path), "message": each.message} for each in self.findings]
        return {**asdict(self), "path": str(self.path), "findings": findings}


def check_data(
    path: Path, root: Path | None = None, *, layout: str | None = None, progress: Progress = lambda done, total: None
) -> DataReport:
    """Read every picture and mask of a data set.

    Args:
        path, root, layout: as `acd_edge.data.sets.open_data`.
        progress: told after each picture.

    Raises:
        DataError: it cannot be told what the folder is.
        ConfigError: `layout` is no set.
    """
    findings: list[Finding] = []
    listing = open_data(path, root, layout=layout, report=findings.append)
    findings += _unfit(listing.samples, progress)
    findings += _empty_classes(listing, findings)
    if not listing.samples and not findings:
        findings.append(Finding(kind="empty class", path=path, message=f"{path} lists no picture"))
    words = words_of(listing.samples)
    rows = {name: _row(words[name], ours) for name, ours in categories_by_name(listing.samples).items()}
    return DataReport(
        path=path,
        data_set=listing.name,
        title=listing.title,
        layout=listing.layout,
        domain=listing.domain,
        categories=rows,
        findings=findings,
    )


def _row(words: str, samples: Sequence[Sample]) -> CategoryRow:
    parts: dict[Part, Counts] = {}
    for part in dict.fromkeys(sample.part for sample in samples):
        labels = [sample.label for sample in samples if sample.part == part]
        parts[part] = Counts(good=labels.count(0), defective=labels.count(1))
    return CategoryRow(words=words, parts=parts, metrics=metrics_of(_tested(samples)))


def _tested(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.part == "test"]


def _unfit(samples: Sequence[Sample], progress: Progress) -> Iterator[Finding]:
    """What is wrong inside the files, in the order of the samples."""
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        for start in range(0, len(samples), _AHEAD):
            for done, found in enumerate(pool.map(_unfit_pair, samples[start : start + _AHEAD]), start + 1):
                yield from found
                progress(done, len(samples))


def _unfit_pair(sample: Sample) -> list[Finding]:
    read = [_read(path) for path in (sample.image, sample.mask) if path]
    if broken := [each for each in read if isinstance(each, Finding)]:
        return broken
    whole = [each for each in read if not isinstance(each, Finding)]
    if sample.mask and (misfit := misfit_of(sample, whole[0], binary_mask(whole[1]))):
        return [Finding(kind=misfit[0], path=sample.mask, message=misfit[1])]
    return []


def _read(path: Path) -> Bytes | Finding:
    try:
        return read_pixels(path)
    except DataError as error:
        return Finding(kind="unreadable", path=path, message=str(error))


def _empty_classes(listing: Listing, found: Sequence[Finding]) -> Iterator[Finding]:
    """Categories of a known set without a good or without a defective picture to test on, unless its folder is named.

    A set that is not known may have only one of them: then some figures do not apply.
    """
    known = DATA_SETS.get(listing.name)
    if known is None or listing.layout in ("jsonl", "rails"):
        return
    named = [each.path for each in found if each.kind == "empty class"]
    for category, samples in categories_by_name(listing.samples).items():
        if any(category == listing.name or category in path.parts for path in named):
            continue
        labels = {sample.label for sample in _tested(samples)}
        for label, kind in ((0, "good"), (1, "defective")):
            if label not in labels and (label or known.has_good):
                message = f"{listing.path}: {category} of {known.title} has no {kind} picture to test on"
                yield Finding(kind="empty class", path=listing.path, message=message)
