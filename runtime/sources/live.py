"""Cameras and streams: always the newest frame, never a queue of old ones."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from acd_edge.errors import AcdEdgeError, SourceError
from acd_edge.runtime.picture import MAX_PIXELS, check_size
from acd_edge.runtime.quiet import quiet_cv2
from acd_edge.runtime.sources.base import Frame

_STREAM = re.compile(r"(rtsp|rtsps|rtmp|http|https|udp|tcp|srt)://", re.IGNORECASE)
_PIPELINE = "gst:"  # before a pipeline of GStreamer, which reads what OpenCV alone cannot, such as a camera on CSI
_SINK = re.compile(r"!\s*appsink\b[^!]*$")
_SECRET = re.compile(r"(?<=//)[^/]*@|[?#].*")  # name and password before the host, and a query, which may hold them
_POLL = 0.2  # seconds; a wait of this length lets Ctrl-C through everywhere
_LAST_CAMERA = 2**31 - 1  # OpenCV takes no larger index; nor is a camera there
_OLDEST = 10.0  # seconds; what a driver says of an older frame is on another clock
_LAST_WAIT = 2.0  # seconds for the reading thread to end by itself, which a silent camera does not let it
logger = logging.getLogger(__name__)


def is_live(text: str) -> bool:
    """Whether a source is a camera index, a video device, a stream or a pipeline.

    >>> [is_live(text) for text in ("0", "/dev/video2", "rtsp://cam/1", "gst:v4l2src ! appsink", "clip.mp4", "./0")]
    [True, True, True, True, False, False]
    """
    return text.isdecimal() or text.startswith(("/dev/video", _PIPELINE)) or bool(_STREAM.match(text))


def shown(target: str) -> str:
    """What users read of a live source: no password, no query, and of a pipeline its first element alone.

    >>> shown("0"), shown("rtsp://me:se@cret@cam/1"), shown("gst:rtspsrc location=rtsp://me:secret@cam ! appsink")
    ('camera 0', 'rtsp://cam/1', 'gst:rtspsrc')
    >>> shown("http://cam/video.cgi?user=me&pwd=secret")
    'http://cam/video.cgi'
    """
    if target.startswith(_PIPELINE):
        return _PIPELINE + (target.removeprefix(_PIPELINE).split() or [""])[0]
    return f"camera {target}" if target.isdecimal() else _SECRET.sub("", target)


class LiveSource:
    """A camera or stream, read by a thread that keeps the newest frame.

    Attributes:
        read, dropped: frames read so far, and those among them that nobody took.
        timed_by: whose word `Frame.captured` is: the camera's `driver`, which knows when its buffer was filled, or
            `arrival`, the moment at which OpenCV gave the frame; what came before that moment is not known then.
    """

    kind: Literal["live"] = "live"
    output = PurePosixPath()

    def __init__(
        self,
        target: str,
        *,
        timeout: float = 10.0,
        max_pixels: int = MAX_PIXELS,
        opener: Callable[[str, float], Any] | None = None,
    ) -> None:
        self.name = shown(target)
        self.read = self.dropped = 0
        self.timed_by: Literal["driver", "arrival"] = "arrival"
        self._target = target
        self._timeout = timeout
        self._max_pixels = max_pixels
        self._opener = opener or open_capture
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._ended = False
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    def frames(self) -> Iterator[Frame]:
        """Give the newest frame each time; it ends only with an error, see `Source`."""
        thread = threading.Thread(target=self._keep_newest, name="newest-frame", daemon=True)
        thread.start()
        try:
            while True:
                yield self._take()
        finally:
            self._stop.set()
            thread.join(_LAST_WAIT)
            self.dropped += self._newest is not None
            self._newest = None
            logger.info("%s: stopped", self.name)

    def _take(self) -> Frame:
        waited = 0.0
        with self._changed:
            while self._newest is None:
                if self._ended:
                    raise self._reason()
                if waited >= self._timeout:
                    raise SourceError(
                        f"{self.name} {self._silence()}; is it connected, and is another program using it?"
                    )
                if not self._changed.wait(_POLL):
                    waited += _POLL
            frame, self._newest = self._newest, None
            return frame

    def _keep_newest(self) -> None:
        capture = None
        try:
            capture = self._opener(self._target, self._timeout)
            for rgb, arrived, filled in _decoded(capture, self._stop):
                check_size(self.name, rgb.shape[1::-1], self._max_pixels)
                self.timed_by = "arrival" if filled is None else "driver"
                self._offer(rgb, arrived if filled is None else filled)
        except BaseException as error:  # noqa: BLE001  # told by the thread that takes frames
            self._failure = error
        finally:
            if capture is not None:
                capture.release()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _offer(self, rgb: Any, captured: float) -> None:
        with self._changed:
            self.dropped += self._newest is not None
            self._newest = Frame(self.name, self.read, rgb, captured)
            self.read += 1
            self._changed.notify_all()

    def _reason(self) -> AcdEdgeError:
        if isinstance(self._failure, AcdEdgeError):
            return self._failure
        if self._failure is not None:
            return SourceError(f"{self.name} failed: {self._failure}")
        if not self.read:
            return SourceError(f"{self.name} opened but gave no frame")
        return SourceError(f"{self.name} ended after {self.read} frames")

    def _silence(self) -> str:
        return f"gave no frame for {self._timeout:g} s" if self.read else f"did not start within {self._timeout:g} s"


def open_capture(target: str, timeout: float) -> Any:
    """Open a camera index, a device or an address with OpenCV.

    Raises:
        SourceError: nothing is there.
    """
    cv2 = quiet_cv2()
    if target.isdecimal() or target.startswith("/dev/"):
        where: int | str = min(int(target), _LAST_CAMERA) if target.isdecimal() else target
        capture = cv2.VideoCapture(where, cv2.CAP_V4L2) if hasattr(cv2, "CAP_V4L2") else cv2.VideoCapture(where)
        hint = "see which there are: ls /dev/video*"
    elif target.startswith(_PIPELINE):
        capture = _open_pipeline(cv2, target)
        hint = "try it alone: gst-launch-1.0 with fakesink instead of appsink"
    else:
        capture = _open_stream(cv2, target, timeout)
        hint = "check the address, the network and the password"
    if not capture.isOpened():
        raise SourceError(f"{shown(target)} cannot be opened; {hint}")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def _open_pipeline(cv2: Any, target: str) -> Any:
    pipeline = target.removeprefix(_PIPELINE).strip()
    if not _SINK.search(pipeline):
        raise SourceError(
            f"{shown(target)}: the pipeline does not end in appsink, so no frame comes out; end it with "
            "! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
        )
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):  # getBackends lists plugins that are not there
        raise SourceError(
            f"{shown(target)}: this OpenCV ({cv2.__version__}, {cv2.__file__}) was built without GStreamer, as those "
            "of pip are; use the system's, and see what this machine has: acd-edge doctor"
        )
    return cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)


def _open_stream(cv2: Any, target: str, timeout: float) -> Any:
    """FFmpeg, which keeps to time limits; GStreamer where OpenCV was built without FFmpeg, as JetPack's is."""
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        return cv2.VideoCapture(target)
    wait_ms = max(1, int(timeout * 1000))
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait_ms]
    return cv2.VideoCapture(target, cv2.CAP_FFMPEG, limits)


def _decoded(capture: Any, stop: threading.Event) -> Iterator[tuple[Any, float, float | None]]:
    """Frames with the moment of their arrival, and the driver's where it tells one."""
    cv2 = quiet_cv2()
    on_v4l2 = _is_v4l2(capture)
    while not stop.is_set():
        read, bgr = capture.read()
        arrived = time.perf_counter()
        if not read:
            return
        filled = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3 if on_v4l2 else 0.0
        grey = bgr.ndim == 2 or bgr.shape[2] == 1  # from a pipeline that gives GRAY8
        rgb = cv2.cvtColor(bgr, cv2.COLOR_GRAY2RGB if grey else cv2.COLOR_BGR2RGB)
        yield rgb, arrived, filled if 0 <= arrived - filled < _OLDEST else None


def _is_v4l2(capture: Any) -> bool:
    """Whether POS_MSEC is the stamp of V4L2's buffer, on the clock of `time.perf_counter`.

    Linux' drivers stamp by CLOCK_MONOTONIC (V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC), which is that clock there.
    """
    name = getattr(capture, "getBackendName", str)()
    return bool(name == "V4L2") and "CLOCK_MONOTONIC" in time.get_clock_info("perf_counter").implementation
