from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.cli import cli
from acd_edge.errors import SourceError
from acd_edge.runtime.overlay import draw_overlay
from acd_edge.runtime.sinks import FileSink
from acd_edge.runtime.sinks import files as sink_files
from acd_edge.runtime.sources import live
from acd_edge.runtime.sources.video import frame_rate
from tests.interrupts import interrupted_at
from tests.tiny_bundle import class_score, unit_features, write_tiny_bundle

CLASS = 0.9 * class_score(unit_features(1))  # score of a black picture
BLACK, WHITE = CLASS, CLASS + 0.1


@pytest.fixture(autouse=True)
def builtin(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny bundle stands in for the built-in one."""
    monkeypatch.setattr("acd_edge.runtime.detector.builtin_bundle", lambda: bundle)


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["run", *map(str, args)])


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def picture(path: Path, level: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level,) * 3).save(path)
    return path


def video(path: Path, levels: list[int]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for level in levels:
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_json_holds_exactly_the_fields(tmp_path: Path) -> None:
    result = run(picture(tmp_path / "a.png"), "--json")
    assert result.exit_code == 0, result.stderr
    (record,) = records(result)
    assert record.pop("latency_ms") > 0
    assert record.pop("score") == pytest.approx(BLACK, abs=1e-6)
    assert record == {
        "source": str(tmp_path / "a.png"),
        "frame": 0,
        "product": "object",
        "threshold": None,
        "anomalous": None,
    }
    assert result.stderr == ""


def test_anomalous_is_at_least_the_threshold(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    (exact,) = records(run(path, "--json"))
    (at,) = records(run(path, "--json", "--threshold", repr(exact["score"])))
    (above,) = records(run(path, "--json", "--threshold", repr(np.nextafter(exact["score"], 1).item())))
    assert (at["anomalous"], above["anomalous"]) == (True, False)
    assert at["threshold"] == exact["score"]


def test_lines_say_score_verdict_and_source(tmp_path: Path) -> None:
    result = run(picture(tmp_path / "a.png"), "--threshold", "0")
    assert f"{BLACK:.4f}" in result.stdout
    assert "ANOMALOUS" in result.stdout
    assert str(tmp_path / "a.png") in result.stdout


def test_odd_names_are_one_line_each_and_keep_their_bytes(tmp_path: Path) -> None:
    source = picture(tmp_path / "in/a.png").read_bytes()
    for name in (b"line\nend.png", b"no text \xff.png", "é 🔩.png".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_bytes(source)
    text = run(tmp_path / "in", "--save", tmp_path / "out")
    assert text.exit_code == 0, text.output
    assert len(text.stdout.splitlines()) == 4
    assert "line\\nend.png" in text.stdout
    assert "é 🔩.png" in text.stdout
    found = {os.fsencode(record["source"]) for record in records(run(tmp_path / "in", "--json"))}
    assert os.fsencode(tmp_path / "in") + b"/no text \xff.png" in found
    names = sorted(os.listdir(os.fsencode(tmp_path / "out")))
    assert names == sorted([b"a.png", b"line\nend.png", b"no text \xff.png", "é 🔩.png".encode()])


@pytest.mark.parametrize("way", ["plain", "--source", "folder", "glob", "deep glob"])
def test_every_way_to_name_pictures(tmp_path: Path, way: str) -> None:
    a, b = picture(tmp_path / "in/good/a.png"), picture(tmp_path / "in/good/b.jpg")
    (tmp_path / "in/good/notes.txt").write_text("no picture")
    args: dict[str, list[str | Path]] = {
        "plain": [a, b],
        "--source": ["--source", a, "--source", b],
        "folder": [tmp_path / "in"],
        "glob": [tmp_path / "in/*/[ab].*"],
        "deep glob": [tmp_path / "in/**/*"],
    }
    result = run(*args[way], "--json")
    assert [record["source"] for record in records(result)] == [str(a), str(b)]


def test_names_mirror_the_input(tmp_path: Path) -> None:
    for name in ("good/001.png", "bad/001.jpg", "top.v2.png"):
        picture(tmp_path / "in" / name)
    result = run(tmp_path / "in", "--save", tmp_path / "out", "--save-map")
    assert result.exit_code == 0, result.stderr
    assert files(tmp_path / "out") == [
        *("bad/001.npy", "bad/001.png", "good/001.npy", "good/001.png", "top.v2.npy", "top.v2.png")
    ]
    stored = np.load(tmp_path / "out/good/001.npy")
    assert (stored.dtype, stored.shape) == (np.float32, (30, 40))
    assert run(tmp_path / "in/*/001.*", "--save", tmp_path / "globbed").exit_code == 0
    assert files(tmp_path / "globbed") == ["bad/001.png", "good/001.png"]


def test_maps_are_in_the_upright_frame(tmp_path: Path) -> None:
    rgb = np.zeros((30, 60, 3), np.uint8)
    rgb[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the white columns become the top rows
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    run(tmp_path / "a.png", "--save", tmp_path / "out", "--save-map")
    stored = np.load(tmp_path / "out/a.npy")
    assert stored.shape == (60, 30)
    assert stored[:15].mean() > 0.9
    assert stored[25:].mean() < 0.1


def test_two_inputs_of_one_name_are_refused_before_the_first_frame(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a/1.png"), picture(tmp_path / "b/1.jpg")
    result = run(a, b, "--save", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "would both be written to" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert run(a, b).exit_code == 0  # without --save nothing collides


def test_a_picture_in_the_place_of_a_videos_maps_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "in/clip/000000.png")
    video(tmp_path / "in/clip.avi", [0])
    assert "would both be written" in run(tmp_path / "in", "--save", tmp_path / "out", "--save-map").stderr
    assert run(tmp_path / "in", "--save", tmp_path / "out").exit_code == 0


def test_existing_overlays_need_force_and_are_never_input(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    out = tmp_path / "out"
    assert run(tmp_path, "--save", out).exit_code == 0
    again = run(tmp_path, "--save", out)
    assert again.exit_code == 1
    assert "--force" in again.stderr
    forced = run(tmp_path, "--save", out, "--force", "--json")
    assert forced.exit_code == 0
    assert [record["source"] for record in records(forced)] == [str(tmp_path / "a.png")]


def test_broken_pictures_do_not_stop_the_good_ones(tmp_path: Path) -> None:
    for name in "ace":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    result = run(tmp_path, "--json", "--threshold", "0", "--fail-on-anomaly", "--save", tmp_path / "out")
    assert [Path(record["source"]).name for record in records(result)] == ["a.png", "c.png", "e.png"]
    assert files(tmp_path / "out") == ["a.png", "c.png", "e.png"]
    assert result.exit_code == 1  # wins over the 3 of the anomalies
    last = result.stderr.splitlines()[-1]
    assert "2 inputs failed" in last
    assert "b.png" in last
    assert "d.png" in last


def test_fail_on_anomaly(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    assert run(path, "--threshold", "0", "--fail-on-anomaly").exit_code == 3
    assert run(path, "--threshold", "1", "--fail-on-anomaly").exit_code == 0
    assert run(path, "--threshold", "0").exit_code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to look at"),
        (["a.png", "--save-map"], "--save-map needs --save"),
        (["a.png", "--fail-on-anomaly"], "--fail-on-anomaly needs a threshold"),
        (["--camera", "77", "--save", "out"], "--save on a live source"),
        (["--camera", "77", "--camera", "78"], "one live source at a time"),
        (["a.png", "--threshold", "2"], "0<=x<=1"),
        (["a.png", "--threshold", "nan"], "from 0 to 1"),
        (["a.png", "--bit-depth", "8"], "9<=x<=16"),
        (["a.png", "--timeout", "nan"], "--timeout must be a number of seconds"),
        (["a.png", "--threads", "100000"], "1<=x<=256"),  # they would all be started
    ],
)
def test_wrong_usage_is_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    result = run(*args)
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.png"], "none.png does not exist"),
        (["none/*.png"], "holds no picture and no video"),
        (["x" * 5000], "does not exist"),  # the disk has no such long names
        ([""], "an empty name"),  # and not the current folder
        (["loop.png"], "loop.png cannot be read"),
        (["--camera", "99999999999"], "camera 99999999999 cannot be opened"),
        (["empty"], "empty holds no picture"),
        (["a.png", "--bundle", "none"], "no bundle at none"),
        (["a.png", "--product", "metal_nutt"], "did you mean metal_nut?"),
        (["a.png", "--max-pixels", "100"], "--max-pixels"),
        (["--camera", "77"], "camera 77 cannot be opened"),
        (["rtsp://127.0.0.1:9/x", "--timeout", "2"], "rtsp://127.0.0.1:9/x"),
        (["cut.avi"], "cut.avi"),
        (["empty.avi"], "is empty"),
        (["a.png", "--save", "file/out"], "cannot be written"),
    ],
)
def test_what_the_user_can_fix_is_one_line_and_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "file").touch()
    (tmp_path / "empty.avi").touch()
    (tmp_path / "cut.avi").write_bytes(video(tmp_path / "whole.avi", [0] * 5).read_bytes()[:100])
    result = run(*args)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_a_video_gives_frames_an_overlay_video_and_maps(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.avi", [0, 128, 255])
    result = run(path, "--json", "--save", tmp_path / "out", "--save-map")
    assert result.exit_code == 0, result.stderr
    found = records(result)
    assert [record["frame"] for record in found] == [0, 1, 2]
    assert found[0]["score"] < found[1]["score"] < found[2]["score"]
    assert files(tmp_path / "out") == ["clip.mp4", "clip/000000.npy", "clip/000001.npy", "clip/000002.npy"]
    assert np.load(tmp_path / "out/clip/000001.npy").shape == (48, 64)
    capture = cv2.VideoCapture(str(tmp_path / "out/clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert capture.get(cv2.CAP_PROP_FPS) == 10


class FakeCamera:
    """Gives frames that grow brighter, as fast as they are read, then ends."""

    def __init__(self, count: int, pause: float = 0.0) -> None:
        self.left, self.count, self.pause, self.released = count, count, pause, False

    def read(self) -> tuple[bool, Any]:
        time.sleep(self.pause)
        if not self.left:
            return False, None
        self.left -= 1
        return True, np.full((20, 30, 3), 255 if self.left % 2 == 0 else 0, np.uint8)

    def release(self) -> None:
        self.released = True


def test_a_live_source_keeps_the_newest_frame_and_counts_the_dropped(tmp_path: Path) -> None:
    camera = FakeCamera(50)
    source = live.LiveSource("0", opener=lambda *_: camera)
    frames = source.frames()
    first = next(frames)
    while not source._ended:
        time.sleep(0.01)
    last = next(frames)
    assert last.index == 49  # the newest, not the next
    assert source.read == 50
    assert source.dropped == last.index - first.index - 1 + first.index
    with pytest.raises(SourceError, match="camera 0 ended after 50 frames"):
        next(frames)
    assert camera.released


def test_live_saves_anomalous_frames_only_and_tells_the_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "open_capture", lambda *_: FakeCamera(6, pause=0.15))
    result = run("--camera", "0", "--save", tmp_path, "--save-map", "--json", "--threshold", f"{BLACK + 0.05:.6f}")
    assert result.exit_code == 1  # it ended, and a live source should not
    assert "camera 0 ended after 6 frames" in result.stderr
    assert "camera 0: 6 frames read" in result.stderr
    found = records(result)
    anomalous = [record["frame"] for record in found if record["anomalous"]]
    assert 0 < len(anomalous) < len(found)
    names = [name for name in files(tmp_path) if name.endswith((".png", ".npy")) and "tiny" not in name]
    assert sorted(int(name[-10:-4]) for name in names) == sorted(anomalous * 2)
    assert all(name[8] == "T" and "Z_" in name for name in names)


def test_a_stream_that_never_starts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "open_capture", lambda *_: time.sleep(60))
    began = time.monotonic()
    result = run("http://127.0.0.1:9/never", "--timeout", "0.4")
    assert time.monotonic() - began < 20
    assert result.exit_code == 1
    assert "did not start within 0.4 s" in result.stderr


def test_passwords_of_streams_are_not_shown() -> None:
    assert live.LiveSource("rtsp://me:secret@cam/1").name == "rtsp://cam/1"


def test_a_full_disk_is_told_and_what_was_done_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcdefgh":
        picture(tmp_path / f"in/{name}.png")
    real = sink_files._write_map

    def fill(path: Path, record: Any) -> None:
        if path.stem == "c":
            raise OSError(28, "No space left on device", str(path))
        real(path, record)

    monkeypatch.setattr(sink_files, "_write_map", fill)
    result = run(tmp_path / "in", "--save", tmp_path / "out", "--save-map")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "full" in result.stderr or "No space left" in result.stderr
    assert {"a.npy", "b.npy"} <= set(files(tmp_path / "out"))


def test_half_a_file_never_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(stream: Any, *_: object, **__: object) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", half)
    result = run(picture(tmp_path / "a.png"), "--save", tmp_path / "out", "--save-map")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert files(tmp_path / "out") == ["a.png"]


# `acd-edge` as a terminal starts it: a shell's background jobs ignore Ctrl-C and hand that on, and CI may be one.
HEEDING_SIGNALS = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
from acd_edge.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Terminated"), (signal.SIGHUP, "Hung up")],
)
def test_a_signal_keeps_what_was_done_and_leaves_nothing_behind(tmp_path: Path, number: int, words: str) -> None:
    bundle = write_tiny_bundle(tmp_path / "b.acd")
    (unpacked := tmp_path / "unpacked").mkdir()
    for index in range(600):
        picture(tmp_path / f"in/{index:04d}.png", size=(8, 8))
    command = [sys.executable, "-c", HEEDING_SIGNALS, "run", str(tmp_path / "in"), "--bundle", str(bundle), "--json"]
    process = subprocess.Popen(
        [*command, "--save", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(unpacked)},
    )
    watchdog = threading.Timer(60, process.kill)  # a process that hangs fails the test, not the whole run
    watchdog.daemon = True
    watchdog.start()
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert len(list(unpacked.glob("acd-edge-*"))) == 1  # the bundle, while it is used
    process.send_signal(number)
    rest, errors = process.stdout.read(), process.stderr.read()
    process.wait(timeout=60)
    watchdog.cancel()
    assert (process.returncode, errors) == (128 + number, f"{words}\n")
    assert not list(unpacked.glob("acd-edge-*"))
    done = [json.loads(line)["source"] for line in [*lines, *rest.splitlines()]]
    assert 3 <= len(done) < 600
    written = files(tmp_path / "out")
    assert len(written) in (len(done), len(done) - 1)  # the last line may have been shown and not yet handed over
    for name in written:
        Image.open(tmp_path / "out" / name).load()  # every file is whole


def test_calibrated_bundle_decides(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b.acd")
    for index in range(5):
        picture(tmp_path / f"good/{index}.png", level=10 * index)
    args = ["calibrate", str(bundle), "--good", str(tmp_path / "good"), "--false-alarm-rate", "0.2"]
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 0, done.stderr
    assert "from 5 good parts" in done.stdout
    assert "chance of 16.7%" in done.stdout
    found = records(run(tmp_path / "good", picture(tmp_path / "w.png", 255), "--bundle", bundle, "--json"))
    assert [record["anomalous"] for record in found] == [False] * 5 + [True]
    other = records(run(tmp_path / "w.png", "--bundle", bundle, "--json", "--product", "metal_nut"))
    assert other[0]["threshold"] is None  # each product has its own
    told = records(run(tmp_path / "w.png", "--bundle", bundle, "--json", "--threshold", "1"))
    assert told[0]["threshold"] == 1


def test_calibrate_reads_as_run_does(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b")
    (good := tmp_path / "good").mkdir()
    for index in range(5):
        Image.fromarray(np.full((9, 9), 3000 + 100 * index, np.uint16)).save(good / f"{index}.png")  # of 4095
    calibrate = ["calibrate", str(bundle), "--good", str(good), "--false-alarm-rate", "0.2"]
    assert CliRunner().invoke(cli, [*calibrate, "--bit-depth", "12"]).exit_code == 0
    found = records(run(good, "--bundle", bundle, "--json", "--bit-depth", "12"))
    assert [record["anomalous"] for record in found] == [False] * 5
    assert max(record["score"] for record in found) == pytest.approx(found[0]["threshold"], abs=1e-6)
    assert CliRunner().invoke(cli, calibrate).exit_code == 0  # the control: at 16 bits they are nearly black
    blind = records(run(good, "--bundle", bundle, "--json", "--bit-depth", "12"))
    assert [record["anomalous"] for record in blind] == [True] * 5
    assert CliRunner().invoke(cli, [*calibrate, "--max-pixels", "80"]).exit_code == 1


def test_calibrate_refuses_and_warns(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b")
    picture(tmp_path / "good/0.png")
    base = ["calibrate", str(bundle), "--good", str(tmp_path / "good")]
    assert "at least two good parts" in CliRunner().invoke(cli, base).stderr
    picture(tmp_path / "good/1.png")
    few = CliRunner().invoke(cli, [*base, "-o", str(tmp_path / "new.acd")])
    assert few.exit_code == 0
    assert "2 parts cannot promise 1.0%; that needs 99" in few.stderr
    again = CliRunner().invoke(cli, [*base, "-o", str(tmp_path / "new.acd")])
    assert again.exit_code == 1
    assert "--force" in again.stderr
    assert not (bundle / "calibration.json").exists()  # -o leaves the source alone


@pytest.mark.parametrize("shape", [(1, 1), (200, 200), (30, 480), (1080, 1920), (900, 20)])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_overlay_shows_heat_and_strip(shape: tuple[int, int], threshold: float | None) -> None:
    rgb = np.full((*shape, 3), 128, np.uint8)
    heat = np.zeros(shape, np.float32)
    cold = draw_overlay(rgb, heat, score=0.7, threshold=threshold, product="a_product_with_a_long_name")
    heat[: max(1, shape[0] // 2)] = 1
    hot = draw_overlay(rgb, heat, score=0.7, threshold=threshold, product="a_product_with_a_long_name")
    assert hot.shape == cold.shape
    assert hot.shape[1] >= 480
    assert hot.shape[0] > shape[0]
    centre = hot.shape[1] // 2
    assert np.ptp(cold[0, centre].astype(int)) < 3  # a gray picture stays gray where nothing is found
    assert hot[4, centre + 1, 0].astype(int) - hot[4, centre + 1, 2] > 30 or shape == (1, 1)
    bad = draw_overlay(rgb, heat, score=0.4, threshold=threshold, product="p")
    assert (bad[-1] == hot[-1]).all()  # the strip's foot is plain
    line = slice(-(hot.shape[0] - 1), None)
    assert (bad[line] != hot[line]).any()  # the score is written, and the verdict coloured


def test_worker_never_loses_an_error() -> None:
    from acd_edge.runtime.sinks import Worker

    def fail() -> None:
        raise ValueError("lost?")

    done: list[int] = []
    worker = Worker(limit=1)
    worker.submit(lambda: done.append(1))
    worker.submit(fail)
    with pytest.raises(ValueError, match="lost"):  # at one of the next submits, or at the end
        _submit_and_close(worker, lambda: done.append(2))
    assert done == [1]
    worker.close()


@pytest.mark.parametrize("busy", [False, True])
def test_ctrl_c_at_any_moment_of_handing_over_never_hangs_the_end(busy: bool) -> None:
    from acd_edge.runtime.sinks import Worker

    handing_over = ("queue.py", "threading.py", "worker.py")
    for moment in itertools.count():
        worker, gate = Worker(limit=1), threading.Event()
        worker.submit(gate.wait if busy else gate.is_set)
        raised = interrupted_at(moment, partial(worker.submit, gate.is_set), within=handing_over)
        gate.set()
        closing = threading.Thread(target=worker.close, daemon=True)  # a test that hangs tells nothing
        closing.start()
        closing.join(20)
        assert not closing.is_alive(), f"interrupted at moment {moment}"
        if raised is None:
            break
    assert moment > 2  # it was interrupted


def _submit_and_close(worker: Any, job: Callable[[], object]) -> None:
    worker.submit(job)
    worker.close()


@pytest.mark.skipif(os.geteuid() != 0 and not os.access("/proc", os.W_OK), reason="needs a folder that refuses files")
def test_a_folder_that_refuses_files(tmp_path: Path) -> None:
    result = run(picture(tmp_path / "a.png"), "--save", "/proc/acd-edge")
    assert result.exit_code == 1
    assert "/proc/acd-edge cannot be written" in result.stderr
    assert WHITE > BLACK


@pytest.mark.parametrize("place", [".", "mix", "mix/good"])
def test_an_output_folder_that_holds_the_input_hides_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mix/good/a.jpg", "mix/b.jpg"):
        picture(Path(name))
    found = records(run("mix", "--json", "--save", place, "--force"))
    assert [record["source"] for record in found] == ["mix/b.jpg", "mix/good/a.jpg"][: 1 if place == "mix/good" else 2]
    assert len(records(run("mix/*.jpg", "--json", "--save", place, "--force"))) == 1


@pytest.mark.parametrize("source", ["shots", "shots/a.png", "shots/*.png", "clip.mp4"])
def test_an_input_is_never_replaced_by_its_heat_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shots").mkdir()
    paths = [picture(Path("shots/a.png")), video(Path("clip.mp4"), [0, 0])]
    before = [Path(path).read_bytes() for path in paths]
    (tmp_path / "by-another-name").symlink_to("." if source == "clip.mp4" else "shots")
    for place in ("." if source == "clip.mp4" else "shots", "by-another-name"):
        result = run(source, "--save", place, "--force")
        assert result.exit_code == 1
        assert "is an input" in result.stderr
        assert [Path(path).read_bytes() for path in paths] == before
    assert run(source, "--save", "elsewhere", "--force").exit_code == 0  # the control


def test_no_wildcard_leads_out_of_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "one").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    before = Path(picture(Path("other/b.png"))).read_bytes()
    result = run("in/*/../../other/*.png", "--save", "out")
    assert (result.exit_code, Path("other/b.png").read_bytes()) == (1, before)
    assert "goes up ('..') behind a wildcard" in result.stderr
    assert run("in/../other/*.png", "--save", "out").exit_code == 0  # before the wildcard it is a plain path


def test_a_link_to_no_video_is_one_line_and_the_others_are_done(tmp_path: Path) -> None:
    for name in ("a.png", "z.png"):
        picture(tmp_path / name)
    (tmp_path / "m.mp4").symlink_to("nowhere")
    result = run(tmp_path, "--json")
    assert (result.exit_code, len(records(result))) == (1, 2)
    assert "m.mp4 cannot be read: No such file" in result.stderr


def test_a_frame_rate_that_mpeg_4_cannot_hold_is_rounded(tmp_path: Path) -> None:
    path = tmp_path / "slow.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 120.043, (64, 48))
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert frame_rate(str(path)) == pytest.approx(120.043, abs=1e-3)
    assert run(path, "--save", tmp_path / "out").exit_code == 0
    assert frame_rate(str(tmp_path / "out" / "slow.mp4")) == pytest.approx(120.04, abs=1e-3)


def test_an_opencv_without_the_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video(tmp_path / "clip.avi", [0, 0])
    monkeypatch.setattr(cv2, "VideoWriter_fourcc", lambda *code: 0)
    result = run(path, "--save", tmp_path / "out")
    assert result.exit_code == 1
    assert "encodes no MPEG-4 video" in result.stderr


def test_a_name_of_full_length_is_saved(tmp_path: Path) -> None:
    name = "ü" * 125 + ".png"  # 254 bytes of 255
    picture(tmp_path / name)
    assert run(tmp_path / name, "--save", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / name).is_file()


def test_a_video_is_not_ended_while_the_worker_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C that comes while the last frames are written lets nobody else at the video's writer."""
    sink = FileSink(tmp_path, maps=False)
    ended, go_on = [], threading.Event()
    monkeypatch.setattr(sink, "_end_video", lambda: ended.append(threading.current_thread().name))
    sink._worker.submit(go_on.wait)
    join = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        monkeypatch.setattr(threading.Thread, "join", join)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sink.close()
    assert ended == []
    go_on.set()
    sink.close()
    assert ended == ["MainThread"]


def test_a_video_cut_in_half_is_told_and_its_frames_are_kept(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.avi", list(range(0, 240, 6)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = run(path, "--json")
    assert 0 < len(records(result)) < 40
    assert result.exit_code == 1
    assert "is cut short or damaged" in result.stderr


@pytest.mark.parametrize("product", ["a\x00b", "a\x1bb", "\udcff", "cup=\u202e"])
def test_a_product_that_is_no_text_is_refused(tmp_path: Path, product: str) -> None:
    result = run(picture(tmp_path / "a.png"), "--product", product)
    assert result.exit_code == 1
    assert "printable text" in result.stderr
    assert "Traceback" not in result.output


def test_a_threshold_is_for_the_words_it_was_found_with(tmp_path: Path, talking_bundle: Path) -> None:
    good, line = picture(tmp_path / "good" / "a.png").parent, tmp_path / "line"
    picture(good / "b.png", 10)
    calibrate = ["calibrate", str(talking_bundle), "--good", str(good), "--product"]
    found = CliRunner().invoke(cli, [*calibrate, "bolt", "-o", str(line)])
    assert found.exit_code == 0, found.stderr
    (known,) = records(run(good / "a.png", "--json", "--bundle", line, "--product", "bolt"))
    (other,) = records(run(good / "a.png", "--json", "--bundle", line, "--product", "bolt=rotten banana"))
    assert known["threshold"] is not None
    assert other["threshold"] is None
    refused = CliRunner().invoke(cli, [*calibrate, "bolt=rotten banana", "-o", str(tmp_path / "other")])
    assert refused.exit_code == 2
    assert "prompts add" in refused.stderr
