"""The plain evaluation, on pictures whose figures can be told by hand: whiter is more anomalous."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from acd_edge.ceiling import patch_ceiling
from acd_edge.config import Domain, ModelConfig
from acd_edge.data import load_mvtec
from acd_edge.data.samples import read_full
from acd_edge.errors import ConfigError, DataError, UnknownProduct
from acd_edge.evaluate import Report, evaluate, predictor_from_detector, predictor_from_model
from acd_edge.results import CategoryReport, Failure
from acd_edge.runtime.detector import Detector, stretch_map
from acd_edge.runtime.preprocess import resize
from tests.picture_trees import SIDE, write_category, write_defect, write_good, write_png
from tests.tiny_bundle import SIZE, class_score, tiny_features, write_tiny_bundle
from tests.tiny_model import TINY_SIZE, TINY_TEXT, tiny_model

metrics = pytest.importorskip("sklearn.metrics")
torch = pytest.importorskip("torch")
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def brightness(pixels: Bytes, words: str) -> tuple[Floats, float]:
    """A detector of white."""
    shade = (pixels.mean(axis=2) / 255).astype(np.float32)
    return shade, float(shade.max())


class Voice:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, str]] = []
        self.failures: list[Failure] = []
        self.finished: list[str] = []

    def picture(self, done: int, total: int, category: str) -> None:
        self.told.append((done, total, category))

    def failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    def category(self, name: str, row: CategoryReport) -> None:
        self.finished.append(name)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A category with one bright good picture, which is mistaken for a defect."""
    write_category(tmp_path / "set" / "metal_nut")
    write_good(tmp_path / "set" / "metal_nut", "test", "001", 220)
    return tmp_path / "set"


def test_figures_are_those_of_the_pooled_pixels_and_of_the_pictures(tree: Path) -> None:
    row = evaluate(brightness, load_mvtec(tree), size=SIDE).categories["metal_nut"]
    # scores 50, 220 good and 200, 250 defective: three of four pairs are in order
    assert row.figures.image_auroc == 0.75
    assert row.figures.image_ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert (row.words, row.good, row.defective, row.regions, row.vanished) == ("metal nut", 2, 2, 2, 0)
    assert set(row.bounds.values()) == {0}
    boxes = [(50, 0, 0), (220, 0, 0), (40, 200, 10 * 18), (40, 250, 4 * 5)]
    shades = np.concatenate([[around] * (SIDE**2 - area) + [inside] * area for around, inside, area in boxes])
    marks = np.concatenate([[0] * (SIDE**2 - area) + [1] * area for _, _, area in boxes])
    assert row.figures.pixel_auroc == pytest.approx(metrics.roc_auc_score(marks, shades), abs=1e-12)
    assert row.figures.pixel_ap == pytest.approx(metrics.average_precision_score(marks, shades), abs=1e-12)
    # the spot is found before any normal pixel, the dent after the bright good picture
    rate = SIDE**2 / (4 * SIDE**2 - 200)
    assert row.figures.pixel_aupro == pytest.approx((0.5 * rate + (0.3 - rate)) / 0.3, abs=1e-12)
    precision, recall, _ = metrics.precision_recall_curve(marks, shades)
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert row.figures.pixel_f1_max == pytest.approx(best, abs=1e-12)
    assert row.figures.image_f1_max == pytest.approx(0.8)  # both defects and one false alarm


def test_mean_is_over_the_categories_that_have_the_figure(tree: Path) -> None:
    write_category(tree / "plate")
    shutil.rmtree(tree / "plate/test/good")  # pixel figures only
    write_category(tree / "rod")
    shutil.rmtree(tree / "rod/ground_truth")  # image figures only
    report = evaluate(brightness, load_mvtec(tree), size=SIDE)
    nut, plate, rod = (report.categories[name].figures for name in ("metal_nut", "plate", "rod"))
    assert (plate.image_auroc, plate.image_ap) == (None, None)
    assert (rod.pixel_auroc, rod.pixel_ap) == (None, None)
    assert (plate.pixel_auroc, rod.image_auroc) == (1.0, 1.0)
    assert nut.pixel_auroc is not None
    assert report.mean.pixel_auroc == (nut.pixel_auroc + 1) / 2
    assert report.mean.image_auroc == (0.75 + 1) / 2
    assert json.loads(json.dumps(report.to_dict()))["categories"]["rod"]["pixel_auroc"] is None


