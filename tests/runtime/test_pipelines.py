"""Pipelines of GStreamer as a source, also where OpenCV has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from acd_edge.cli import cli
from acd_edge.errors import SourceError
from acd_edge.runtime.sources.live import LiveSource, open_capture

PIPELINE = "gst:nvarguscamerasrc sensor-id=0 ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! appsink drop=true"


class GreyCapture:
    """A pipeline that gives GRAY8, with or without a channel."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def read(self) -> tuple[bool, Any]:
        return True, np.full(self.shape, 7, np.uint8)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
def test_a_grey_pipeline_gives_colour(shape: tuple[int, ...]) -> None:
    frame = next(LiveSource(PIPELINE, opener=lambda *_: GreyCapture(shape)).frames())
    np.testing.assert_array_equal(frame.rgb, np.full((4, 6, 3), 7, np.uint8), strict=True)
    assert frame.source == "gst:nvarguscamerasrc"


class Registry:
    """`cv2` of a build with GStreamer, or without."""

    CAP_GSTREAMER, CAP_PROP_BUFFERSIZE, __version__, __file__ = 1800, 38, "4.8.0", "/usr/lib/cv2"

    def __init__(self, *, there: bool, opens: bool) -> None:
        self.there, self.opens, self.opened = there, opens, list[tuple[object, ...]]()
        self.videoio_registry = self

    def hasBackend(self, number: int) -> bool:
        return number == self.CAP_GSTREAMER and self.there

    def VideoCapture(self, *what: object) -> Any:
        self.opened.append(what)
        return self

    def isOpened(self) -> bool:
        return self.opens

    def set(self, *_: object) -> None:
        pass


def test_a_pipeline_goes_to_gstreamer_without_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Registry(there=True, opens=True)
    monkeypatch.setattr("acd_edge.runtime.sources.live.quiet_cv2", lambda: fake)
    open_capture(PIPELINE, 1.0)
    assert fake.opened == [(PIPELINE.removeprefix("gst:"), fake.CAP_GSTREAMER)]


@pytest.mark.parametrize(
    ("pipeline", "there", "opens", "words"),
    [
        (PIPELINE, False, True, "this OpenCV (4.8.0, /usr/lib/cv2) was built without GStreamer"),
        (PIPELINE, True, False, "gst:nvarguscamerasrc cannot be opened; try it alone: gst-launch-1.0"),
        ("gst:rtspsrc location=rtsp://me:secret@cam ! fakesink", True, True, "gst:rtspsrc: the pipeline does not end"),
        ("gst:", True, True, "does not end in appsink"),
    ],
)
def test_a_pipeline_that_cannot_work_is_one_line(
    pipeline: str, there: bool, opens: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acd_edge.runtime.sources.live.quiet_cv2", lambda: Registry(there=there, opens=opens))
    with pytest.raises(SourceError) as caught:
        open_capture(pipeline, 1.0)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_opencv_that_is_here_answers_as_the_registry_says(bundle: Path) -> None:
    """The whole way: pip's OpenCV lists GStreamer among its backends and has it not."""
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    done = CliRunner().invoke(cli, ["run", "--source", PIPELINE, "--bundle", str(bundle), "--timeout", "20"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "was built without GStreamer" in done.stderr
    assert done.stderr.count("\n") == 1
