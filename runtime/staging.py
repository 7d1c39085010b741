"""Writing a folder whole or not at all; bundles and checkpoints are written so."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from acd_edge.errors import OutputError

_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR})
_TRIES = 8  # times that others may be faster


@contextmanager
def staged_folder(path: Path, pack: Callable[[Path, Path], Path] | None = None) -> Iterator[Path]:
    """A fresh folder beside `path` that takes its place when the block ends without an error.

    Args:
        path: what is written, or a link to it; what is there is replaced, and put back when that fails.
        pack: makes one file of the folder, given the folder and a free place; the file takes the place then.

    Raises:
        OutputError: the place cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
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


def check_place(path: Path) -> None:
    """Refuse, before the work, a place where `staged_folder` would fail: by trying. Nothing is left there.

    Args:
        path: what is to be written; folders above it that are not there would be made.

    Raises:
        OutputError: the nearest folder that is there takes nothing, whatever the reason.
    """
    place = Path(os.path.realpath(path))  # where a link leads
    parent = next(each for each in place.parents if os.path.lexists(each))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{place.name}.", dir=parent))
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({parent}: {error.strerror or error}); choose another place"
        ) from error


def check_only_ours(folder: Path, named: Collection[str]) -> None:
    """Refuse to replace a folder in which something else lies; it would go with the folder.

    Args:
        folder: what would be replaced.
        named: the files that are ours in it, by their paths below it.

    Raises:
        OutputError: another file is there.
    """
    inside = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if strange := sorted(inside.difference(named)):
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise OutputError(
            f"{folder} also holds {strange[0]}{more}, which is not ours and would be lost; "
            "move it away, or choose another place with -o"
        )


def _swap(new: Path, path: Path, workplace: Path) -> None:
    """Put `new` in the place of `path`. Where others do the same at the same time, the last one stays, whole."""
    for count in range(_TRIES):
        aside = workplace / f"old{count}"
        try:
            with suppress(FileNotFoundError):
                os.rename(path, aside)
            os.rename(new, path)
        except BaseException as error:  # a signal between the two is no reason to lose what was there
            taken = isinstance(error, OSError) and error.errno in _TAKEN
            if taken and os.path.lexists(path) and count < _TRIES - 1:
                continue  # somebody put another one there since
            if os.path.lexists(aside) and not os.path.lexists(path):
                os.rename(aside, path)
            raise
        return
