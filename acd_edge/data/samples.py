"""Labelled pictures: MVTec-layout folders and JSONL lists.

Loading lists files and checks that they fit together; `read_sample` decodes one. Both name the path of what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from acd_edge.errors import DataError
from acd_edge.runtime.picture import read_picture
from acd_edge.runtime.preprocess import resize

Split = Literal["train", "test"]
Bytes = npt.NDArray[np.uint8]

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
GOOD = "good"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled picture.

    Attributes:
        image: the picture's file.
        mask: the file of its defect mask; None for a good picture, and for a defect whose place is not known.
        label: 0 good, 1 defective.
        category: what the picture shows; it names the product, as in `metal_nut`.
    """

    image: Path
    mask: Path | None
    label: int
    category: str

    @property
    def has_mask(self) -> bool:
        """Whether every pixel's label is known."""
        return self.label == 0 or self.mask is not None


def load_data(paths: Sequence[Path], root: Path | None = None, *, split: Split = "test") -> list[Sample]:
    """List the samples of folders and `.jsonl` files, in their order.

    Args:
        paths: MVTec-layout folders or JSONL files.
        root: what the paths inside a JSONL file are relative to; its own folder unless given.
        split: `test` reads what lies under `test/`; `train` every labelled picture (see `load_mvtec`).
            A JSONL file is one split by itself and is read whole.

    Raises:
        DataError: something is missing, malformed or empty; the message names it.
    """
    samples: list[Sample] = []
    for path in map(Path, paths):
        if path.is_dir():
            samples += load_mvtec(path, split=split)
        elif path.is_file():
            samples += load_jsonl(path, root)
        else:
            raise DataError(f"no data set at {path}; give an MVTec-layout folder or a .jsonl file")
    if not samples:
        raise DataError("no data set was given; name one with --data")
    return samples