def test_defects_without_a_mask_count_as_pictures_only(tree: Path) -> None:
    samples = load_mvtec(tree)
    blind = [replace(sample, mask=None) if sample.image.parent.name == "dent" else sample for sample in samples]
    figures = evaluate(brightness, blind, size=SIDE).categories["metal_nut"].figures
    seen = [sample for sample in samples if sample.image.parent.name != "dent"]
    without = evaluate(brightness, seen, size=SIDE).categories["metal_nut"].figures
    assert figures.pixel_auroc == without.pixel_auroc
    assert figures.image_auroc == 0.75 != without.image_auroc


def test_words_and_progress_reach_their_callers(tree: Path) -> None:
    write_category(tree / "plate")
    heard: set[str] = set()
    voice = Voice()

    def listen(pixels: Bytes, words: str) -> tuple[Floats, float]:
        heard.add(words)
        assert pixels.shape == (28, 28, 3)
        return brightness(pixels, words)

    evaluate(listen, load_mvtec(tree), size=28, words={"plate": "steel plate"}, listener=voice)
    assert heard == {"metal nut", "steel plate"}
    assert voice.told[0] == (1, 7, "metal_nut")
    assert voice.told[-1] == (7, 7, "plate")
    assert voice.finished == ["metal_nut", "plate"]


def test_many_pixels_are_binned_within_the_stated_bounds(tree: Path) -> None:
    samples = load_mvtec(tree)
    exact = evaluate(brightness, samples, size=SIDE, patch=14).categories["metal_nut"]
    report = evaluate(brightness, samples, size=SIDE, patch=14, exact_pixels=100)
    binned = report.categories["metal_nut"]
    assert set(binned.bounds) == {f"pixel_{name}" for name in ("auroc", "ap", "f1_max", "aupro", "ap_ceiling")}
    for name, bound in binned.bounds.items():
        assert abs(getattr(binned.figures, name) - getattr(exact.figures, name)) <= bound + 1e-12
    assert max(binned.bounds.values()) > 0
    assert report.to_dict()["bounds"] == report.to_dict()["categories"]["metal_nut"]["bounds"]


def test_a_broken_picture_is_listed_and_the_others_are_measured(tree: Path) -> None:
    voice = Voice()
    whole = evaluate(brightness, load_mvtec(tree), size=SIDE).categories["metal_nut"]
    write_good(tree / "metal_nut", "test", "002")
    broken = tree / "metal_nut/test/good/002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    report = evaluate(brightness, load_mvtec(tree), size=SIDE, listener=voice)
    assert [failure.picture for failure in report.failed] == [str(broken)]
    assert str(broken) in report.failed[0].reason
    assert voice.failures == list(report.failed)
    assert report.categories["metal_nut"] == whole
    assert voice.told[-1] == (5, 5, "metal_nut")


def test_a_category_with_nothing_left_has_no_figures_and_nothing_at_all_is_an_error(tree: Path) -> None:
    write_category(tree / "plate")
    for broken in (tree / "plate/test").rglob("*.png"):
        broken.write_bytes(b"")
    report = evaluate(brightness, load_mvtec(tree), size=SIDE)
    assert (report.categories["plate"].good, report.categories["plate"].figures.pixel_auroc) == (0, None)
    assert report.mean == report.categories["metal_nut"].figures
    assert len(report.failed) == 3
    with pytest.raises(DataError, match=r"none of the 3 pictures could be measured; the first: .* is empty"):
        evaluate(brightness, load_mvtec(tree / "plate"), size=SIDE)


def test_a_model_that_gives_nan_is_refused_by_the_picture(tree: Path) -> None:
    def mad(pixels: Bytes, words: str) -> tuple[Floats, float]:
        return np.full((SIDE, SIDE), np.nan, np.float32), 0.5

    with pytest.raises(DataError, match=r"000\.png: the model's map or score is not finite"):
        evaluate(mad, load_mvtec(tree), size=SIDE)


def test_native_compares_the_enlarged_map_with_the_untouched_mask(tree: Path) -> None:
    samples = load_mvtec(tree)
    report = evaluate(brightness, samples, size=14, at="native")
    shades, marks = [], []
    for sample in samples:
        picture, mask = read_full(sample)
        shades.append(stretch_map(brightness(resize(picture, 14), "")[0], mask.shape).ravel())
        marks.append(mask.ravel())
    expected = metrics.roc_auc_score(np.concatenate(marks), np.concatenate(shades))
    figures = report.categories["metal_nut"].figures
    assert (report.at, report.size) == ("native", 14)
    assert figures.pixel_auroc == pytest.approx(expected, abs=1e-12)
    assert evaluate(brightness, samples, size=14).mean.pixel_auroc != pytest.approx(expected, abs=1e-4)


