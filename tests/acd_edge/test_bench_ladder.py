"""The ladder of sizes and precisions: what is exported, kept, refused, told, and which rung is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.bench import facts, pictures
from acd_edge.bench import ladder as climbing
from acd_edge.bench.ladder import Choice, Ladder, Latency, Request, Rung, Work, best_rung, sizes_around, walk
from acd_edge.checkpoint import builtin_checkpoint
from acd_edge.cli import cli
from acd_edge.cli.bench_ladder import _fingerprint
from acd_edge.cli.export import command as export_command
from acd_edge.cli.export_precision import Wanted
from acd_edge.data.samples import load_data
from acd_edge.errors import BackendError, BenchError, ExportError, MissingExtra
from acd_edge.export import engine as export_engine
from acd_edge.runtime.bundle import Bundle
from tests import tiny_bundle
from tests.fake_gpu import FakeCuda
from tests.made_machine import Machine
from tests.picture_trees import write_category

TRIED: list[str] = []


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SIZE_WH", (64, 48))
    TRIED.clear()


@pytest.fixture
def checkpoint() -> Path:
    """The one of the package, whose own size is 420; no test but the last exports it."""
    return builtin_checkpoint()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_category(tmp_path / "set" / "metal_nut")
    return tmp_path / "set"


def tiny_export(request: Request, choice: Choice, bundle: Path) -> None:
    """A bundle whose map is the picture's brightness, of any size; TensorRT's precision is refused as export would."""
    TRIED.append(choice.name)
    request.arguments(choice, bundle)  # which has its own refusals
    if choice.size % tiny_bundle.PATCH:
        raise ExportError(f"--size {choice.size} is not a multiple of the patch, {tiny_bundle.PATCH}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_bundle, "SIZE", choice.size)
        tiny_bundle.write_tiny_bundle(bundle, precision=choice.precision)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climbing, "export_rung", tiny_export)


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, args)])


def climb(checkpoint: Path, data: Path, *args: object, frames: int = 3) -> Result:
    return run("--budget-ms", 1e6, "--from", checkpoint, "--data", data, "--frames", frames, "--warm-up", 0, *args)


REQUEST = Request(checkpoint=Path("c"), checkpoint_sha256="1f", domain="industrial", products={"nut": "metal nut"})


def test_the_best_is_the_most_accurate_that_fits() -> None:
    rungs = [
        Rung(name="a", size=1, precision="fp32", p95_ms=9, pixel_auroc=0.90, fits=True),
        Rung(name="b", size=2, precision="fp32", p95_ms=19, pixel_auroc=0.95, fits=True),
        Rung(name="c", size=2, precision="fp16", p95_ms=12, pixel_auroc=0.95, fits=True),
        Rung(name="d", size=3, precision="fp32", p95_ms=40, pixel_auroc=0.99, fits=False),
        Rung(name="e", size=4, precision="fp32", reason="it broke"),
    ]
    best = best_rung(rungs)
    assert best is not None
    assert best.name == "c"  # as good as b, and faster
    assert best_rung(rungs[3:]) is None


def test_sizes_are_multiples_of_the_patch() -> None:
    assert sizes_around(518, 14) == (252, 350, 434, 518, 602)
    assert sizes_around(14, 14) == (14,)


def test_what_export_is_asked_for() -> None:
    calibrated = replace(REQUEST, calib=Path("k"), clip_weights=Path("w.pt"), int8_base="fp16", bit_depth=12)
    assert REQUEST.arguments(Choice(420, "fp16"), Path("out")) == [
        *("export", "c", "--size", "420", "--domain", "industrial", "--fp16"),
        *("--product", "nut=metal nut", "--no-compile", "-o", "out"),
    ]
    found = calibrated.arguments(Choice(420, "int8"), Path("out"))
    assert found[6:12] == ["--int8", "--fp16", "--calib", "k", "--bit-depth", "12"]
    assert found[-5:] == ["--clip-weights", "w.pt", "--no-compile", "-o", "out"]
    with pytest.raises(ExportError, match="int8 needs --calib DIR"):
        REQUEST.arguments(Choice(420, "int8"), Path("out"))


def slow(bundle: Path) -> tuple[Latency, str]:
    """Milliseconds by the size in the name; fp16 does not load."""
    if bundle.name.endswith("fp16"):
        raise BackendError("it cannot be loaded")
    size = float(bundle.name.partition("-")[0])
    return Latency(size, size + 1), "made"


def climbed(work: Path, *names: str, request: Request = REQUEST, budget_ms: float = 50) -> Ladder:
    choices = [Choice(int(size), precision) for size, _, precision in (name.partition("-") for name in names)]
    ladder = Ladder(budget_ms)
    list(walk(ladder, choices, request, Work(work), export=tiny_export, measure=slow, judge=lambda *_: 0.9))
    return ladder


def test_a_rung_that_cannot_be_has_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    ladder = climbed(tmp_path, "28-fp32", "57-fp32", "42-fp16", "56-fp32", "28-int8")
    assert {rung.name: (rung.fits, rung.reason) for rung in ladder.rungs} == {
        "28-fp32": (True, ""),
        "57-fp32": (False, "--size 57 is not a multiple of the patch, 14"),
        "42-fp16": (False, "it cannot be loaded"),
        "56-fp32": (False, ""),  # 57 ms at the 95th percentile
        "28-int8": (False, "int8 needs --calib DIR, pictures that its ranges are measured on"),
    }
    assert ladder.to_dict()["best"] == "28-fp32"
    assert [rung.name for rung in ladder.sorted()] == ["28-fp32", "28-int8", "42-fp16", "56-fp32", "57-fp32"]


def test_what_is_there_is_not_exported_again_unless_something_differs(tmp_path: Path) -> None:
    climbed(tmp_path, "28-fp32", "42-fp32")
    climbed(tmp_path, "28-fp32", "42-fp32", "56-fp32")
    assert TRIED == ["28-fp32", "42-fp32", "56-fp32"]
    climbed(tmp_path, "28-fp32", request=replace(REQUEST, checkpoint_sha256="2e"))
    assert TRIED[3:] == ["28-fp32"]
    shutil.rmtree(tmp_path / "28-fp32")
    climbed(tmp_path, "28-fp32", request=replace(REQUEST, checkpoint_sha256="2e"))
    assert TRIED[4:] == ["28-fp32"]


def test_the_bit_depth_counts_where_pictures_count(data: Path) -> None:
    """INT8's ranges are measured on pictures, and every rung is judged on some."""
    deep = replace(REQUEST, bit_depth=12)
    same = [REQUEST.identity(choice) == deep.identity(choice) for choice in (Choice(28, "fp32"), Choice(28, "int8"))]
    assert same == [True, False]
    prints = [_fingerprint(load_data([data], bit_depth=bits)) for bits in (16, 16, 12)]
    assert [prints[0] == each for each in prints[1:]] == [True, False]


