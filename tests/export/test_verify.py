"""verify on a graph of nine nodes: what passes, what departs and how it is told, references, stamps."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from acd_edge.errors import BundleError, DataError, SourceError, UsageError
from acd_edge.export.drift import Said, Tally, apart_of
from acd_edge.export.judge import Read, Shown
from acd_edge.export.tolerance import TOLERANCES, on_golden, tolerance_for, with_overrides
from acd_edge.export.verify import VerifyReport, verify_bundle
from acd_edge.report.verification import failure_line, verification_table
from acd_edge.runtime.backends import Backend, BackendOptions, GraphFile, TensorSpec, open_backend
from acd_edge.runtime.bundle import Bundle, write_bundle
from tests.tiny_bundle import (
    SIZE,
    tiny_features,
    tiny_golden,
    tiny_graph,
    tiny_manifest,
    write_tiny_bundle,
    write_true_bundle,
)

Outputs = dict[str, NDArray[Any]]
Change = Callable[[Outputs], None]


class Changed:
    """ONNX Runtime's run with something done to what it says."""

    name = "changed"

    def __init__(self, graph: GraphFile, change: Change) -> None:
        self._inner = open_backend(graph, backend="onnxruntime", options=BackendOptions(device="cpu"))
        self._change = change

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self._inner.inputs

    def run(self, feed: Mapping[str, NDArray[Any]]) -> Outputs:
        found = {name: array.copy() for name, array in self._inner.run(feed).items()}
        self._change(found)
        return found

    def close(self) -> None:
        self._inner.close()


def changed(change: Change) -> Callable[[GraphFile], Backend]:
    return lambda graph: Changed(graph, change)


def shift(output: str, by: float) -> Change:
    def change(found: Outputs) -> None:
        if output in found:
            found[output] = found[output] + np.float32(by)

    return change


def set_one(output: str, value: float) -> Change:
    def change(found: Outputs) -> None:
        if output in found:
            found[output].reshape(-1)[0] = value

    return change


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_tiny_bundle(tmp_path / "tiny"))


