"""What `bench` measures: each stage on the path that `run` takes, memory, energy, a soak, and what breaks it off."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.bench import facts, pictures, power
from acd_edge.bench import measure as measuring
from acd_edge.bench.measure import Measurement, Plan, measure
from acd_edge.bench.plot import result_plot
from acd_edge.bench.power import TegraStatsWatts, energy_facts, watt_meter
from acd_edge.bench.results import read_result, summaries
from acd_edge.bench.run import BenchConfig, Voice, bench, opened_sources
from acd_edge.bench.soak import Soak, drift
from acd_edge.bench.stopwatch import FrameTimes, Kept, Stopwatch, lap_cost_us
from acd_edge.bench.table import result_table
from acd_edge.cli import cli
from acd_edge.device.power import Sample
from acd_edge.errors import BackendError, BenchError, DeviceError, MissingExtra, OutputError
from acd_edge.runtime import Detector
from acd_edge.runtime import detector as detecting
from acd_edge.runtime.backends import BackendOptions
from acd_edge.runtime.preprocess import resize
from acd_edge.runtime.sinks import json_line
from acd_edge.runtime.sinks.files import overlay_of
from acd_edge.runtime.sources import LiveSource, ReadOptions
from acd_edge.runtime.stages import STAGES, Stage
from tests.acd_edge.bench_tools import Clock, MadeSource, jetson_root, write
from tests.fake_gpu import FakeCuda
from tests.made_machine import Machine
from tests.runtime.test_streams import FRAMES, Camera
from tests.tiny_bundle import write_tiny_bundle

COSTS = {"decode": 7.0, "preprocess": 3.0, "infer": 40.0, "post": 2.0, "draw": 11.0}
WHOLE = sum(COSTS.values())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made pictures that are quick to write and to draw on."""
    monkeypatch.setattr(pictures, "SIZE_WH", (64, 48))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def detector(bundle: Path) -> Iterator[Detector]:
    with Detector.load(bundle) as loaded:
        yield loaded