def test_a_mask_that_vanishes_at_the_models_size_is_counted(tree: Path) -> None:
    write_defect(tree / "metal_nut", "spot", "001", 250, np.s_[30:31, 9:10])
    assert evaluate(brightness, load_mvtec(tree), size=14).categories["metal_nut"].vanished == 1
    assert evaluate(brightness, load_mvtec(tree), size=14, at="native").categories["metal_nut"].vanished == 0


def test_ceiling_is_the_ap_of_the_truth_told_by_patch(tree: Path) -> None:
    samples = load_mvtec(tree)
    masks = [read_full(sample)[1] for sample in samples]
    ceilings = [patch_ceiling(mask, 14) for mask in masks]
    expected = metrics.average_precision_score(np.stack(masks).ravel(), np.stack(ceilings).ravel())
    report = evaluate(brightness, samples, size=SIDE, patch=14)
    assert report.mean.pixel_ap_ceiling == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected < 0.9
    assert evaluate(brightness, samples, size=SIDE, patch=1).mean.pixel_ap_ceiling == pytest.approx(1)
    assert evaluate(brightness, samples, size=SIDE).mean.pixel_ap_ceiling is None


def test_a_reason_against_zero_shot_is_kept_beside_its_category(tree: Path) -> None:
    write_category(tree / "plate")
    report = evaluate(brightness, load_mvtec(tree), size=SIDE, not_zero_shot={"plate": "trained on plates"})
    reasons = {name: row["not_zero_shot"] for name, row in report.to_dict()["categories"].items()}
    assert reasons == {"metal_nut": None, "plate": "trained on plates"}


def test_gallery_holds_the_extremes_once_each(tree: Path) -> None:
    for stem, brightness_of_box in (("001", 41), ("002", 120), ("003", 42), ("004", 90)):
        write_defect(tree / "metal_nut", "dent", stem, brightness_of_box, np.s_[5:9, 5:9])
    for stem in ("001", "003"):  # a brighter spot elsewhere: these maps are bad
        place = tree / "metal_nut/test/dent" / f"{stem}.png"
        pixels = np.array(Image.open(place))
        pixels[30:50, 30:50] = 200
        write_png(place, pixels)
    evidence = evaluate(brightness, load_mvtec(tree), size=SIDE, gallery=2).categories["metal_nut"].evidence
    assert evidence is not None
    assert [exhibit.ap for exhibit in evidence.best] == [1.0, 1.0]
    assert {exhibit.sample.image.stem for exhibit in evidence.worst} == {"001", "003"}
    assert [round(exhibit.score, 3) for exhibit in evidence.alarms] == [round(220 / 255, 3), round(50 / 255, 3)]
    assert (len(evidence.good_scores), len(evidence.defective_scores)) == (2, 6)
    assert set(evidence.pixel_curves) == {"ROC", "PR", "PRO"}
    few = evaluate(brightness, load_mvtec(tree), size=SIDE, gallery=9).categories["metal_nut"].evidence
    assert few is not None
    shown = [exhibit.sample.image for exhibit in (*few.best, *few.worst)]
    assert len(shown) == len(set(shown)) == 6
    assert evaluate(brightness, load_mvtec(tree), size=SIDE).categories["metal_nut"].evidence is None


def test_refusals(tree: Path) -> None:
    with pytest.raises(ConfigError, match="screw is no category of the data; they have metal_nut"):
        evaluate(brightness, load_mvtec(tree), size=SIDE, words={"screw": "screw"})
    with pytest.raises(DataError, match="no picture to evaluate"):
        evaluate(brightness, [], size=SIDE)


