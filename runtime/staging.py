"""Writing a folder whole or not at all; bundles and checkpoints are written so."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from acd_edge.errors import OutputError


@contextmanager
def staged_folder(path: Path, pack: Callable[[Path, Path], Path] | None = None) -> Iterator[Path]:
    """A fresh folder beside `path` that takes its place when the block ends without an error.

    Args:
        path: what is written; what is there is replaced, and put back when that fails.
        pack: makes one file of the folder, given the folder and a free place; the file takes the place then.

    Raises:
        OutputError: the place cannot be written.
    """
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        folder = workplace / "new"
        folder.mkdir()
        yield folder
        _swap(pack(folder, workplace / "packed") if pack else folder, path, workplace / "old")
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _swap(new: Path, path: Path, aside: Path) -> None:
    if not os.path.lexists(path):
        os.rename(new, path)
        return
    os.rename(path, aside)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(aside, path)
        raise
