"""Libraries that write to stderr by themselves: what fails is told by our own error, in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from acd_edge.lazy import require

_STDERR = 2


def quiet_cv2() -> Any:
    """OpenCV, whose log is off if this is the process's first import of it."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET of libavutil
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    cv2: Any = require("cv2", "cpu")
    return cv2


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop what is written to stderr inside, by C libraries such as libtiff and libpng.

    The whole process is quiet meanwhile, so this belongs into the command line's path, not into a function of the API.
    """
    try:
        kept = os.dup(_STDERR)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
