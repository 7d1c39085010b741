"""Heat maps on the disk: overlays as PNG or video, raw maps as `.npy`; written by a worker, each file whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, final

import numpy as np
from PIL import Image

from acd_edge.errors import OutputError
from acd_edge.runtime.overlay import draw_overlay
from acd_edge.runtime.preprocess import Pixels
from acd_edge.runtime.quiet import quiet_cv2
from acd_edge.runtime.sinks.lines import Record
from acd_edge.runtime.sinks.worker import Worker
from acd_edge.runtime.sources import Source
from acd_edge.runtime.sources.video import frame_rate

FASTEST_PNG = 1  # zlib level: a quarter of the default's time for a tenth more bytes
PNG, MAP, VIDEO = ".png", ".npy", ".mp4"


def planned_files(sources: Iterable[Source], folder: Path, *, maps: bool) -> list[Path]:
    """Where the outputs of pictures and videos go; live frames get their names when they come.

    Raises:
        OutputError: two inputs map to one name, or an output would take an input's place.
    """
    sources = list(sources)
    folders = {source.output: source.name for source in sources if maps and source.kind == "video"}
    owners: dict[PurePosixPath, str] = {}
    planned: list[Path] = []
    for source in sources:
        if source.kind == "live":
            continue
        names = _names(source, maps)
        for name in names:
            owner = owners.get(name) or next((folders[above] for above in name.parents if above in folders), None)
            if owner is not None:
                raise OutputError(
                    f"{owner} and {source.name} would both be written to {folder / name}; "
                    f"rename one, run them apart, or give the folder above both"
                )
            owners[name] = source.name
        planned += [folder / name for name in names]
    _check_inputs_stay(sources, planned)
    return planned


def _check_inputs_stay(sources: Iterable[Source], planned: Iterable[Path]) -> None:
    """Heat maps replace heat maps, never the pictures they are of, whatever the paths are called."""
    if not (there := {found: path for path in planned if (found := _identity(path))}):
        return
    for source in sources:
        if source.kind != "live" and (found := _identity(Path(source.name))) in there:
            raise OutputError(f"{there[found]} is an input ({source.name}) and stays; choose another --save folder")


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, the same for all names of one file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_folder(folder: Path, planned: Iterable[Path], *, force: bool) -> None:
    """Make the output folder and refuse what cannot be written, before the first frame."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".acd-edge-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
    if not force and (taken := [path for path in planned if os.path.lexists(path)]):
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise OutputError(f"{taken[0]}{more} exists already; add --force to replace, or choose another --save folder")


@final
class FileSink:
    """Writes what `--save` asks for, off the hot path."""

    def __init__(self, folder: Path, *, maps: bool) -> None:
        self._folder = folder
        self._maps = maps
        self._worker = Worker()
        self._video: _VideoFile | None = None

    def write(self, source: Source, record: Record) -> None:
        """Have a frame written; of a live source only what is anomalous."""
        if source.kind == "video":
            self._worker.submit(lambda: self._write_video(source, record))
        elif source.kind == "picture" or record.anomalous:
            place = self._folder / (source.output if source.kind == "picture" else _live_name(record))
            self._worker.submit(lambda: self._write_picture(place, record))

    def finish_source(self) -> None:
        """End the video of the current source, if there is one."""
        self._worker.submit(self._end_video)

    def close(self) -> None:
        """Finish everything and raise what went wrong; twice is fine."""
        try:
            self._worker.close()
        finally:
            if self._worker.ended:  # then this thread owns the video; a second Ctrl-C leaves its part as it is
                self._end_video()

    def _write_picture(self, place: Path, record: Record) -> None:
        overlay = Image.fromarray(overlay_of(record))
        with _whole(_suffixed(place, PNG)) as part:
            overlay.save(part, format="PNG", compress_level=FASTEST_PNG)
        if self._maps:
            _write_map(_suffixed(place, MAP), record)

    def _write_video(self, source: Source, record: Record) -> None:
        place = self._folder / source.output
        if self._video is None:
            self._video = _VideoFile(_suffixed(place, VIDEO), frame_rate(source.name))
        self._video.write(overlay_of(record))
        if self._maps:
            _write_map(place / f"{record.frame.index:06d}{MAP}", record)

    def _end_video(self) -> None:
        if self._video is not None:
            video, self._video = self._video, None
            video.close()


class _VideoFile:
    """One video being written; its name appears when it is complete."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._part = _part_of(path)
        self._writer: Any = None
        self._count = 0

    def write(self, rgb: Pixels) -> None:
        cv2 = quiet_cv2()
        height, width = (side - side % 2 for side in rgb.shape[:2])  # the codec wants even sides
        if self._writer is None:
            _guard(self._path, lambda: self._part.parent.mkdir(parents=True, exist_ok=True))
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(self._part), codec, _representable(self._fps), (width, height))
            if not writer.isOpened():
                raise OutputError(
                    f"{self._path} cannot be written: this OpenCV encodes no MPEG-4 video of {width} x {height} at "
                    f"{self._fps:g} frames a second"
                )
            self._writer = writer
        self._writer.write(cv2.cvtColor(np.ascontiguousarray(rgb[:height, :width]), cv2.COLOR_RGB2BGR))
        self._count += 1

    def close(self) -> None:
        """Finish the file; OpenCV tells nothing of a full disk, so what arrived is counted."""
        if self._writer is None:
            return
        cv2 = quiet_cv2()
        self._writer.release()
        capture = cv2.VideoCapture(str(self._part))
        arrived = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if arrived < self._count:
            self._part.unlink(missing_ok=True)
            raise OutputError(f"{self._path}: {arrived} of {self._count} frames arrived; is the disk full?")
        _guard(self._path, lambda: os.replace(self._part, self._path))


def overlay_of(record: Record) -> Pixels:
    """The overlay of one record."""
    result = record.result
    return draw_overlay(
        record.frame.rgb, result.anomaly_map, score=result.score, threshold=record.threshold, product=result.product
    )


def _names(source: Source, maps: bool) -> list[PurePosixPath]:
    """Names below the output folder; of a video with maps the folder of its maps is one."""
    if source.kind == "video":
        return [_suffixed(source.output, VIDEO), *([source.output] if maps else [])]
    return [_suffixed(source.output, PNG), *([_suffixed(source.output, MAP)] if maps else [])]


def _suffixed(place: Any, suffix: str) -> Any:
    """Append a suffix; `with_suffix` would eat the end of a name with a point in it."""
    return place.with_name(place.name + suffix)


def _part_of(path: Path) -> Path:
    """Where a file is written before it has its name; short, so that a long name does not become too long."""
    return path.with_name(f".part-{path.name[-60:]}")


def _representable(fps: float) -> float:
    """The nearest rate that MPEG-4 can hold, whose clock has at most 65,535 ticks a second.

    >>> [_representable(fps) for fps in (29.97003, 239.7617)]
    [29.97, 239.76]
    """
    return round(fps, 3 if fps < 65 else 2 if fps < 655 else 1)


def _live_name(record: Record) -> str:
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")[:-3]
    return f"{now}Z_{record.frame.index:06d}"


def _write_map(path: Path, record: Record) -> None:
    with _whole(path) as part, part.open("wb") as stream:
        np.save(stream, record.result.anomaly_map, allow_pickle=False)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path beside `path` that takes its name when it is complete; half a file never has it."""
    part = _part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _guard(path: Path, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
