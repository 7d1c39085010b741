"""Which files a folder and a glob name, through links too, and how large a frame may be."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from acd_edge.errors import SourceError
from acd_edge.runtime.sources import LiveSource, ReadOptions, open_sources
from acd_edge.runtime.sources.video import VideoSource


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders with links up, in circles, sideways, out, and to nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/sub/b.png", "other/c.png", "sibling/d.png", "in/.hidden/e.png", "in/.f.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for link, target in {
        "up": "..",
        "root": "/",
        "self": ".",
        "self2": ".",
        "0sub": "sub",
        "sub/back": "..",
        "out": "../other",
        "out2": "../other",
        "none": "nowhere",
        "loop": "loop",
    }.items():
        Path("in", link).symlink_to(target)
    return tmp_path


def named(*texts: str, skip: Path | None = None) -> list[str]:
    sources, errors = open_sources(texts, skip=skip)
    assert not errors
    return [source.name for source in sources]


EVERY = ["in/a.png", "in/out/c.png", "in/sub/b.png"]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("in", EVERY),
        ("in/**/*.png", EVERY),
        ("in/**/*", EVERY),  # the folders that it names too
        ("in/*", EVERY),
        ("in/**", EVERY),
        ("in/**/**/*.png", EVERY),
        ("i*/*.png", ["in/a.png"]),
        ("in/[os]*/*.png", ["in/out/c.png", "in/out2/c.png", "in/self/a.png", "in/self2/a.png", "in/sub/b.png"]),
        ("in/self/*.png", ["in/self/a.png"]),  # a link that was named is used
        ("in/out", ["in/out/c.png"]),
        ("in/.hidden", ["in/.hidden/e.png"]),
        ("in/.*/*.png", ["in/.hidden/e.png"]),
        ("**/*.png", ["in/a.png", "in/sub/b.png", "other/c.png", "sibling/d.png"]),
    ],
)
def test_links_to_folders_are_followed_once_and_never_in_circles(text: str, names: list[str]) -> None:
    began = time.monotonic()
    found = named(text)
    assert time.monotonic() - began < 5  # two links to the folder itself are 2 to the 40 paths for glob.glob
    assert found == names


@pytest.mark.usefixtures("tree")
def test_an_output_folder_behind_a_link_is_no_input() -> None:
    Path("other/maps").mkdir()
    Path("other/maps/a.png").touch()
    Path("in/maps").symlink_to("../other/maps")
    assert named("in", skip=Path("in/maps")) == EVERY
    assert named("in", skip=Path("in")) == ["in/a.png", "in/maps/a.png", "in/out/c.png", "in/sub/b.png"]
    Path("in/maps").unlink()
    Path("in/maps").mkdir()
    Path("in/maps/a.png").touch()
    assert named("in", skip=Path("in/maps")) == ["in/a.png", "in/out/c.png", "in/out/maps/a.png", "in/sub/b.png"]


@pytest.mark.usefixtures("tree")
def test_a_link_to_no_file_is_listed_as_a_broken_picture() -> None:
    Path("in/gone.png").symlink_to("nowhere.png")
    sources, errors = open_sources(["in/gone.png"])
    assert not errors
    with pytest.raises(SourceError, match=r"gone\.png cannot be read"):
        next(iter(sources[0].frames()))


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    real = os.scandir

    def scandir(folder: Any) -> Any:  # a test may run as root, who may read everything
        if Path(folder).name == "a":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    for text in (str(tmp_path), f"{tmp_path}/**/*.png"):
        sources, errors = open_sources([text])
        assert [Path(source.name).name for source in sources] == ["2.png"]
        assert [str(error) for error in errors] == [f"{tmp_path / 'a'} cannot be read: Permission denied"]


def clip(path: Path, size: tuple[int, int]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
    for _ in range(3):
        writer.write(np.zeros((size[1], size[0], 3), np.uint8))
    writer.release()
    return path


def test_large_video_frames_are_refused_before_one_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "clip.avi", (64, 48))
    (allowed,), _ = open_sources([str(path)], ReadOptions(max_pixels=64 * 48))
    assert len(list(allowed.frames())) == 3  # the control
    (refused,), _ = open_sources([str(path)], ReadOptions(max_pixels=64 * 48 - 1))
    real = cv2.VideoCapture

    class Capture:
        def __init__(self, *args: Any) -> None:
            self._real = real(*args)

        def __getattr__(self, name: str) -> Any:
            assert name != "read", "a frame was decoded"
            return getattr(self._real, name)

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    with pytest.raises(SourceError, match=r"64 x 48 = 3,072 pixels, more than the 3,071 allowed.*--max-pixels"):
        next(iter(refused.frames()))


class LyingCapture:
    """Tells a small size, and gives large frames; as a camera, tells nothing."""

    def __init__(self) -> None:
        self.left = 2

    def get(self, _: int) -> float:
        return 1.0

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return self.left >= 0, np.zeros((48, 64, 3), np.uint8)

    def isOpened(self) -> bool:
        return True

    def release(self) -> None:
        pass


def test_frames_larger_than_told_are_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "clip.avi", (64, 48))
    camera = LiveSource("0", max_pixels=3071, opener=lambda *_: LyingCapture())
    with pytest.raises(SourceError, match=r"camera 0 has 64 x 48 = 3,072 pixels"):
        list(camera.frames())
    (stream,), _ = open_sources(["rtsp://cam/1"], ReadOptions(max_pixels=3071))
    assert isinstance(stream, LiveSource)
    assert stream._max_pixels == 3071
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: LyingCapture())
    with pytest.raises(SourceError, match=r"clip.avi has 64 x 48 = 3,072 pixels"):
        list(VideoSource(path, path, 3071).frames())  # type: ignore[arg-type]  # the output is not used


class TimedCapture:
    """Two frames, whose buffer was filled some seconds before the driver gave them away."""

    def __init__(self, backend: str, age: float) -> None:
        self.backend, self.age, self.left = backend, age, 2

    def getBackendName(self) -> str:
        return self.backend

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return self.left >= 0, np.zeros((4, 6, 3), np.uint8)

    def get(self, key: int) -> float:
        assert key == cv2.CAP_PROP_POS_MSEC
        return (time.perf_counter() - self.age) * 1e3

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("backend", "age", "timed_by", "least"),
    [
        ("V4L2", 0.5, "driver", 0.5),
        ("FFMPEG", 0.5, "arrival", 0.0),  # POS_MSEC is a place in the stream there
        ("V4L2", 1e9, "arrival", 0.0),  # an OpenCV that gives no stamp, or another clock's
        ("V4L2", -5.0, "arrival", 0.0),
    ],
)
def test_a_live_frame_says_when_it_was_captured(backend: str, age: float, timed_by: str, least: float) -> None:
    began = time.perf_counter()
    camera = LiveSource("0", opener=lambda *_: TimedCapture(backend, age))
    frame = next(camera.frames())
    assert frame.captured is not None
    assert camera.timed_by == timed_by
    assert time.perf_counter() - frame.captured >= least
    assert frame.captured > (began if timed_by == "arrival" else began - age)
