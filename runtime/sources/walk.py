"""Files below a folder and behind a glob. Links to folders are followed, and no folder is read twice."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, final

from acd_edge.errors import SourceError

_ANY_DEPTH = "**"
_Identity = tuple[int, int]  # device and inode: the same for two names of one folder


class _Entry(NamedTuple):
    path: Path
    is_folder: bool
    is_link: bool


@final
class Walk:
    """One search below a folder, which no circle of links makes endless.

    A folder is read once: under its own name, or under a link's where it lies elsewhere. A link back to the root, or
    to a folder that holds it, leads nowhere. Hidden files and folders are left out.
    """

    def __init__(self, root: Path, output: Path | None = None) -> None:
        """Search below `root`, the folder that names are relative to; `output` is no input unless it holds the root."""
        self.root = root
        self._failed: dict[Path, SourceError] = {}
        place = root.resolve()
        self._upwards = {_identity(folder) for folder in (place, *place.parents)}
        written = None if output is None else output.resolve()
        self._skip = None if written in (place, *place.parents) else written

    @property
    def errors(self) -> list[SourceError]:
        """Folders that could not be read, so far."""
        return list(self._failed.values())

    def files(self) -> Iterator[Path]:
        """Every file below the root."""
        return self._files([_Entry(self.root, is_folder=True, is_link=False)])

    def matches(self, pattern: str) -> Iterator[Path]:
        """Files that a glob names, and those below the folders that it names; `**` is any depth.

        Args:
            pattern: its `glob_root` is the root.
        """
        folders = []
        for path in self._expanded(self.root, Path(pattern).parts[len(self.root.parts) :]):
            if path.is_dir():
                folders.append(_Entry(path, is_folder=True, is_link=path != self.root and path.is_symlink()))
            elif not self._is_output(path):
                yield path
        yield from self._files(folders)

    def _files(self, starts: Iterable[_Entry]) -> Iterator[Path]:
        for folder in self._folders(starts):
            yield from (entry.path for entry in self._listed(folder) if not entry.is_folder)

    def _folders(self, starts: Iterable[_Entry]) -> Iterator[Path]:
        """Each folder and all below it, each once; links wait until everything else was seen."""
        seen: set[_Identity | None] = {None}
        waiting, links = _parted(starts)
        while waiting or links:
            entry = waiting.pop() if waiting else links.pop()
            identity = _identity(entry.path)
            if identity in seen or (entry.is_link and identity in self._upwards) or self._is_output(entry.path):
                continue
            seen.add(identity)
            yield entry.path
            inner, linked = _parted(self._listed(entry.path))
            waiting += inner
            links = sorted([*links, *linked], reverse=True)

    def _expanded(self, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
        """What the parts of a pattern name below a folder."""
        if not parts:
            yield folder
            return
        part, rest = parts[0], parts[1:]
        if part == _ANY_DEPTH:
            while rest and rest[0] == _ANY_DEPTH:
                rest = rest[1:]
            start = _Entry(folder, is_folder=True, is_link=False)
            for inner in self._folders([start]) if rest else [folder]:
                yield from self._expanded(inner, rest)
        elif glob.has_magic(part):
            fits = re.compile(fnmatch.translate(part)).match
            for entry in self._listed(folder, hidden=part.startswith(".")):
                if fits(entry.path.name):
                    yield from self._expanded(entry.path, rest)
        elif os.path.lexists(folder / part):
            yield from self._expanded(folder / part, rest)

    def _listed(self, folder: Path, *, hidden: bool = False) -> list[_Entry]:
        """What a folder holds, by name; nothing where it is none or may not be read."""
        try:
            with os.scandir(folder) as found:
                return sorted(_entry(each) for each in found if hidden or not each.name.startswith("."))
        except (NotADirectoryError, FileNotFoundError):
            return []
        except OSError as error:
            self._failed[folder] = SourceError(f"{folder} cannot be read: {error.strerror or error}")
            return []

    def _is_output(self, path: Path) -> bool:
        return self._skip is not None and path.resolve().is_relative_to(self._skip)


def glob_root(pattern: str) -> Path:
    """The folder before the first wildcard.

    >>> glob_root("shots/day 1/*/a[0-9].png").as_posix()
    'shots/day 1'
    """
    plain = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)


def _parted(entries: Iterable[_Entry]) -> tuple[list[_Entry], list[_Entry]]:
    """The folders among them, the last name first: those that lie there, and links."""
    folders = sorted((entry for entry in entries if entry.is_folder), reverse=True)
    return [entry for entry in folders if not entry.is_link], [entry for entry in folders if entry.is_link]


def _entry(found: os.DirEntry[str]) -> _Entry:
    is_folder = False
    with suppress(OSError):  # a link to itself, or into a folder that may not be read
        is_folder = found.is_dir()
    return _Entry(Path(found.path), is_folder, found.is_symlink())


def _identity(folder: Path) -> _Identity | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
