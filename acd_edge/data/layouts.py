"""The ways in which published data sets lie on disk: how a folder is told, and what it holds.

Each layout lists samples in an order that depends on names alone. Where each was read from stands in docs/data.md.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from acd_edge.data.folders import GOOD, Finding, Masks, Report, find, folders, listed, missing
from acd_edge.data.reading import Part, Sample
from acd_edge.errors import DataError


class Lister(Protocol):
    """Lists the samples of some parts of a folder."""

    def __call__(self, root: Path, parts: frozenset[Part], report: Report, /) -> Iterator[Sample]:
        """Samples in a fixed order. A defect whose mask is missing is reported and comes with `mask=None`."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to lie on disk.

    Attributes:
        name: for tables and messages.
        fits: whether a folder lies so; cheap, it opens no picture.
        list: see `Lister`. A layout without categories of its own leaves them empty.
        names_category: whether the folders name the categories.
    """

    name: str
    fits: Callable[[Path], bool]
    list: Lister
    names_category: bool = True


# MVTec-AD, MPDD, BTAD, and whatever else lies like them -------------------------------------------------------------

_WITHOUT = "remove the whole ground_truth/ to go without masks"


def is_category(folder: Path) -> bool:
    """Whether a folder is one category in MVTec's layout."""
    return (folder / "test").is_dir() or (folder / "train").is_dir()


def mvtec_categories(root: Path) -> list[Path]:
    """The categories of a set in MVTec's layout, or the folder itself where it is one."""
    return [root] if is_category(root) else [folder for folder in folders(root) if is_category(folder)]


def _list_mvtec(root: Path, parts: frozenset[Part], report: Report) -> Iterator[Sample]:
    for category in mvtec_categories(root):
        name = category.resolve().name
        for part in ("train", "test"):
            if part in parts:
                yield from _mvtec_part(category, part, part, name, report)
        if "train" in parts:
            for extra in (sub for sub in folders(category) if sub.name.endswith("_split")):
                for part in ("train", "test"):
                    yield from _mvtec_part(extra, part, "train", name, report)


def _mvtec_part(base: Path, folder: str, part: Part, category: str, report: Report) -> Iterator[Sample]:
    if not (base / folder).is_dir():
        return
    truth = base / "ground_truth"
    kinds = folders(base / folder)
    if not kinds:
        report(Finding(kind="empty class", path=base / folder, message=f"{base / folder} holds no class folder"))
    for kind in kinds:
        masks = Masks(truth / kind.name, usual="{stem}_mask.png", advice=_WITHOUT)
        for image in listed(kind, report):
            if kind.name in GOOD:
                yield Sample(image=image, mask=None, label=0, category=category, part=part)
            else:
                mask = masks.of(image, report) if truth.is_dir() else None
                yield Sample(image=image, mask=mask, label=1, category=category, part=part)


# VisA -----------------------------------------------------------------------------------------------------------------

VISA_SPLIT = Path("split_csv") / "1cls.csv"
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_VISA_LABELS = {"normal": 0, "anomaly": 1}


def _visa_root(folder: Path) -> Path:
    """The folder with the split file, also from within: one of its objects is a data set too."""
    return folder.resolve().parent if (folder / "Data" / "Images").is_dir() else folder


def _is_visa(folder: Path) -> bool:
    return (_visa_root(folder) / VISA_SPLIT).is_file()


def _list_visa(folder: Path, parts: frozenset[Part], report: Report) -> Iterator[Sample]:
    root = _visa_root(folder)
    only = None if root == folder else folder.resolve().name
    file = root / VISA_SPLIT
    seen: set[str] = set()
    for where, row in _visa_rows(file):
        part: Part | None = {"train": "train", "test": "test"}.get(row["split"])  # type: ignore[assignment]
        label = _VISA_LABELS.get(row["label"])
        if part is None or label is None or not row["object"]:
            message = f"{where}: want an object, train or test, normal or anomaly; got {', '.join(row.values())}"
            report(Finding(kind="bad list", path=file, message=message))
            continue
        if only not in (None, row["object"]):
            continue
        seen.add(row["object"])
        if part in parts:
            yield from _visa_sample(root, row, part, label, report)
    if not seen:
        message = f"{file} lists no picture" + (f" of {only}" if only else "")
        report(Finding(kind="empty class", path=file, message=message))


def _visa_sample(root: Path, row: Mapping[str, str], part: Part, label: int, report: Report) -> Iterator[Sample]:
    image = root / row["image"]
    if not image.is_file():
        message = f"{root / VISA_SPLIT} lists {image}, which is not there; unpack the data set again"
        report(Finding(kind="missing picture", path=image, message=message))
        return
    mask = root / row["mask"] if label else None
    if label and (not row["mask"] or not (root / row["mask"]).is_file()):
        mask = root / (row["mask"] or row["image"].replace("Images", "Masks"))
        report(missing(image, mask))
        mask = None
    yield Sample(image=image, mask=mask, label=label, category=row["object"], part=part)


def _visa_rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows with their place in the file."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if missing := [name for name in _VISA_COLUMNS if name not in (reader.fieldnames or ())]:
                raise DataError(f"{file} has no column {', '.join(missing)}; want {','.join(_VISA_COLUMNS)}")
            for row in reader:
                yield f"{file}:{reader.line_num}", {name: row[name] or "" for name in _VISA_COLUMNS}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}") from error


# BMAD -----------------------------------------------------------------------------------------------------------------