def test_a_folder_that_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "28-fp32").mkdir()
    (tmp_path / "28-fp32" / "thesis.txt").touch()
    (rung,) = climbed(tmp_path, "28-fp32").rungs
    assert "was not exported by a ladder and is in the way" in rung.reason
    assert (tmp_path / "28-fp32" / "thesis.txt").exists()
    (tmp_path / "ladder.json").write_text("[]")
    with pytest.raises(BenchError, match="of no ladder"):
        Work(tmp_path)


def test_a_rung_that_was_altered_is_exported_again(tmp_path: Path) -> None:
    climbed(tmp_path, "28-fp32", "42-fp32")
    graph = tmp_path / "28-fp32" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"x")
    ladder = climbed(tmp_path, "28-fp32", "42-fp32")
    assert [rung.reason for rung in ladder.rungs] == ["", ""]
    assert TRIED == ["28-fp32", "42-fp32", "28-fp32"]


def test_an_export_that_was_interrupted_is_neither_the_one_before_nor_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the bundle was there and before that was kept: it is exported again, for whichever request."""

    def killed(work: Work, request: Request, choice: Choice) -> None:
        raise KeyboardInterrupt

    other = replace(REQUEST, checkpoint_sha256="2e")
    climbed(tmp_path, "28-fp32")
    with monkeypatch.context() as patch:
        patch.setattr(Work, "exported", killed)
        with pytest.raises(KeyboardInterrupt):
            climbed(tmp_path, "28-fp32", request=other)
    assert climbed(tmp_path, "28-fp32").rungs[0].reason == ""
    assert TRIED == ["28-fp32"] * 3


def test_two_walks_in_one_folder_keep_the_rungs_of_both(tmp_path: Path) -> None:
    """Else the next walk finds bundles that nobody seems to have exported."""
    first, second = Work(tmp_path), Work(tmp_path)
    for work, choice in ((first, Choice(28, "fp32")), (second, Choice(42, "fp32"))):
        work.make_room(choice)
        tiny_export(REQUEST, choice, work.bundle(choice))
        work.exported(REQUEST, choice)
    climbed(tmp_path, "28-fp32", "42-fp32")
    assert TRIED == ["28-fp32", "42-fp32"]


def test_an_interrupted_export_has_time_to_tidy_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to end reaches this process alone; the export would else be killed and leave its half."""
    tidied = tmp_path / "tidied"
    monkeypatch.setattr(
        climbing,
        "_CODE",
        "# {path}\nimport pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(tidied)!r}).touch(), sys.exit(143)))\n"
        f"pathlib.Path({str(tmp_path / 'there')!r}).touch()\ntime.sleep(60)",
    )

    def communicate(process: subprocess.Popen[str]) -> None:
        while not (tmp_path / "there").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
    with pytest.raises(KeyboardInterrupt):
        climbing.export_rung(REQUEST, Choice(28, "fp32"), tmp_path / "out")
    assert tidied.exists()


