"""Video files, frame by frame."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from acd_edge.errors import SourceError
from acd_edge.runtime.picture import MAX_PIXELS, check_file, check_size
from acd_edge.runtime.quiet import quiet_cv2
from acd_edge.runtime.sources.base import Frame

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts"})
DEFAULT_FPS = 25.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoSource:
    """A video file; frames of more than `max_pixels` are refused by the size that the container tells."""

    path: Path
    output: PurePosixPath
    max_pixels: int = MAX_PIXELS
    kind: Literal["video"] = "video"

    @property
    def name(self) -> str:
        """See `Source`."""
        return str(self.path)

    def frames(self) -> Iterator[Frame]:
        """See `Source`."""
        check_file(self.path, "a video")
        cv2 = quiet_cv2()
        capture = cv2.VideoCapture(str(self.path))
        try:
            if not capture.isOpened():
                raise SourceError(f"{self.path} is not a video that OpenCV can read here")
            told = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            check_size(self.name, told, self.max_pixels)
            yield from self._read(cv2, capture)
        finally:
            capture.release()

    def _read(self, cv2: Any, capture: Any) -> Iterator[Frame]:
        index = 0
        while (found := capture.read())[0]:
            check_size(self.name, found[1].shape[1::-1], self.max_pixels)  # a stream may change its size on the way
            yield Frame(self.name, index, cv2.cvtColor(found[1], cv2.COLOR_BGR2RGB))
            index += 1
        if not index:
            raise SourceError(f"{self.path} holds no frame that can be read; it is damaged or cut short")
        if index < (told := int(capture.get(cv2.CAP_PROP_FRAME_COUNT))):
            _tell_short(self.path, index, told)


def _tell_short(path: Path, read: int, told: int) -> None:
    """Containers only estimate how many frames they hold: a few less are told, many less are an error."""
    if told - read > max(2, told // 20):
        raise SourceError(f"{path} is cut short or damaged: it ended after {read} of about {told} frames")
    logger.info("%s ended after %d of about %d frames", path, read, told)


def frame_rate(path: str) -> float:
    """Frames a second of a video file, or a usual value where it does not say."""
    cv2 = quiet_cv2()
    capture = cv2.VideoCapture(path)
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate if 0 < rate < 1000 else DEFAULT_FPS