def test_bundle_gives_its_graphs_map_and_its_own_mix(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    with Detector.load(write_tiny_bundle(tmp_path / "b", score_mix=(0.5, 0.25))) as detector:
        anomaly_map, score = predictor_from_detector(detector)(pixels, "metal nut")
        expected = 0.5 * class_score(tiny_features()["metal_nut"]) + 0.25 * pixels.mean(axis=2).max() / 255
        assert anomaly_map.shape == (SIZE, SIZE)  # never stretched to a frame
        assert anomaly_map == pytest.approx(pixels.mean(axis=2) / 255, abs=1e-6)  # float32 rounding
        assert score == pytest.approx(expected, abs=1e-6)
        assert score == pytest.approx(detector.predict(pixels).score, abs=1e-6)
        assert predictor_from_detector(detector)(pixels, "object")[1] != pytest.approx(expected, abs=1e-3)


def test_bundle_makes_an_unknown_product_with_its_text_encoder_or_refuses_it(tmp_path: Path) -> None:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    with Detector.load(write_tiny_bundle(tmp_path / "talking", text_encoder=True)) as detector:
        predict = predictor_from_detector(detector)
        brick, road = predict(pixels, "brick")[1], predict(pixels, "road")[1]
        assert brick != road
        assert predict(pixels, "brick")[1] == brick
    with (
        Detector.load(write_tiny_bundle(tmp_path / "mute")) as detector,
        pytest.raises(UnknownProduct, match="brick"),
    ):
        predictor_from_detector(detector)(pixels, "brick")


@pytest.mark.parametrize("before", [[], ["road"]])
@pytest.mark.parametrize("words", ["object", "metal_nut", "road=nut"])
def test_words_are_not_taken_for_a_product_of_that_name(before: list[str], words: str, tmp_path: Path) -> None:
    """A bundle may call `metal_nut` what it describes as a road; pictures of a `metal_nut` are something else."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    named = {"object": "brick", "metal_nut": "road"}
    bundle = write_tiny_bundle(tmp_path / "b", text_encoder=True, products=named)
    with Detector.load(bundle, product=f"other={words}") as detector:
        wanted = detector.predict(pixels).score
    for product in ("object", "metal_nut"):
        with Detector.load(bundle, product=product) as detector:
            assert detector.predict(pixels).score != wanted
            predict = predictor_from_detector(detector)
            for others in before:
                predict(pixels, others)
            assert predict(pixels, words)[1] == pytest.approx(wanted, abs=1e-6)


class LetterTokenizer:
    """A token a letter, which is enough to tell products apart."""

    context_length = TINY_TEXT.context_length

    def __call__(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        ids = np.zeros((len(texts), self.context_length), np.int64)
        for row, text in zip(ids, texts, strict=True):
            codes = [1 + ord(letter) % (TINY_TEXT.vocabulary - 1) for letter in text[::-1][: self.context_length]]
            row[: len(codes)] = codes
        return ids, (ids > 0).astype(np.int64)


def torch_and_bundle(tree: Path, place: Path, domain: Domain) -> tuple[Report, Report]:
    """Figures of one tiny model, industrial in torch, and exported for `domain`."""
    from acd_edge.export.bundle import ExportOptions, export_bundle

    torch.manual_seed(0)
    model = tiny_model(ModelConfig(preset="reference", size=TINY_SIZE, groups=3))
    samples = load_mvtec(tree)
    in_torch = evaluate(predictor_from_model(model, LetterTokenizer()), samples, size=TINY_SIZE)
    model.config = model.config.with_(domain=domain)
    products = {"metal_nut": "metal nut"}
    export_bundle(model, place, LetterTokenizer(), ExportOptions(name="tiny", precision="fp32", products=products))
    with Detector.load(place) as detector:
        return in_torch, evaluate(predictor_from_detector(detector), samples, size=TINY_SIZE)


def test_bundle_has_the_figures_of_its_checkpoint(tree: Path, tmp_path: Path) -> None:
    in_torch, in_bundle = torch_and_bundle(tree, tmp_path / "same", "industrial")
    assert in_bundle.mean.pixel_auroc == pytest.approx(in_torch.mean.pixel_auroc, abs=1e-4)
    assert in_bundle.mean.pixel_ap == pytest.approx(in_torch.mean.pixel_ap, abs=1e-4)
    assert (in_bundle.mean.image_auroc, in_bundle.mean.image_ap) == (in_torch.mean.image_auroc, in_torch.mean.image_ap)
    in_torch, other = torch_and_bundle(tree, tmp_path / "other", "medical")  # smoothed more: other figures
    assert other.mean.pixel_auroc != pytest.approx(in_torch.mean.pixel_auroc, abs=1e-4)


def test_map_and_score_of_torch_and_bundle_agree(tmp_path: Path) -> None:
    from acd_edge.export.bundle import ExportOptions, export_bundle

    torch.manual_seed(1)
    model = tiny_model(ModelConfig(preset="reference", size=TINY_SIZE, groups=2))
    pixels = np.random.default_rng(0).integers(0, 256, (TINY_SIZE, TINY_SIZE, 3), np.uint8)
    options = ExportOptions(name="tiny", precision="fp32", products={"cup": "cup"})
    export_bundle(model, tmp_path / "b", LetterTokenizer(), options)
    in_torch = predictor_from_model(model, LetterTokenizer())
    with Detector.load(tmp_path / "b") as detector:
        anomaly_map, score = predictor_from_detector(detector)(pixels, "cup")
    # the same sums in another order: float32 rounding through six blocks
    assert anomaly_map == pytest.approx(in_torch(pixels, "cup")[0], abs=1e-4)
    assert score == pytest.approx(in_torch(pixels, "cup")[1], abs=1e-4)
    assert np.abs(in_torch(pixels, "object")[0] - anomaly_map).max() > 1e-3