def test_an_export_that_is_killed_names_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a system that is out of memory; the last line that it wrote is no reason."""
    code = "# {path}\nimport os, signal, sys\nprint('fold', file=sys.stderr, flush=True)\nos.kill(os.getpid(), SIGNAL)"
    for name, words in (("SIGKILL", r"^the export was ended by signal 9 \(Killed\); perhaps"), ("SIGSEGV", r"\)$")):
        monkeypatch.setattr(climbing, "_CODE", code.replace("SIGNAL", f"signal.{name}"))
        with pytest.raises(ExportError, match=words):
            climbing.export_rung(REQUEST, Choice(28, "fp32"), tmp_path / "out")


def test_an_export_takes_no_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('another json')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=r"^no checkpoint at none"):
        climbing.export_rung(replace(REQUEST, checkpoint=Path("none")), Choice(28, "fp32"), tmp_path / "out")


def test_a_source_that_is_too_short_for_a_rung_is_told(
    checkpoint: Path, data: Path, tmp_path: Path, exported: None
) -> None:
    """Five frames have no 95th percentile to hold against a budget."""
    cv2 = pytest.importorskip("cv2")
    clip = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(5):
        clip.write(np.zeros((48, 64, 3), np.uint8))
    clip.release()
    result = climb(checkpoint, data, "--size", 28, "--source", tmp_path / "v.avi", frames=9)
    assert result.exit_code == 1
    assert "28-fp32: the source ended: 4 frames counted, 9 were asked for; give a longer --source" in result.stdout


def test_from_the_command_line(checkpoint: Path, data: Path, tmp_path: Path, exported: None) -> None:
    place, work = tmp_path / "l.json", tmp_path / "rungs"
    sizes = ("--size", 56, "--size", 28)
    result = climb(checkpoint, data, *sizes, "-o", work, "--json", place, "--plot", tmp_path / "l.svg")
    assert result.exit_code == 0, result.output
    assert [f"{size}-{each}" for size in (56, 28) for each in ("fp32", "fp16")] == TRIED
    values = json.loads(place.read_text())
    assert [rung["name"] for rung in values["rungs"]] == ["28-fp32", "28-fp16", "56-fp32", "56-fp16"]
    assert all(rung["pixel_auroc"] > 0.95 and rung["fits"] for rung in values["rungs"])  # brightness is the defect
    assert result.stdout.splitlines()[-1].startswith(f"best that fits: {values['best']}, p50 ")
    assert "onnxruntime" in result.stdout
    assert "budget" in (tmp_path / "l.svg").read_text()
    with Bundle.open(work / "28-fp16") as bundle:
        assert (bundle.manifest.size, bundle.manifest.precision) == (28, "fp16")
    TRIED.clear()
    again = climb(checkpoint, data, *sizes, "-o", work)
    assert (again.exit_code, TRIED) == (0, [])
    assert "28-fp16: exported before" in again.stderr


def test_an_altered_mask_or_label_is_judged_anew(checkpoint: Path, data: Path, tmp_path: Path, exported: None) -> None:
    """The pictures stay as they are."""
    nut, listed = data / "metal_nut", tmp_path / "list.jsonl"
    mask = nut / "ground_truth/dent/000_mask.png"

    def judged(*, bright: int) -> float:
        dent = {"image_path": str(nut / "test/dent/000.png"), "label": 1, "mask_path": str(mask)}
        spot = {"image_path": str(nut / "test/spot/000.png"), "label": bright}
        listed.write_text("\n".join(json.dumps({**each, "class_name": "metal_nut"}) for each in (dent, spot)))
        result = climb(checkpoint, listed, "--size", 28, "--precision", "fp32", "-o", tmp_path / "rungs", "--json")
        return float(json.loads(result.stdout)["rungs"][0]["pixel_auroc"])

    unplaced = judged(bright=1)  # a defect without a mask: none of its pixels counts
    assert unplaced > judged(bright=0)
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    assert judged(bright=1) < unplaced - 0.5
    assert TRIED == ["28-fp32"]


def test_without_an_output_one_rung_lies_on_the_disk_at_a_time(
    checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[list[str]] = []

    def export(request: Request, choice: Choice, bundle: Path) -> None:
        beside.append([path.name for path in bundle.parent.iterdir() if path.is_dir()])
        tiny_export(request, choice, bundle)

    monkeypatch.setattr(climbing, "export_rung", export)
    result = climb(checkpoint, data, "--size", 28, "--size", 42, "--precision", "fp32", "--precision", "fp16")
    assert result.exit_code == 0
    assert beside == [[]] * 4


def test_the_load_that_is_told_is_that_before_the_work(
    checkpoint: Path, data: Path, exported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "machine_facts", lambda: {"load_before": len(TRIED)})
    result = climb(checkpoint, data, "--size", 28, "--precision", "fp32", "--json")
    assert (json.loads(result.stdout)["machine"], TRIED) == ({"load_before": 0}, ["28-fp32"])


def test_nothing_fits(checkpoint: Path, data: Path, exported: None) -> None:
    result = run("--budget-ms", 1e-6, "--from", checkpoint, "--data", data, "--size", 28, "--precision", "fp32",
                 "--frames", 2, "--warm-up", 0)  # fmt: skip
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("nothing fits 1e-06 ms; the fastest is 28-fp32, p50 ")
    assert TRIED == ["28-fp32"]


def test_invalid_combinations_are_told(checkpoint: Path, data: Path, exported: None) -> None:
    result = climb(checkpoint, data, "--size", 28, "--size", 30, "--precision", "fp32", "--precision", "bf16",
                   "--precision", "int8")  # fmt: skip
    assert result.exit_code == 0
    assert "30-fp32: --size 30 is not a multiple of the patch" in result.stdout
    assert "28-int8: int8 needs --calib DIR" in result.stdout
    assert "28-bf16: " in result.stdout
    assert "bf16 bundle, which ONNX Runtime's CPU cannot run" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("best that fits: 28-fp32")


def test_on_tensorrt_engines_are_built_and_bf16_is_a_rung(
    checkpoint: Path, data: Path, tmp_path: Path, exported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a made GPU; each rung's engine is asked for before it is measured."""
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    machine, built = Machine(monkeypatch, FakeCuda()), list[str]()
    monkeypatch.setattr("acd_edge.runtime.cuda.open_cuda", lambda which="auto": machine.cuda)
    monkeypatch.setattr("acd_edge.runtime.trt_module.load_tensorrt", lambda: machine.trt)
    monkeypatch.setattr(facts, "open_cuda", lambda which="auto": machine.cuda)

    def ensure_engine(opened: Bundle, **others: Any) -> None:
        built.append(opened.path.name)
        machine.engine(opened.path)

    monkeypatch.setattr(export_engine, "ensure_engine", ensure_engine)
    result = climb(checkpoint, data, "--size", 56, "--backend", "tensorrt", "--json")
    assert result.exit_code == 0, result.output
    rungs = json.loads(result.stdout)["rungs"]
    assert [rung["name"] for rung in rungs] == ["56-fp32", "56-fp16", "56-bf16"] == list(dict.fromkeys(built))
    assert {rung["backend"] for rung in rungs} == {"tensorrt (fp16)"}  # as the made engines say
    assert machine.released()


