"""What every layout of a data set on disk needs: folders, pictures, masks, and findings of what is wrong.

What is wrong with a folder goes to a callback, so that a loader can stop at the first finding and `data check` can
gather all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from acd_edge.data.reading import Part
from acd_edge.errors import DataError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
GOOD = frozenset({"good", "ok"})
"""Names of the folders of good pictures; BTAD's is `ok`."""
PARTS: frozenset[Part] = frozenset(get_args(Part))

Kind = Literal[
    "missing mask", "missing picture", "bad list", "size mismatch", "unreadable", "empty mask", "empty class"
]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with a data set: what kind, at which file or folder, and a sentence that names it."""

    kind: Kind
    path: Path
    message: str


Report = Callable[[Finding], None]


def refuse(finding: Finding) -> None:
    """Stop at what makes a set unusable; an empty folder does not.

    Raises:
        DataError: the finding's sentence.
    """
    if finding.kind != "empty class":
        raise DataError(finding.message)


def folders(folder: Path) -> list[Path]:
    """The folders in a folder by name, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def pictures(folder: Path) -> list[Path]:
    """The picture files in a folder by name, hidden ones left out."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def find(folder: Path, *steps: str) -> Path | None:
    """A folder below another one, whatever the case of its name; None where there is none."""
    for step in steps:
        named = [path for path in folders(folder) if path.name.casefold() == step.casefold()]
        if not named:
            return None
        folder = next((path for path in named if path.name == step), named[0])
    return folder


class Masks:
    """The mask files of one folder, by the stem of their picture: `<stem>_mask.<any>` or `<stem>.<any>`.

    Args:
        folder: where they lie; it may be missing.
        usual: the name of a mask where the folder has none to go by.
        advice: what else to do about a missing one.
    """

    def __init__(self, folder: Path, *, usual: str = "{stem}.png", advice: str = "move the picture away") -> None:
        found = pictures(folder) if folder.is_dir() else []
        self._folder, self._advice = folder, advice
        self._usual = _named_like(found[0]) if found else usual
        self._files = {path.stem: path for path in reversed(found)}

    def of(self, image: Path, report: Report) -> Path | None:
        """The picture's mask; a missing one is reported."""
        found = self._files.get(f"{image.stem}_mask") or self._files.get(image.stem)
        if found is None:
            report(missing(image, self._folder / self._usual.format(stem=image.stem), self._advice))
        return found


def _named_like(mask: Path) -> str:
    return f"{{stem}}_mask{mask.suffix}" if mask.stem.endswith("_mask") else f"{{stem}}{mask.suffix}"


def missing(image: Path, mask: Path, advice: str = "move the picture away") -> Finding:
    """A picture's mask that is not there, and what else to do about it."""
    return Finding(kind="missing mask", path=mask, message=f"{image} has no mask {mask}; add it, or {advice}")


def listed(folder: Path, report: Report) -> list[Path]:
    """The pictures of a folder that should have some."""
    found = pictures(folder)
    if not found:
        report(Finding(kind="empty class", path=folder, message=f"{folder} holds no picture"))
    return found
