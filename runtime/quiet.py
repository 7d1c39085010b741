"""Libraries that write to stderr by themselves: what fails is told by our own error, in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from acd_edge.lazy import require

_STDERR = 2
T = TypeVar("T")


def quiet_cv2() -> Any:
    """OpenCV, whose log is off if this is the process's first import of it."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET of libavutil
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    cv2: Any = require("cv2", "cpu")
    return cv2


def quietly(work: Callable[[], T]) -> T:
    """Do the work and drop what is written to stderr meanwhile, by C libraries such as libtiff and libpng.

    The whole process is quiet meanwhile, so this belongs into the command line's path, not into a function of the API.
    It is no context manager, because Ctrl-C can come between the start of one and its body, and stderr stays dropped.
    """
    try:
        kept = os.dup(_STDERR)
    except OSError:  # there is none
        return work()
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), _STDERR)
        return work()
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