def test_a_backend_that_is_not_installed_ends_the_walk(tmp_path: Path) -> None:
    """No other rung could be measured either, and each would be exported for minutes."""

    def absent(bundle: Path) -> tuple[Latency, str]:
        raise MissingExtra("it is not installed")

    choices = [Choice(28, "fp32"), Choice(42, "fp32")]
    rungs = walk(Ladder(5), choices, REQUEST, Work(tmp_path), export=tiny_export, measure=absent, judge=lambda *_: 0.9)
    with pytest.raises(MissingExtra):
        list(rungs)
    assert TRIED == ["28-fp32"]


def test_ctrl_c_tells_the_rungs_so_far(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(request: Request, choice: Choice, bundle: Path) -> None:
        if choice.size == 280:
            raise KeyboardInterrupt
        tiny_export(request, choice, bundle)

    monkeypatch.setattr(climbing, "export_rung", interrupted)
    result = climb(checkpoint, data, "--json", tmp_path / "l.json")
    assert result.exit_code == 130
    assert "interrupted: there are rungs that were not climbed" in result.stdout
    values = json.loads((tmp_path / "l.json").read_text())
    names = [rung["name"] for rung in values["rungs"]]
    assert (values["ending"], names) == ("interrupted", ["210-fp32", "210-fp16", "420-fp32", "420-fp16"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--from", "CKPT"], "give --budget-ms T"),
        (["--budget-ms", 5, "--from", "CKPT"], "give --data DIR"),
        (["--budget-ms", 5, "--data", "DATA", "--soak", 1], "--soak has no use in the ladder"),
        (["--budget-ms", 5, "--data", "DATA", "BUNDLE"], "a bundle or result has no use in the ladder"),
        (["--budget-ms", "nan", "--data", "DATA"], "--budget-ms must be a number"),
        (["--budget-ms", 5, "--data", "DATA", "--from", "NOWHERE"], "no checkpoint at NOWHERE"),
        (["--budget-ms", 5, "--data", "DATA", "--from", "CKPT", "--calib", "DATA"], "ranges cannot be judged"),
        (["--budget-ms", 5, "--data", "DATA", "--from", "CKPT", "--calib", "COPY"], "COPY/under-another-name.png of"),
        (["--budget-ms", 5, "--data", "EMPTY", "--from", "CKPT"], "EMPTY"),
        (["--budget-ms", 5, "--data", "bare.jsonl", "--from", "CKPT"], "bare.jsonl has no masks, so there is no pixel"),
        (["--budget-ms", 5, "--data", "good.jsonl", "--from", "CKPT"], "good.jsonl holds no defective picture"),
        (["--budget-ms", 5, "--data", "DATA", "--data", "brain.jsonl", "--from", "CKPT"], "both domains ("),
        (["--budget-ms", 5, "--data", "shelf.jsonl", "--data", "visa.jsonl"], "in visa; a ladder judges every rung"),
    ],
)
def test_bad_input_is_one_line(
    args: list[Any],
    words: str,
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    exported: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = {"image_path": "set/metal_nut/test/dent/000.png", "label": 1, "class_name": "cashew"}
    masked = {**line, "mask_path": "set/metal_nut/ground_truth/dent/000_mask.png"}
    lists = {"bare": line, "good": {**line, "label": 0}, "shelf": masked, "visa": masked,
             "brain": {**masked, "class_name": "brain"}}  # fmt: skip
    for name, only in lists.items():
        Path(f"{name}.jsonl").write_text(json.dumps(only))
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "COPY").mkdir()
    shutil.copy(next(data.glob("*/test/good/*")), tmp_path / "COPY" / "under-another-name.png")
    places = {"CKPT": checkpoint, "DATA": data}
    result = run(*(places.get(arg, arg) for arg in args))
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert not {"--product", "--domain"} & set(result.stderr.replace("=", " ").split())  # bench has no such flags here
    assert (result.stdout, result.stderr.count("Error:"), TRIED) == ("", 1, [])


@pytest.mark.parametrize("precision", climbing.PRECISIONS)
def test_export_understands_what_it_is_asked_for(precision: str) -> None:
    calibrated = replace(REQUEST, calib=Path("k"), clip_weights=Path("w.pt"))
    context = export_command.make_context("export", calibrated.arguments(Choice(420, precision), Path("out"))[1:])
    assert context.params[precision]
    assert (context.params["size"], context.params["products"]) == (420, ("nut=metal nut",))
    flags = {name: context.params[name] for name in ("fp16", "fp32", "bf16", "int8", "calib", "bit_depth")}
    assert Wanted(**flags).precision == precision  # which refuses what cannot be combined


def test_what_export_says_when_it_fails_is_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"^no checkpoint at {tmp_path}/none; it is a folder with"):
        climbing.export_rung(replace(REQUEST, checkpoint=tmp_path / "none"), Choice(28, "fp32"), tmp_path / "out")


@pytest.mark.heavy
def test_the_real_export(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Two rungs through `acd-edge export` in processes of their own, INT8 among them."""
    calib = tmp_path / "calib"
    calib.mkdir()
    for index in range(2):
        noise = np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(calib / f"{index}.png")
    result = climb(checkpoint, data, "--size", 28, "--precision", "fp32", "--precision", "int8", "--calib", calib,
                   "--json", tmp_path / "l.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    rungs = json.loads((tmp_path / "l.json").read_text())["rungs"]
    assert [rung["name"] for rung in rungs] == ["28-fp32", "28-int8"]
    assert all(rung["p50_ms"] > 0 and 0 <= rung["pixel_auroc"] <= 1 for rung in rungs), rungs
