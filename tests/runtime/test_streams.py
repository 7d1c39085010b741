"""A real stream: Motion JPEG over HTTP from this machine, that ends, breaks off, falls silent or never starts."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.cli import cli

FRAMES, PAUSE = 12, 0.03  # s
pytestmark = pytest.mark.skipif(
    cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends(), reason="this OpenCV was built without FFmpeg"
)


def jpeg(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), (level,) * 3).save(stream, "JPEG")
    return stream.getvalue()


class Camera(BaseHTTPRequestHandler):
    """What it does is the path's name."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        kind = self.path.strip("/")
        if kind == "never":
            time.sleep(20)
            return
        if kind == "absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if kind == "page" else "multipart/x-mixed-replace; boundary=b")
        self.end_headers()
        if kind == "page":
            self.wfile.write(b"<html>log in</html>")
            return
        for index in range(FRAMES):
            data = jpeg(20 * index)
            self.wfile.write(b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(data), data))
            time.sleep(PAUSE)
        if kind == "half":
            self.wfile.write(b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: 900\r\n\r\n" + jpeg(0)[:200])
        if kind == "silent":
            time.sleep(20)


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:secret@127.0.0.1:{server.server_port}"
    server.shutdown()


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["run", *map(str, args), "--json"])


@pytest.mark.parametrize(
    ("kind", "words"),
    [("end", f"ended after {FRAMES} frames"), ("half", f"ended after {FRAMES} frames"), ("silent", "frame")],
)
def test_what_came_is_told_and_every_frame_is_counted(address: str, bundle: Path, kind: str, words: str) -> None:
    result = run(f"{address}/{kind}", "--bundle", bundle, "--timeout", 3)
    assert result.exit_code == 1
    frames = [json.loads(line)["frame"] for line in result.stdout.splitlines()]  # and nothing else is there
    assert frames == sorted(set(frames))
    assert frames[-1] == FRAMES - 1
    error, dropped, _ = result.stderr.splitlines()
    assert error.startswith("Error: http://127.0.0.1")
    assert words in error
    assert dropped.endswith(f": {FRAMES} frames read, {FRAMES - len(frames)} dropped")
    assert "secret" not in result.output


@pytest.mark.parametrize("kind", ["absent", "page"])
def test_what_is_no_stream_is_one_line(address: str, bundle: Path, kind: str) -> None:
    result = run(f"{address}/{kind}", "--bundle", bundle, "--timeout", 3)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot be opened; check the address" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "secret" not in result.stderr


def test_a_stream_that_never_starts_does_not_abort_the_process(address: str, bundle: Path) -> None:
    """The reading thread is inside OpenCV when the process ends; waking it there is a C++ abort, exit status 134."""
    command = [sys.executable, "-m", "acd_edge", "run", f"{address}/never", "--bundle", str(bundle), "--timeout", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: http://127.0.0.1")
