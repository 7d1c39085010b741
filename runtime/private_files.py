"""Files that only their owner writes: an engine's plan is code that runs here, so nobody else may touch it."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from acd_edge.errors import EngineError, OutputError

_ROOT = 0
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FOLDER, _FILE = 0o700, 0o600


def private_folder(path: Path, below: Path) -> Path:
    """Make `path` and what lies between it and `below`, `below` itself included, open to the owner alone.

    Raises:
        EngineError: a folder that is there already belongs to another, or others may write into it.
        OutputError: the place cannot be written.
    """
    try:
        below.parent.mkdir(parents=True, exist_ok=True)
        for folder in _between(path, below):
            with suppress(FileExistsError):
                folder.mkdir(mode=_FOLDER)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; set ACD_EDGE_CACHE") from error
    check_private(path, below)
    return path


def check_private(path: Path, below: Path) -> None:
    """Refuse a path that others can change: it, or a folder above it up to `below`.

    Raises:
        EngineError: one of them is a link, belongs to neither this user nor root, or others may write it.
        FileNotFoundError: it is not there.
    """
    for each in _between(path, below):
        try:
            found = os.lstat(each)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise EngineError(f"{each} cannot be read: {error.strerror or error}; set ACD_EDGE_CACHE") from error
        _check(each, found, link_is_fine=each == below)


def read_private(path: Path, below: Path) -> bytes:
    """The content of a file that nobody else can have changed; it is checked on the open file, not by its name.

    Raises:
        EngineError: as `check_private`, or the file cannot be read.
        FileNotFoundError: it is not there.
    """
    check_private(path.parent, below)
    try:
        with open(path, "rb", opener=_opened) as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise EngineError(f"{path} is no plain file; remove it")
            _check(path, found)
            return stream.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}") from error


def write_private(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all, readable by the owner alone, and on the disk when this returns.

    Raises:
        OutputError: the place cannot be written, or the disk is full; what was there stays.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # a device may lose its power at any time
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; nothing was changed") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _opened(path: str, flags: int) -> int:
    """Never through a link, and without waiting for whoever writes into a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _between(path: Path, below: Path) -> list[Path]:
    """`below`, and every folder from there down to `path`."""
    inner = [each for each in (path, *path.parents) if each != below and each.is_relative_to(below)]
    return [below, *reversed(inner)]


def _check(path: Path, found: os.stat_result, *, link_is_fine: bool = False) -> None:
    if stat.S_ISLNK(found.st_mode):
        if not link_is_fine:
            raise EngineError(f"{path} is a link; an engine is code, so the cache holds plain files only. Remove it")
        found = os.stat(path)
    if found.st_uid not in (os.geteuid(), _ROOT):
        raise EngineError(
            f"{path} belongs to user {found.st_uid}, and an engine is code: this user does not run it; "
            "set ACD_EDGE_CACHE to a folder of your own"
        )
    if found.st_mode & _OTHERS_WRITE:
        raise EngineError(f"others may write {path}, and an engine is code; run: chmod go-w {path}")