_SPELLINGS: Mapping[Part, tuple[str, ...]] = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
_BMAD_KINDS = {"good": 0, "Ungood": 1}
_BMAD_PLACES = (  # of the pictures, and of the masks of the bad ones; the releases differ
    ("{part}/{kind}/img", "{part}/{kind}/label"),  # as its README has it: the brain set
    ("{part}/{kind}/img", "{part}/{kind}/anomaly_mask"),  # the repackaging of MVFA-AD, which the authors use
    ("{part}/img/{kind}", "{part}/label/{kind}"),  # the liver set
    ("{part}/{part}/{kind}", "{part}/{part}_label/{kind}"),  # the retina set, RESC
)
_BMAD_TRAIN = ("{part}/{kind}/img", "{part}/{part}/{kind}", "{part}/{kind}")


def _is_bmad(root: Path) -> bool:
    return any(_bmad_folder(root, place, "test", kind) for place, _ in _BMAD_PLACES for kind in _BMAD_KINDS)


def _list_bmad(root: Path, parts: frozenset[Part], report: Report) -> Iterator[Sample]:
    for part in ("train", "valid", "test"):
        if part in parts:
            yield from _bmad_train(root, report) if part == "train" else _bmad_part(root, part, report)


def _bmad_train(root: Path, report: Report) -> Iterator[Sample]:
    found = next((place for each in _BMAD_TRAIN if (place := _bmad_folder(root, each, "train", "good"))), None)
    for image in listed(found, report) if found else ():
        yield Sample(image=image, mask=None, label=0, category="", part="train")


def _bmad_part(root: Path, part: Part, report: Report) -> Iterator[Sample]:
    for kind, label in _BMAD_KINDS.items():
        found = [(place, truth) for place, truth in _BMAD_PLACES if _bmad_folder(root, place, part, kind)]
        if not found:
            if part == "test":
                message = f"{root} has no folder of {kind} pictures under test/"
                report(Finding(kind="empty class", path=root, message=message))
            continue
        place, truth = next((pair for pair in found if _bmad_folder(root, pair[1], part, kind)), found[0])
        images = listed(_bmad_there(root, place, part, kind), report)
        masks = Masks(_bmad_there(root, truth, part, kind)) if label else None
        for image in images:
            mask = masks.of(image, report) if masks else None
            yield Sample(image=image, mask=mask, label=label, category="", part=part)


def _bmad_folder(root: Path, place: str, part: Part, kind: str) -> Path | None:
    spelled = (find(root, *place.format(part=name, kind=kind).split("/")) for name in _SPELLINGS[part])
    return next((folder for folder in spelled if folder), None)


def _bmad_there(root: Path, place: str, part: Part, kind: str) -> Path:
    """The folder, or where it should be."""
    return _bmad_folder(root, place, part, kind) or root / place.format(part=part, kind=kind)


# The polyp sets: pictures and masks side by side, all defective ---------------------------------------------------

_PAIRED = (("images", "masks"), ("Original", "Ground Truth"))


def _paired(root: Path) -> tuple[Path, Path] | None:
    for names in _PAIRED:
        left, right = (find(root, name) for name in names)
        if left and right:
            return left, right
    return None


def _is_paired(root: Path) -> bool:
    return _paired(root) is not None


def _list_paired(root: Path, parts: frozenset[Part], report: Report) -> Iterator[Sample]:
    found = _paired(root)
    if found and "test" in parts:
        yield from _pairs(*found, "", report)


def _pairs(images: Path, truth: Path, category: str, report: Report) -> Iterator[Sample]:
    masks = Masks(truth)
    for image in listed(images, report):
        yield Sample(image=image, mask=masks.of(image, report), label=1, category=category)


# RSDDs ----------------------------------------------------------------------------------------------------------------

_RAILS = ("Rail surface images", "GroundTruth")


def _rails(root: Path) -> list[Path]:
    """The folders of the two types of rail, or the folder itself where it is one."""
    return [folder for folder in [root, *folders(root)] if all(find(folder, name) for name in _RAILS)]


def _list_rails(root: Path, parts: frozenset[Part], report: Report) -> Iterator[Sample]:
    for folder in _rails(root) if "test" in parts else ():
        images, truth = (find(folder, name) for name in _RAILS)
        category = folder.resolve().name.split()[0].casefold().replace("-", "_")  # Type-I RSDDs dataset
        if images and truth:
            yield from _pairs(images, truth, category, report)


_SIDES = {"neg": 0, "pos": 1}


def _is_posneg(root: Path) -> bool:
    return all(find(root, side) for side in _SIDES)


def _list_posneg(root: Path, parts: frozenset[Part], report: Report) -> Iterator[Sample]:
    """Crops of rails: `pos` and `neg`, each with `<stem>.jpg` and its mask `<stem>.png`."""
    for side, label in _SIDES.items() if "test" in parts else ():
        folder = find(root, side)
        found = listed(folder, report) if folder else []
        masks = {path.stem: path for path in found if path.suffix.lower() == ".png"}
        for image in (path for path in found if path.suffix.lower() != ".png"):
            mask = masks.get(image.stem) if label else None
            if label and not mask:
                report(missing(image, image.with_suffix(".png")))
            yield Sample(image=image, mask=mask, label=label, category="")


LAYOUTS: tuple[Layout, ...] = (  # the first that fits; MVTec's last, since other folders have a test/ too
    Layout(name="visa", fits=_is_visa, list=_list_visa),
    Layout(name="bmad", fits=_is_bmad, list=_list_bmad, names_category=False),
    Layout(name="rails", fits=lambda root: bool(_rails(root)), list=_list_rails),
    Layout(name="posneg", fits=_is_posneg, list=_list_posneg, names_category=False),
    Layout(name="pairs", fits=_is_paired, list=_list_paired, names_category=False),
    Layout(name="mvtec", fits=lambda root: bool(mvtec_categories(root)), list=_list_mvtec),
)
