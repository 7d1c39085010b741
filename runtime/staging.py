"""Writing a folder whole or not at all; bundles and checkpoints are written so."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from acd_edge.errors import OutputError

_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR})
_TRIES = 8  # times that others may be faster


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
        _swap(pack(folder, workplace / "packed") if pack else folder, path, workplace)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _swap(new: Path, path: Path, workplace: Path) -> None:
    """Put `new` in the place of `path`. Where others do the same at the same time, the last one stays, whole."""
    for count in range(_TRIES):
        aside = workplace / f"old{count}"
        moved = _moved(path, aside)
        try:
            os.rename(new, path)
        except OSError as error:
            if error.errno in _TAKEN and os.path.lexists(path) and count < _TRIES - 1:
                continue  # somebody put another one there since
            if moved and not os.path.lexists(path):
                os.rename(aside, path)
            raise
        return


def _moved(path: Path, aside: Path) -> bool:
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    return True