def load_mvtec(folder: Path, *, split: Split = "test") -> list[Sample]:
    """List a data set in MVTec-AD's layout, or one category of it.

    The layout is `<set>/<category>/{train/good, test/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png}`.

    Args:
        folder: the set or a category.
        split: `test` lists `test/`. `train` lists all that is labelled, for sets that are not reported on: `train/`,
            `test/`, and the same layout inside folders called `<name>_split`.

    Raises:
        DataError: the folder has no pictures, or a category with masks lacks one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    categories = [folder] if _is_category(folder) else [sub for sub in _folders(folder) if _is_category(sub)]
    if not categories:
        raise DataError(f"{folder} holds no category: no folder with train/ or test/ in it or one level below")
    samples = [sample for category in categories for sample in _category_samples(category, split)]
    if not samples:
        raise DataError(f"{folder} holds no picture for {split}ing; looked for {', '.join(sorted(PICTURES))}")
    return samples


def load_jsonl(file: Path, root: Path | None = None) -> list[Sample]:
    """List the samples of a JSONL file, one object a line: `image_path`, `label` (0 or 1), `class_name`, `mask_path`.

    Args:
        file: the list; empty lines are skipped, keys beyond the four are ignored.
        root: folder that the paths are relative to; the list's own unless given.

    Raises:
        DataError: a line is not such an object or names a file that is not there; the message has the line's number.
    """
    file = Path(file)
    base = file.parent if root is None else Path(root)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    samples = [_json_sample(f"{file}:{number}", line, base) for number, line in enumerate(lines, 1) if line.strip()]
    if not samples:
        raise DataError(f"{file} is empty; it wants one JSON object a line")
    return samples


def read_sample(sample: Sample, size: int) -> tuple[Bytes, Bytes]:
    """Decode a sample at the model's size.

    Returns:
        the picture, uint8 RGB (size, size, 3), stretched by the device's own resize rule; its mask, uint8
        (size, size), 1 where defective, by nearest pixel. A defect without a mask file has an empty mask.

    Raises:
        DataError: a file cannot be decoded, the mask is of another size, or it is empty.
    """
    picture, mask = read_full(sample)
    return resize(picture, size), nearest(mask, (size, size))


def read_full(sample: Sample) -> tuple[Bytes, Bytes]:
    """Decode a sample at its own size: uint8 RGB (H, W, 3) and 0/1 mask (H, W). Raises as `read_sample`."""
    picture = _read(sample.image)
    if sample.mask is None:
        return picture, np.zeros(picture.shape[:2], np.uint8)
    mask = binary_mask(_read(sample.mask))
    if mask.shape != picture.shape[:2]:
        (height, width), (rows, columns) = picture.shape[:2], mask.shape
        raise DataError(f"mask {sample.mask} is {columns}x{rows}, its picture {sample.image} {width}x{height}")
    if sample.label == 1 and not mask.any():
        raise DataError(f"mask {sample.mask} is empty, but {sample.image} is labelled defective; move the pair away")
    return picture, mask


def binary_mask(pixels: Bytes) -> Bytes:
    """Turn a mask picture (H, W, 3) into 0 and 1: above 127, or above 0 where no pixel is (masks of class numbers).

    >>> binary_mask(np.array([[[0] * 3, [3] * 3]], np.uint8)).tolist()
    [[0, 1]]
    >>> binary_mask(np.array([[[9] * 3, [255] * 3]], np.uint8)).tolist()
    [[0, 1]]
    """
    brightest = pixels.max(axis=2)
    return np.asarray(brightest > (127 if brightest.max(initial=0) > 127 else 0), np.uint8)


def nearest(mask: Bytes, size_hw: tuple[int, int]) -> Bytes:
    """Resize (H, W) by the nearest pixel centre, as Pillow does.

    >>> nearest(np.array([[0, 1, 2, 3]], np.uint8), (1, 2)).tolist()
    [[1, 3]]
    """
    (rows, columns), (height, width) = size_hw, mask.shape
    down = (np.arange(rows) * 2 + 1) * height // (2 * rows)
    across = (np.arange(columns) * 2 + 1) * width // (2 * columns)
    return np.ascontiguousarray(mask[down[:, None], across])


def _read(path: Path) -> Bytes:
    try:
        return read_picture(path)
    except OSError as error:  # SourceError is one
        raise DataError(f"cannot read {path}: {error}") from error


def _is_category(folder: Path) -> bool:
    return (folder / "test").is_dir() or (folder / "train").is_dir()


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())


def _category_samples(category: Path, split: Split) -> Iterator[Sample]:
    name = category.resolve().name
    if split == "test":
        yield from _part_samples(category, "test", name)
        return
    splits = [sub for sub in _folders(category) if sub.name.endswith("_split")]
    for base in (category, *splits):
        yield from _part_samples(base, "train", name)
        yield from _part_samples(base, "test", name)


def _part_samples(base: Path, part: str, category: str) -> Iterator[Sample]:
    if not (base / part).is_dir():
        return
    truth = base / "ground_truth"
    for kind in _folders(base / part):
        for image in _pictures(kind):
            if kind.name == GOOD:
                yield Sample(image=image, mask=None, label=0, category=category)
            else:
                mask = _mask_of(image, truth / kind.name) if truth.is_dir() else None
                yield Sample(image=image, mask=mask, label=1, category=category)


def _mask_of(image: Path, folder: Path) -> Path:
    mask = folder / f"{image.stem}_mask.png"
    if not mask.is_file():
        raise DataError(f"{image} has no mask {mask}; add it, or remove the whole ground_truth/ to go without masks")
    return mask


def _json_sample(where: str, line: str, base: Path) -> Sample:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object but {type(row).__name__}")
    label = row.get("label")
    if isinstance(label, bool) or label not in (0, 1):
        raise DataError(f"{where}: label must be 0 (good) or 1 (defective), got {label!r}")
    mask = row.get("mask_path") or None
    return Sample(
        image=_listed_file(where, row, "image_path", base),
        mask=_listed_file(where, row, "mask_path", base) if mask and label else None,
        label=int(label),
        category=_text(where, row, "class_name"),
    )


def _listed_file(where: str, row: Mapping[str, Any], key: str, base: Path) -> Path:
    path = base / _text(where, row, key)
    if not path.is_file():
        raise DataError(f"{where}: {key} {path} is not there; paths are relative to {base} (--root changes that)")
    return path


def _text(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {key} must be a text, got {value!r}")
    return value


def categories_of(samples: Iterable[Sample]) -> list[str]:
    """The categories in their order of appearance."""
    return list(dict.fromkeys(sample.category for sample in samples))
