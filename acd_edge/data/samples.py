"""Labelled pictures: published data sets, folders in MVTec's layout and JSONL lists.

Loading lists files and checks that they are there; `read_sample` decodes one. Both name the path of what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from acd_edge.data.folders import PARTS
from acd_edge.data.reading import Bytes, Part, Sample, binary_mask, categories_of, nearest, read_full, read_sample
from acd_edge.data.sets import domain_of, open_data, words_of
from acd_edge.errors import DataError

__all__ = [
    "Bytes",
    "Sample",
    "Split",
    "binary_mask",
    "categories_of",
    "domain_of",
    "load_data",
    "load_jsonl",
    "load_mvtec",
    "nearest",
    "read_full",
    "read_sample",
    "words_of",
]

Split = Literal["train", "test"]

_PARTS: dict[Split, frozenset[Part]] = {"train": PARTS, "test": frozenset({"test"})}


def load_data(
    paths: Sequence[Path],
    root: Path | None = None,
    *,
    split: Split = "test",
    layout: str | None = None,
    bit_depth: int = 16,
) -> list[Sample]:
    """List the samples of data sets, in the order given; `words_of` and `domain_of` know what they show.

    Args:
        paths: folders in a layout that docs/data.md describes, or JSONL lists.
        root: what the paths inside a list are relative to; its own folder unless given.
        split: `test` is what a set tests on; `train` every labelled picture, for sets that are not reported on.
            A list is one split by itself and is read whole.
        layout: the set's name, where folder and categories do not tell it; of all `paths`.
        bit_depth: of their 16-bit pictures, see `Sample`.

    Raises:
        DataError: something is missing, malformed or empty; the message names it.
        ConfigError: `layout` is no set.
    """
    samples = [sample for path in paths for sample in _loaded(Path(path), root, split, layout)]
    if not samples:
        raise DataError("no data set was given; name one with --data")
    return [replace(sample, bit_depth=bit_depth) for sample in samples]


def load_mvtec(folder: Path, *, split: Split = "test") -> list[Sample]:
    """List a folder, such as one in MVTec-AD's layout: `load_data` of one folder.

    MVTec's layout is `<set>/<category>/{train/good, test/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png}`.
    `train` also lists the same layout inside a category's folders called `<name>_split`.

    Raises:
        DataError: the folder has no pictures, or a category with masks lacks one.
    """
    if not Path(folder).is_dir():
        raise DataError(f"{folder} is not a folder")
    return _loaded(Path(folder), None, split, None)


def load_jsonl(file: Path, root: Path | None = None) -> list[Sample]:
    """List the samples of a JSONL file, one object a line: `image_path`, `label` (0 or 1), `class_name`, `mask_path`.

    Args:
        file: the list; empty lines are skipped, keys beyond the four are ignored.
        root: folder that the paths are relative to; the list's own unless given.

    Raises:
        DataError: a line is not such an object or names a file that is not there; the message has the line's number.
    """
    return _loaded(Path(file), root, "test", None)


def _loaded(path: Path, root: Path | None, split: Split, layout: str | None) -> list[Sample]:
    listing = open_data(path, root, layout=layout, parts=_PARTS[split])
    if listing.samples:
        return list(listing.samples)
    if listing.layout == "jsonl":
        raise DataError(f"{path} is empty; it wants one JSON object a line")
    raise DataError(f"{path} holds no picture for {split}ing; acd-edge data check {path} says what it holds")