@pytest.fixture
def clock(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock by which each stage of the runtime itself takes its time of `COSTS`."""
    clock = Clock()
    backend = detector.backend
    monkeypatch.setattr(detecting, "resize", clock.costing(COSTS["preprocess"], resize))
    monkeypatch.setattr(backend, "run", clock.costing(COSTS["infer"], backend.run))
    monkeypatch.setattr(measuring, "json_line", clock.costing(COSTS["post"], json_line))
    monkeypatch.setattr(measuring, "overlay_of", clock.costing(COSTS["draw"], overlay_of))
    return clock


def medians(measured: Measurement) -> dict[str, float | None]:
    return {name: None if row is None else round(row.p50, 6) for name, row in summaries(measured.kept).items()}


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, args)])


def test_each_stage_gets_the_time_of_its_own_part_of_the_runtime(detector: Detector, clock: Clock) -> None:
    measured = measure(detector, [MadeSource(clock)], Plan(frames=5, warm_up=2), clock=clock)
    found = medians(measured)
    assert found == {
        **COSTS, "copy": None, "other": 0, "end_to_end": WHOLE, "decision": WHOLE - COSTS["draw"],
    }  # fmt: skip
    assert (measured.kept.seen, measured.warmed, measured.ending) == (5, 2, "complete")
    assert measured.frames_per_second == pytest.approx(1e3 / WHOLE)


def test_a_slower_stage_is_seen_in_its_own_row_and_in_the_whole(
    detector: Detector, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: one more millisecond in the resize moves two rows more than nothing, and no other stage."""
    before = medians(measure(detector, [MadeSource(clock)], Plan(frames=3, warm_up=0), clock=clock))
    monkeypatch.setattr(detecting, "resize", clock.costing(COSTS["preprocess"] + 1, resize))
    after = medians(measure(detector, [MadeSource(clock)], Plan(frames=3, warm_up=0), clock=clock))
    moved = {name for name in after if after[name] != before[name]}
    assert moved == {"preprocess", "end_to_end", "decision"}


class Telling:
    """A backend that tells copying from computing, and leaves five milliseconds of its run unexplained."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.inputs, self.name = inner, inner.inputs, inner.name
        self.wanted: list[bool] = []

    def run(self, feed: Any) -> Any:
        return self.inner.run(feed)

    def close(self) -> None:
        self.inner.close()

    def tell_stages(self, wanted: bool) -> None:
        self.wanted.append(wanted)

    @property
    def stage_ms(self) -> Mapping[Stage, float]:
        return {"copy": 4.0, "infer": 31.0}


def test_a_backend_that_tells_copy_from_compute_is_believed_and_the_rest_is_other(
    detector: Detector, clock: Clock
) -> None:
    teller = detector._backend = Telling(detector.backend)
    found = medians(measure(detector, [MadeSource(clock)], Plan(frames=3, warm_up=0), clock=clock))
    assert (found["copy"], found["infer"], found["other"], found["end_to_end"]) == (4, 31, 5, WHOLE)
    assert teller.wanted == [True, False]  # events cost something, so they are recorded only meanwhile


def test_stages_and_the_rest_are_the_whole_by_the_real_clock(detector: Detector) -> None:
    measured = measure(detector, [MadeSource(Clock())], Plan(frames=8, warm_up=1))
    columns = {name: np.asarray(measured.kept.column(name)) for name in (*STAGES, "other", "end_to_end", "decision")}
    assert not len(columns["copy"])
    parts = sum(columns[name] for name in (*STAGES, "other") if len(columns[name]))
    np.testing.assert_allclose(parts, columns["end_to_end"], rtol=0, atol=1e-9)
    assert (columns["other"] >= 0).all()
    assert np.median(columns["other"]) < 0.2 * np.median(columns["end_to_end"])  # the laps leave little unexplained
    assert (columns["decision"] < columns["end_to_end"]).all()


def test_the_detector_is_left_as_it_was(detector: Detector, clock: Clock) -> None:
    lap = detector.lap
    measure(detector, [MadeSource(clock)], Plan(frames=2, warm_up=0), clock=clock)
    assert detector.lap is lap


def test_measuring_costs_little() -> None:
    """Seven readings of the clock; a hundred times the usual would still be a tenth of a millisecond."""
    assert 0 < lap_cost_us() < 1000


def test_the_first_frame_is_told_apart(detector: Detector, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter([500.0, 90.0, *[0.0] * 9])
    plain = detector.backend.run

    def warming(feed: Any) -> Any:
        clock.now += next(costs) / 1e3
        return plain(feed)

    monkeypatch.setattr(detector.backend, "run", warming)
    measured = measure(detector, [MadeSource(clock)], Plan(frames=4, warm_up=1), clock=clock)
    assert measured.first is not None
    assert measured.first.end_to_end == pytest.approx(WHOLE + 500)
    assert medians(measured)["end_to_end"] == WHOLE


def test_pictures_begin_again_and_a_video_ends(detector: Detector, clock: Clock) -> None:
    pictures = [MadeSource(clock, kind="picture"), MadeSource(clock, kind="picture")]
    assert measure(detector, pictures, Plan(frames=5, warm_up=0), clock=clock).ending == "complete"
    assert [source.given for source in pictures] == [3, 3]
    measured = measure(detector, [MadeSource(clock, limit=6)], Plan(frames=50, warm_up=1), clock=clock)
    assert measured.ending == "the source ended: 4 frames counted, 50 were asked for"
    with pytest.raises(BenchError, match=r"ended after 3 frames, before one counted; the first and 5 of --warm-up"):
        measure(detector, [MadeSource(clock, limit=3)], Plan(frames=50, warm_up=5), clock=clock)


def test_seconds_instead_of_frames(detector: Detector, clock: Clock) -> None:
    measured = measure(detector, [MadeSource(clock)], Plan(frames=None, seconds=0.6, warm_up=0), clock=clock)
    assert measured.kept.seen == 10  # of 63 ms


def test_a_live_frame_counts_from_its_capture(detector: Detector, clock: Clock) -> None:
    """Waiting for the camera is nobody's work; the decision counts the 20 ms that the frame was old when it came."""
    measured = measure(detector, [MadeSource(clock, kind="live")], Plan(frames=3, warm_up=0), clock=clock)
    found = medians(measured)
    assert found["decode"] is None
    assert found["end_to_end"] == WHOLE - COSTS["decode"]
    assert found["decision"] == pytest.approx(WHOLE - COSTS["decode"] - COSTS["draw"] + 20)


class FakeCamera:
    """Gives frames at once, for ever, as OpenCV's capture does."""

    def read(self) -> tuple[bool, np.ndarray]:
        threading.Event().wait(0.005)
        return True, np.zeros((8, 8, 3), np.uint8)

    def release(self) -> None:
        pass


def test_a_fake_camera_from_capture_to_decision(detector: Detector) -> None:
    camera, meanwhile = LiveSource("0", opener=lambda *_: FakeCamera()), list[Any]()
    plan = Plan(frames=6, warm_up=1)
    measured = measure(detector, [camera], plan, each=lambda measured, times: meanwhile.append(measured.live))
    assert all(told["timed_by"] == "arrival" for told in meanwhile)  # a soak writes it while it goes on
    assert measured.live is not None
    assert measured.live["timed_by"] == "arrival"
    assert int(measured.live["read"]) >= 8
    found = medians(measured)
    assert found["decode"] is None
    assert found["decision"] is not None
    assert min(measured.kept.column("decision")) > 0


def test_a_stream_from_the_command_line(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.runtime.test_streams.PAUSE", 0.15)  # s; a busy machine takes several frames all the same
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://me:secret@127.0.0.1:{server.server_port}/end"
    try:
        result = run(bundle, "--source", address, "--warm-up", 1, "--timeout", 3, "--json", tmp_path / "a.json")
    finally:
        server.shutdown()
    assert result.exit_code == 1  # it ended before 200 frames
    assert "a first frame and 1 to warm up" in result.stderr
    assert f"ended after {FRAMES} frames" in result.stderr
    assert "to the decision: from the moment OpenCV gave the frame" in result.stdout
    assert "secret" not in result.output + (tmp_path / "a.json").read_text()
    assert read_result(tmp_path / "a.json").fact("live", "read") == FRAMES


def test_made_pictures_and_the_whole_document(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # once in their real size
    place = tmp_path / "a.json"
    result = run(bundle, "--frames", 4, "--warm-up", 0, "--threads", 1, "--json", place, "--plot", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert "8 made pictures, 1920 x 1080 JPEG" in result.stdout
    assert "energy: not measured" in result.stdout
    values = read_result(place).values
    subject = values["subject"]
    assert (subject["bundle"], subject["size"], subject["precision"], subject["threads"]) == ("tiny", 56, "fp32", 1)
    assert (subject["backend"], len(subject["graph_sha256"])) == ("onnxruntime", 64)
    assert subject["bundle_sha256"] == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert values["versions"]["onnxruntime"]
    assert values["machine"]["cores"] > 0
    assert values["rows_ms"]["copy"] is None
    assert set(values["rows_ms"]["infer"]) == {"mean", "p50", "p90", "p95", "p99", "max"}
    assert values["cold"]["first_frame_ms"]["end_to_end"] > 0
    assert values["memory"]["peak_rss_mb"] > 10
    assert len(values["samples_ms"]["end_to_end"]) == 4
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1920, 1280)


def test_json_on_stdout_is_the_document_alone(bundle: Path) -> None:
    result = run(bundle, "--frames", 2, "--warm-up", 0, "--json")
    assert (result.exit_code, json.loads(result.stdout)["frames"]) == (0, 2)


def test_own_pictures_again_and_again(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(shots / f"{name}.png")
    result = run(bundle, "--source", shots, "--frames", 5, "--warm-up", 0)
    assert result.exit_code == 0
    assert "2 pictures from shots, again and again; 5 frames" in result.stdout
    monkeypatch.chdir(shots)
    with opened_sources([".", "*.png", "../shots/a.png", "b.png"], ReadOptions()) as (_, told):
        assert told == "6 pictures from shots, *.png, a.png and 1 more, again and again"


def test_ctrl_c_tells_what_was_measured(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = iter([None] * 6)

    def interrupted(record: Any) -> Any:
        if next(frames, "end") == "end":
            raise KeyboardInterrupt
        return overlay_of(record)

    monkeypatch.setattr(measuring, "overlay_of", interrupted)
    result = run(bundle, "--warm-up", 1, "--json", tmp_path / "a.json")
    assert result.exit_code == 130
    assert "note: interrupted; 4 frames count" in result.stdout
    assert result.stderr.endswith("Interrupted\n")
    values = read_result(tmp_path / "a.json").values
    assert (values["ending"], values["frames"]) == ("interrupted", 4)


def test_ctrl_c_before_a_frame_counts_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(record: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "overlay_of", interrupted)
    result = run(bundle, "--json", tmp_path / "a.json")
    assert (result.exit_code, result.stdout) == (130, "")
    assert not (tmp_path / "a.json").exists()


def test_a_backend_that_fails_on_the_way_leaves_what_was_measured(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU that is gone after hours of a soak."""
    frames = iter([None] * 5)

    def failing(self: Detector, pixels: Any) -> Any:
        if next(frames, "end") == "end":
            raise BackendError("the device was lost")
        return infer(self, pixels)

    infer = Detector.infer
    monkeypatch.setattr(Detector, "infer", failing)
    result = run(bundle, "--warm-up", 1, "--json", tmp_path / "a.json")
    assert (result.exit_code, result.stderr.count("Error: the device was lost")) == (1, 1)
    assert "note: the device was lost; 3 frames count" in result.stdout
    assert read_result(tmp_path / "a.json").fact("frames") == 3
    result = run(bundle, "--warm-up", 1, "--json", tmp_path / "b.json")
    assert (result.exit_code, result.stdout, (tmp_path / "b.json").exists()) == (1, "", False)


def test_a_device_that_is_gone_cannot_be_told_to_stop(detector: Detector, clock: Clock) -> None:
    class Gone(Telling):
        def tell_stages(self, wanted: bool) -> None:
            if not wanted:
                raise DeviceError("the device was lost")

    detector._backend = Gone(detector.backend)
    assert measure(detector, [MadeSource(clock)], Plan(frames=2, warm_up=0), clock=clock).kept.seen == 2


def test_a_picture_that_breaks_off_the_measuring(bundle: Path, tmp_path: Path) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    for name in "abc":
        Image.new("RGB", (40, 30)).save(shots / f"{name}.png")
    (shots / "d.png").write_bytes(b"nothing")
    result = run(bundle, "--source", shots, "--frames", 50, "--warm-up", 0)
    assert result.exit_code == 1
    assert "d.png is not a picture" in result.stderr
    assert "2 frames count" in result.stdout


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--frames", "0"], 2, "0 is not in the range"),
        (["--backend", "zeus"], 2, "'zeus' is not one of"),
        (["--frames", "3", "--seconds", "2"], 2, "give one of them"),
        (["--seconds", "nan"], 2, "--seconds must be a number, got nan"),
        (["--json", "result"], 2, "--json takes a file that ends in .json, got result"),
        (["--plot", "plot.pdf"], 2, "--plot takes a name that ends in .svg or .png, got plot.pdf"),
        (["--source", "nowhere"], 1, "nowhere does not exist"),
        (["--source", "."], 1, ". holds no picture and no video"),
        (["--data", "x"], 2, "--data has no use in measuring a bundle; leave it away"),
        (["absent"], 1, "there is no bundle at absent"),
        (["."], 1, "there is no manifest.json in it, so it is no bundle"),
        ([".", "."], 2, "one bundle is measured, got"),
        (["--source", "rtsp://a", "--source", "rtsp://b"], 2, "one live source at a time"),
        (["--source", "rtsp://a", "--source", "a.png"], 2, "a camera or stream is measured alone"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    args: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "a.png" in args:
        Image.new("RGB", (9, 9)).save("a.png")
    result = run(*args)
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    assert result.stdout == ""


def test_places_in_use_are_refused_before_the_measuring(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    result = run(bundle, "--json", tmp_path / "a.json")
    assert (result.exit_code, "add --force to replace it" in result.stderr) == (1, True)
    assert run(bundle, "--frames", 2, "--warm-up", 0, "--json", tmp_path / "a.json", "--force").exit_code == 0


def test_kept_frames_are_thinned_evenly_and_mean_and_maximum_stay_exact() -> None:
    kept = Kept(limit=10)
    for value in range(100):
        kept.add(FrameTimes(stages={}, other=0.0, end_to_end=float(value), decision=1.0))
    column = list(kept.column("end_to_end"))
    assert column == [float(value) for value in range(0, 100, kept.stride)]
    assert len(column) <= 10
    assert (kept.seen, kept.mean("end_to_end"), kept.largest("end_to_end")) == (100, 49.5, 99)
    assert not len(kept.column("copy"))


def test_a_watch_without_a_decision_decides_at_its_last_lap() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 0.5
    watch.lap("infer")
    assert watch.read().decision == pytest.approx(500)
    assert watch.read(captured=clock.now - 2).decision == pytest.approx(2000)


def config(root: Path, **changes: Any) -> BenchConfig:
    plan = Plan(frames=5, warm_up=0)
    return BenchConfig(texts=(), plan=plan, options=BackendOptions(), root=root, idle_s=0.05, **changes)


def test_energy_of_a_frame_above_idle(bundle: Path, tmp_path: Path) -> None:
    """5 V and 1 A while idle, 1.6 A from loading on: 8 W of which 5 are idle."""
    root = jetson_root(tmp_path / "root")

    def load() -> Detector:
        write(root, sys__class__hwmon__hwmon1__curr1_input=1600)
        return Detector.load(bundle)

    said: list[str] = []
    values = bench(load, config(root), Voice(say=said.append)).values
    energy = values["energy"]
    assert (energy["idle_watts"], energy["mean_watts"]) == (5.0, 8.0)
    assert energy["joules_per_frame"] / energy["joules_per_frame_above_idle"] == pytest.approx(8 / 3, rel=0.01)
    assert energy["source"] == "power monitors in sysfs: VDD_IN"
    assert said[0] == "idle power for 0.05 s"
    state = values["state_after"]
    assert (state["power_mode"]["name"], state["clocks_locked"]) == ("MAXN_SUPER", True)
    assert values["machine"]["jetson"]["jetpack"] == "6.2"
    assert values["machine"]["memory_mb"] == 7620
    assert values["memory"]["peak_rss_mb"] == 200
    assert values["throttled"] == []
    assert "other programs were busy (load 3.2 on" in result_table(values)
    table = result_table(values)
    assert "8.00 W of which 5.00 W idle" in table
    assert "MAXN_SUPER; gpu 52 °C; gpu 1020 MHz; clocks locked" in table
    assert "NVIDIA Jetson Orin Nano Developer Kit" in table.splitlines()[0]


def test_a_monitor_that_falls_silent_gives_no_energy(bundle: Path, tmp_path: Path) -> None:
    """Watts of a part of the time, by all of the frames, would be too few."""
    root = jetson_root(tmp_path / "root")

    def each(measured: Measurement, times: FrameTimes) -> None:
        monitor = root / "sys/class/hwmon/hwmon1/curr1_input"
        monitor.unlink(missing_ok=True)
        measured.ended += 1.5  # as if the rest had taken so long

    values = bench(lambda: Detector.load(bundle), config(root), Voice(each=each)).values
    assert values["energy"] is None
    assert "energy: not measured, power monitors in sysfs: VDD_IN gave no watts over all of the frames" in result_table(
        values
    )


def test_energy_is_the_integral_above_idle_by_the_frames() -> None:
    samples = [Sample(0, 4), Sample(2, 8), Sample(4, 8)]
    found = energy_facts(samples, 0, 4, 7, idle=3.0, source="test")
    assert found is not None
    assert (found["mean_watts"], found["joules_per_frame"]) == (7.0, 4.0)  # 12 J and 16 J
    assert found["joules_per_frame_above_idle"] == pytest.approx((28 - 12) / 7, abs=1e-4)
    assert energy_facts(samples, 0, 5, 7, idle=3.0, source="test") is None  # the samples end before
    assert energy_facts(samples, 0, 4, 7, idle=None, source="test") is None


class Process:
    """A tegrastats that has printed two lines and ended."""

    def __init__(self) -> None:
        line = "RAM 974/7546MB (lfb 6x4MB) GR3D_FREQ 12% gpu@50.875C VDD_IN {}mW/4550mW"
        self.stdout = self.lines([line.format(4548), "nonsense", line.format(6100)])
        self.read, self.go_on, self.ended = threading.Event(), threading.Event(), False

    def lines(self, lines: list[str]) -> Iterator[str]:
        yield from lines
        self.read.set()
        self.go_on.wait(5)

    def terminate(self) -> None:
        self.ended = True
        self.go_on.set()

    def wait(self) -> None:
        pass


def test_watts_of_tegrastats_where_sysfs_tells_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process()
    with TegraStatsWatts(spawn=lambda *args, **others: process) as stats:
        assert process.read.wait(5)
        assert stats.read() == pytest.approx(6.1)
    assert process.ended
    monkeypatch.setattr(power, "TegraStatsWatts", lambda: TegraStatsWatts(spawn=lambda *args, **others: Process()))
    with watt_meter(tmp_path, which=lambda name: f"/usr/bin/{name}") as meter:
        assert meter is not None
        assert meter.source == "tegrastats"
    with watt_meter(tmp_path, which=lambda name: None) as meter:
        assert meter is None


def soaked(root: Path, latencies: list[float], written: list[int]) -> Soak:
    """A soak with windows of 10 s over frames that come every 2 s."""
    soak = Soak(10, write=lambda measured: written.append(measured.kept.seen), root=root)
    measured = Measurement(began=1000.0)
    for place, latency in enumerate(latencies):
        times = FrameTimes(stages={}, other=0.0, end_to_end=latency, decision=latency)
        measured.kept.add(times)
        measured.ended = 1000.0 + 2 * (place + 1)
        if place == 12:
            write(root, sys__class__hwmon__hwmon2__oc3_event_cnt=9)
            write(root, sys__class__thermal__thermal_zone0__temp=71000)
        soak.each(measured, times)
    soak.finish(measured)
    return soak


def test_a_soak_in_windows_that_are_written_as_they_end(tmp_path: Path) -> None:
    root, written = jetson_root(tmp_path / "root"), list[int]()
    windows = soaked(root, [10.0] * 5 + [20.0] * 10 + [30.0] * 2, written).windows
    assert written == [5, 10, 15]  # so that an interruption leaves what was measured
    assert [window["frames"] for window in windows] == [5, 5, 5, 2]
    assert [window["p50_ms"] for window in windows] == [10, 20, 20, 30]
    assert [window["from_s"] for window in windows] == [0, 10, 20, 30]
    assert [window["temperatures_c"]["gpu"] for window in windows] == [51.5, 51.5, 71, 71]
    assert [window["throttled"] for window in windows] == [[], [], ["5 events of oc3"], []]
    assert windows[0]["clocks_mhz"] == {"gpu": 1020}
    assert windows[0]["rss_mb"] == 100


def test_drift_of_the_last_quarter_against_the_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    windows = soaked(jetson_root(tmp_path / "root"), [10.0] * 40, []).windows
    steady, rising = rng.normal(10, 0.2, 2000), rng.normal(10, 0.2, 2000) + np.linspace(0, 2, 2000)
    found = drift(list(rising), windows)
    assert found is not None
    assert found["latency"]["differs"]
    assert found["latency"]["ratio"]["value"] == pytest.approx(1.15, abs=0.02)  # 11.75 against 10.25
    assert (found["hottest_first_c"], found["hottest_last_c"], found["throttled_windows"]) == (51.5, 71, 1)
    control = drift(list(steady), windows)
    assert control is not None
    assert not control["latency"]["differs"]
    assert drift([1.0] * 20, windows) is None


def test_a_soak_from_the_command_line(bundle: Path, tmp_path: Path) -> None:
    result = run(bundle, "--soak", 0.02, "--warm-up", 0, "--json", tmp_path / "a.json", "--plot", tmp_path / "a.svg")
    assert result.exit_code == 0, result.output
    soak = read_result(tmp_path / "a.json").fact("soak")
    assert sum(window["frames"] for window in soak["windows"]) == read_result(tmp_path / "a.json").fact("frames")
    assert "soak: 1 windows of 5 s" in result.stdout
    assert (tmp_path / "a.svg").read_text().startswith("<svg ")


def test_each_window_leaves_a_document(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk holds while a soak goes on is a whole result."""
    monkeypatch.setattr("acd_edge.bench.run.soak_interval", lambda minutes: 0.01)
    written: list[dict[str, Any]] = []
    voice = Voice(write=written.append)
    values = bench(lambda: Detector.load(bundle), replace(config(tmp_path), soak_minutes=0.02), voice).values
    frames, endings = [each["frames"] for each in written], [each["ending"] for each in written]
    assert len(frames) >= 3
    assert frames == sorted(frames)
    assert frames[-1] == values["frames"]
    assert set(endings[:-1]) == {"it was still going on"}  # which is what a power cut leaves
    assert endings[-1] == "complete"


def full_disk(monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """The first so many documents find no room."""
    left = [times]

    def write(path: Path, values: dict[str, Any]) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OutputError(f"{path} cannot be written: No space left on device")
        path.write_text(json.dumps(values))

    monkeypatch.setattr("acd_edge.bench.results.write_json", write)


def test_a_disk_that_is_full_at_the_end_loses_no_measurement(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, times=1)
    result = run(bundle, "--frames", 3, "--warm-up", 0, "--json", tmp_path / "a.json", "--plot", tmp_path / "a.svg")
    assert (result.exit_code, result.stderr.count("No space left on device")) == (1, 1)
    assert "to the decision" in result.stdout
    assert (tmp_path / "a.svg").exists()


def test_a_plot_that_finds_no_room_leaves_the_one_before(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a.svg"
    place.write_text("the one before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    result = run(bundle, "--frames", 2, "--warm-up", 0, "--plot", place, "--force")
    assert (result.exit_code, "No space left on device" in result.stderr) == (1, True)
    assert place.read_text() == "the one before"
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".part"] == []


def test_a_disk_that_is_full_for_a_while_does_not_end_a_soak(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acd_edge.bench.run.soak_interval", lambda minutes: 0.01)
    full_disk(monkeypatch, times=2)
    result = run(bundle, "--soak", 0.02, "--warm-up", 0, "--json", tmp_path / "a.json")
    assert (result.exit_code, result.stderr.count("the measuring goes on")) == (0, 1)
    assert read_result(tmp_path / "a.json").fact("ending") == "complete"


def test_the_plots_hold_their_words_and_no_markup_of_others(tmp_path: Path) -> None:
    from acd_edge.bench.canvas import Canvas

    canvas = Canvas(100, 50)
    canvas.words((5, 20), "<b> & co", (0, 0, 0))
    canvas.words((5, 40), "", (0, 0, 0), turned=True)
    canvas.path([(0, 0), (50, 50)], (255, 0, 0), dashed=True)
    canvas.dots([(10, 10)], (0, 0, 255))
    assert "&lt;b&gt; &amp; co" in canvas.svg()
    (tmp_path / "a.png").write_bytes(canvas.png())
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (200, 100)
        assert picture.getpixel((20, 20)) == (0, 0, 255)


@pytest.mark.parametrize("throttled", [[], ["5 events of oc3"]])
def test_what_a_plot_marks_it_explains(throttled: list[str], bundle: Path, tmp_path: Path) -> None:
    values = bench(lambda: Detector.load(bundle), config(tmp_path)).values
    window = {"from_s": 0, "seconds": 5, "p50_ms": 1, "p95_ms": 2, "temperatures_c": {}, "throttled": throttled}
    found = result_plot({**values, "soak": {"windows": [window, {**window, "from_s": 5}]}}, "title").svg()
    assert ("throttled" in found) is bool(throttled)
    assert "bar and number the median, line to p99" in found


def test_an_engine_tells_copies_by_its_events_and_what_it_is(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a made GPU whose every event comes a millisecond after the one before: two copies and one run."""
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    machine = Machine(monkeypatch, FakeCuda())
    monkeypatch.setattr(facts, "open_cuda", lambda which="auto": machine.cuda)
    engine = machine.engine(bundle)

    def load() -> Detector:
        return Detector.load(bundle, backend="tensorrt")

    values = bench(load, config(tmp_path, asked_backend="tensorrt")).values
    assert (values["rows_ms"]["copy"]["p50"], values["rows_ms"]["infer"]["p50"]) == (2, 1)
    subject = values["subject"]
    assert (subject["backend"], subject["threads"]) == ("tensorrt (fp16)", None)
    assert (subject["engine"]["sha256"], subject["engine"]["state"]) == (engine.record.plan_sha256, "verified")
    assert values["machine"]["gpu"]["memory_used_mb"] == values["machine"]["gpu"]["memory_mb"] - 3
    assert "of the GPU in use at the end, by all programs" in result_table(values)  # the process's is a peak
    assert machine.released()


@pytest.mark.parametrize("built_now", [True, False])
def test_an_engine_that_was_built_in_the_run_is_told(
    built_now: bool, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its building is in the time of loading and in the memory, which are then no other run's."""
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    machine = Machine(monkeypatch, FakeCuda())
    monkeypatch.setattr(facts, "open_cuda", lambda which="auto": machine.cuda)
    if not built_now:
        monkeypatch.setattr("acd_edge.runtime.engine_records.now", lambda: "2026-01-01T00:00:00+00:00")
        machine.engine(bundle)

    def load() -> Detector:
        if built_now:
            machine.engine(bundle)
        return Detector.load(bundle, backend="tensorrt")

    values = bench(load, config(tmp_path, asked_backend="tensorrt")).values
    assert values["subject"]["engine"]["built_now"] is built_now
    assert ("note: the engine was built in this run" in result_table(values)) is built_now


def test_a_gpu_that_no_binding_tells_of_is_noted(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime runs on CUDA without cuda-python; then nobody here can ask for the memory."""

    def absent(which: str = "auto") -> None:
        raise MissingExtra("cuda-python is not installed")

    monkeypatch.setattr(facts, "open_cuda", absent)
    named = {"backend": "onnxruntime (CUDA)"}
    values = bench(lambda: Detector.load(bundle), config(tmp_path)).values
    assert "no Python binding of CUDA" not in result_table(values)
    values = {**values, "subject": {**values["subject"], **named}}
    assert facts.gpu_facts(named["backend"]) is None
    assert "note: no Python binding of CUDA told the GPU" in result_table(values)


@pytest.mark.parametrize(("name", "device", "told"), [
    ("onnxruntime", "auto", True), ("openvino (f32)", "cpu", True), ("openvino (f32)", "gpu", False),
    ("onnxruntime (CUDA)", "auto", False),
])  # fmt: skip
def test_threads_are_those_of_a_cpu(detector: Detector, name: str, device: Any, told: bool) -> None:
    detector._backend = Telling(detector.backend)
    detector._backend.name = name
    options = BackendOptions(device=device)
    found = facts.subject_facts(detector, options, asked_backend="auto", since="2026-01-01T00:00:00+00:00")
    assert (found["threads"] is not None) is told


def test_every_flag_belongs_to_a_mode() -> None:
    """A flag that no mode used would be refused everywhere."""
    from acd_edge.cli.bench import _USED, command

    assert isinstance(command, click.Command)
    names = {parameter.name for parameter in command.params}
    assert names == frozenset().union(*_USED.values())