def picture(name: str, brightness: int, *, label: int | None = None, words: str = "object") -> Shown:
    """Plain grey; a defective one has a white square, and the square as its mask."""
    pixels, mask = np.full((SIZE, SIZE, 3), brightness, np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    if label:
        pixels[10:30, 10:30], mask[10:30, 10:30] = 255, 1
    return Shown(name=name, words=words, read=lambda: Read(pixels, mask), category="made", label=label)


def test_a_right_bundle_passes_and_a_departing_output_is_named(bundle: Bundle) -> None:
    report = verify_bundle(bundle, "onnxruntime")
    assert report.passed
    assert {check.output for check in report.checks} == {
        *("anomaly_map", "class_score", "fusion_weights", "score", "marked pixels"),
    }
    for output, by in (("anomaly_map", 0.01), ("class_score", 1e-3), ("fusion_weights", 1e-3)):
        wrong = verify_bundle(bundle, open_graph=changed(shift(output, by)))
        assert not wrong.passed
        named = {check.output for check in wrong.failures}
        assert output in named
        assert named <= {output, "score", "marked pixels"}
        assert f"at most {getattr(TOLERANCES['fp32'], LIMIT_OF[output]):.3g}" in failure_line(wrong)
    small = verify_bundle(bundle, open_graph=changed(shift("anomaly_map", 1e-5)))
    assert small.passed  # the control: a change inside the limit


LIMIT_OF = {"anomaly_map": "map", "class_score": "class_score", "fusion_weights": "fusion"}


@pytest.mark.parametrize("output", ["anomaly_map", "class_score", "fusion_weights"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_fails_whatever_is_allowed(bundle: Bundle, output: str, value: float) -> None:
    loose = with_overrides(tolerance_for("int8"), ["map=1e9", "class_score=1e9", "fusion=1e9", "score=1e9", "cosine=0"])
    report = verify_bundle(bundle, tolerance=loose, open_graph=changed(set_one(output, value)))
    assert not report.passed
    failed = [check for check in report.failures if check.output == output]
    assert [check.value for check in failed] == [None, None]
    assert f"{output} is not a finite number" in failure_line(report)
    assert "NaN" in verification_table(report)


def test_numbers_are_those_of_numpy(bundle: Bundle) -> None:
    report = verify_bundle(bundle, open_graph=changed(shift("anomaly_map", 0.125)))
    golden, found = bundle.golden, {(each.output, each.measure): each.value for each in report.checks}
    wanted = golden.anomaly_map.astype(np.float64)
    moved = (golden.anomaly_map + np.float32(0.125)).astype(np.float64)
    cosine = (moved * wanted).sum() / np.sqrt((moved**2).sum() * (wanted**2).sum())
    assert found["anomaly_map", "cosine"] == pytest.approx(cosine, abs=1e-7)
    assert found["anomaly_map", "difference"] == pytest.approx(0.125, abs=1e-6)
    assert found["score", "difference"] == pytest.approx(0.1 * 0.125, abs=1e-6)  # the mix is 0.9, 0.1
    both, either = ((moved >= 0.5) & (wanted >= 0.5)).sum(), ((moved >= 0.5) | (wanted >= 0.5)).sum()
    assert found["marked pixels", "overlap"] == pytest.approx(both / either, abs=1e-3)


def test_an_overlap_of_less_than_a_patch_says_nothing() -> None:
    tally = Tally((0.9, 0.1), patch=14)
    quiet = Said(np.zeros((56, 56), np.float32), 0.5, np.ones((2, 2, 2)))
    tally.add("quiet", quiet, quiet)
    assert tally.drift().overlap is None
    marked = Said(np.ones((56, 56), np.float32), 0.5, np.ones((2, 2, 2)))
    tally.add("marked", marked, quiet)
    assert tally.drift().overlap == 0.0


def test_cosine_of_zeros() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert apart_of([("a", zero, zero)]).cosine == 1
    assert apart_of([("a", zero, one)]).cosine == 0


def test_the_text_encoder_is_compared_with_the_text_features(tmp_path: Path) -> None:
    with Bundle.open(write_true_bundle(tmp_path / "right")) as right:
        report = verify_bundle(right)
        assert report.passed
        assert {check.against for check in report.checks} == {"golden", "text"}
    with Bundle.open(write_tiny_bundle(tmp_path / "wrong", text_encoder=True)) as wrong:  # its features are random
        report = verify_bundle(wrong)
        assert {check.output for check in report.failures} == {"text_features"}
        assert "export the bundle again" in failure_line(report)
        nan = verify_bundle(wrong, open_graph=changed(set_one("prompt_features", float("nan"))))
        assert [check.value for check in nan.checks if check.against == "text"] == [None, None]


def test_pictures_are_compared_with_onnx_runtime_and_change_auroc(bundle: Bundle) -> None:
    shown = [picture(f"{label}-{grey}", grey, label=label) for label in (0, 1) for grey in (40, 60, 80)]

    def turn(found: Outputs) -> None:
        """What is dark becomes bright: every ranking is turned round."""
        found["anomaly_map"] = 1 - found["anomaly_map"]

    report = verify_bundle(bundle, pictures=shown, open_graph=changed(turn))
    rows = {check.output: check for check in report.checks if check.against == "pictures"}
    assert rows["pixel AUROC"].value == pytest.approx(1.0)
    assert not rows["pixel AUROC"].passed
    assert rows["image AUROC"].value == pytest.approx(0.5)  # the brightest pixel is then the grey around, in both
    assert rows["image AUROC"].limit == pytest.approx(4 * 2e-4 + 2 / 9)  # 6 pictures; two of 9 pairs may change places
    assert "ONNX Runtime on the CPU, on 6 of your pictures" in verification_table(report)
    same = verify_bundle(bundle, pictures=shown, open_graph=changed(lambda _: None))
    assert same.passed
    assert "image AUROC made 100.00 -> 100.00" in verification_table(same)


def test_one_class_has_no_auroc(bundle: Bundle) -> None:
    shown = [picture("a", 40, label=0), picture("b", 60, label=0)]
    report = verify_bundle(bundle, pictures=shown, open_graph=changed(lambda _: None))
    assert report.passed
    table = verification_table(report)
    assert [line.split() for line in table.splitlines() if "AUROC" in line] == [
        ["pixel", "AUROC", "-", "-"],
        ["image", "AUROC", "-", "-"],
    ]
    plain = verify_bundle(bundle, pictures=[picture("a", 40)], open_graph=changed(lambda _: None))
    assert "AUROC" not in verification_table(plain)


def test_the_calibrated_threshold_marks_pixels(tmp_path: Path) -> None:
    path = tmp_path / "calibrated"
    write_bundle(
        path, tiny_manifest(), files={"model.onnx": tiny_graph().SerializeToString()}, text_features=tiny_features(),
        golden=tiny_golden(), calibration={"products": {"metal_nut": {"threshold": 0.1}}},
    )  # fmt: skip
    with Bundle.open(path) as opened:
        shown = [picture("nut", 40, words="metal nut"), picture("thing", 40)]
        report = verify_bundle(opened, pictures=shown, open_graph=changed(lambda _: None))
    (comparison,) = (each for each in report.comparisons if each.against == "pictures")
    assert comparison.thresholds == {"metal nut": 0.1, "object": 0.5}
    assert comparison.drift is not None
    assert comparison.drift.marked == SIZE**2  # 40 / 255 is above 0.1 in one of them and below 0.5 in the other


def test_a_picture_that_cannot_be_read_is_told_and_the_others_are_compared(bundle: Bundle) -> None:
    def broken() -> Read:
        raise SourceError("c.png cannot be read")

    odd = replace(picture("c", 0), read=broken)
    report = verify_bundle(bundle, pictures=[picture("a", 40), odd], open_graph=changed(lambda _: None))
    assert report.passed
    assert report.unread == {"c": "c.png cannot be read"}
    assert "not compared: c" in verification_table(report)
    with pytest.raises(DataError, match=r"none of the 1 pictures.*c\.png"):
        verify_bundle(bundle, pictures=[odd], open_graph=changed(lambda _: None))


def test_a_folder_needs_another_reference_than_itself(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="what is verified here, and the reference"):
        verify_bundle(bundle, "onnxruntime", BackendOptions(device="cpu"), pictures=[picture("a", 40)])
    with Bundle.open(write_tiny_bundle(tmp_path / "bf16", precision="bf16")) as narrow:

        def load(graph: GraphFile) -> Backend:
            return Changed(replace(graph, precision="fp32"), lambda _: None)

        assert verify_bundle(narrow, open_graph=load).passed  # the golden samples need no reference
        with pytest.raises(UsageError, match=r"bf16 bundle.*--checkpoint"):
            verify_bundle(narrow, pictures=[picture("a", 40)], open_graph=load)


def test_another_checkpoint_is_refused_before_torch(tmp_path: Path) -> None:
    from acd_edge.checkpoint import builtin_checkpoint

    path = write_tiny_bundle(tmp_path / "tiny", source={"checkpoint_sha256": "0" * 64})
    with Bundle.open(path) as opened, pytest.raises(BundleError, match="was made from checkpoint 000000000000"):
        verify_bundle(opened, checkpoint=builtin_checkpoint())
    with (
        Bundle.open(write_tiny_bundle(tmp_path / "bare")) as opened,
        pytest.raises(BundleError, match="does not say which"),
    ):
        verify_bundle(opened, checkpoint=builtin_checkpoint())


def test_tampered_golden_samples_are_the_bundle_s_to_refuse(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "tiny")
    golden = tiny_golden()
    np.savez_compressed(path / "golden.npz", **{**golden.arrays(), "class_score": golden.class_score + 0.2})  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"golden\.npz was altered"):
        Bundle.open(path)


def test_tolerances() -> None:
    assert set(TOLERANCES) == {"fp32", "fp16", "bf16", "int8"}
    order = [TOLERANCES[name] for name in ("fp32", "fp16", "bf16", "int8")]
    for finer, coarser in itertools.pairwise(order):
        assert finer.loosened(coarser) == coarser
        assert finer != coarser
    assert tolerance_for("int8", openvino_precision="bf16") == TOLERANCES["int8"]
    with pytest.raises(UsageError, match=r"speed=1.*cosine"):
        with_overrides(order[0], ["speed=1"])
    for text in ("map=-1", "map=nan", "map=", "map"):
        with pytest.raises(UsageError, match="--tolerance"):
            with_overrides(order[0], [text])


def test_golden_limits_follow_the_drift_that_the_export_recorded(tmp_path: Path) -> None:
    """An INT8 graph that was near at export is not allowed what INT8 is allowed at most."""
    recorded = {
        "anomaly_map": {"cosine": 0.9999, "difference": 0.005},
        "class_score": {"cosine": 1.0, "difference": 0.001},
        "fusion_weights": {"cosine": 1.0, "difference": 0.001},
    }
    plain = write_tiny_bundle(tmp_path / "plain", precision="int8")
    known = write_tiny_bundle(tmp_path / "known", precision="int8", fold={"drift": recorded})
    off = changed(shift("anomaly_map", 0.1))
    with Bundle.open(plain) as opened:
        assert verify_bundle(opened, open_graph=off).passed
    with Bundle.open(known) as opened:
        report = verify_bundle(opened, open_graph=off)
        assert {check.output for check in report.failures} == {"anomaly_map"}
        (limit,) = {check.limit for check in report.failures if check.measure == "difference"}
        assert limit == pytest.approx(2 * 0.005 + 0.08)
        assert verify_bundle(opened, tolerance=TOLERANCES["int8"], open_graph=off).passed  # what is said counts
        coarse = BackendOptions(openvino_precision="bf16")
        assert verify_bundle(opened, options=coarse, open_graph=off).passed


def test_another_library_s_run_of_the_same_int8_graph_is_held_to_less(tmp_path: Path) -> None:
    with Bundle.open(write_tiny_bundle(tmp_path / "b", precision="int8")) as opened:
        report = verify_bundle(opened, pictures=[picture("a", 40)], open_graph=changed(lambda _: None))
    limits = {each.against: each.limit for each in report.checks if (each.output, each.measure) == MAP}
    assert limits == {"golden": TOLERANCES["int8"].map, "pictures": TOLERANCES["bf16"].map}


MAP = ("anomaly_map", "difference")


def test_json_is_plain(bundle: Bundle) -> None:
    report: VerifyReport = verify_bundle(bundle, pictures=[picture("a", 40)], open_graph=changed(lambda _: None))
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["passed"] is True
    assert [each["against"] for each in values["comparisons"]] == ["golden", "pictures"]
    assert values["tolerance"]["map"] == 1e-3


def test_what_an_export_recorded_allows_twice_the_error_in_every_measure() -> None:
    """The built-in model in INT8 on fp16 at 420 px: torch recorded the first, ONNX Runtime computes the second."""
    recorded = {"anomaly_map": {"cosine": 0.9998215, "difference": 0.0637}}
    limits = on_golden(TOLERANCES["int8"], recorded)
    assert 0.144 < limits.map < TOLERANCES["int8"].map
    assert TOLERANCES["int8"].cosine < limits.cosine < 0.9992266
    wanted = np.array([1.0, 0.0])
    once, twice = (np.array([1.0, np.sqrt(2 * (1 - 0.9998215)) * times]) for times in (1, 2))
    assert cosine_of(once, wanted) == pytest.approx(0.9998215, abs=1e-6)
    assert limits.cosine < cosine_of(twice, wanted) < 1 - 2 * (1 - 0.9998215)  # four times as far from one, not twice
    three = np.array([1.0, np.sqrt(2 * (1 - 0.9998215)) * 3])
    assert cosine_of(three, wanted) < limits.cosine  # the control


def cosine_of(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    value = apart_of([("all", found, wanted)]).cosine
    assert value is not None
    return value
