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

from acd_edge.config import Domain, ModelConfig
from acd_edge.data import load_mvtec
from acd_edge.errors import ConfigError, DataError, UnknownProduct
from acd_edge.evaluate import Report, evaluate, predictor_from_detector, predictor_from_model
from acd_edge.runtime.detector import Detector
from tests.picture_trees import SIDE, write_category, write_good
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
    assert (row.words, row.good, row.defective, row.pixel_auroc_bound) == ("metal nut", 2, 2, 0)
    boxes = [(50, 0, 0), (220, 0, 0), (40, 200, 10 * 18), (40, 250, 4 * 5)]
    shades = np.concatenate([[around] * (SIDE**2 - area) + [inside] * area for around, inside, area in boxes])
    marks = np.concatenate([[0] * (SIDE**2 - area) + [1] * area for _, _, area in boxes])
    assert row.figures.pixel_auroc == pytest.approx(metrics.roc_auc_score(marks, shades), abs=1e-12)
    assert row.figures.pixel_ap == pytest.approx(metrics.average_precision_score(marks, shades), abs=1e-12)


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
    told: list[tuple[int, int, str]] = []

    def listen(pixels: Bytes, words: str) -> tuple[Floats, float]:
        heard.add(words)
        assert pixels.shape == (28, 28, 3)
        return brightness(pixels, words)

    def note(done: int, total: int, category: str) -> None:
        told.append((done, total, category))

    evaluate(listen, load_mvtec(tree), size=28, words={"plate": "steel plate"}, progress=note)
    assert heard == {"metal nut", "steel plate"}
    assert told[0] == (1, 7, "metal_nut")
    assert told[-1] == (7, 7, "plate")


def test_many_pixels_are_binned_within_the_stated_bound(tree: Path) -> None:
    samples = load_mvtec(tree)
    exact = evaluate(brightness, samples, size=SIDE).categories["metal_nut"]
    binned = evaluate(brightness, samples, size=SIDE, exact_pixels=100).categories["metal_nut"]
    assert exact.figures.pixel_auroc is not None
    assert binned.figures.pixel_auroc == pytest.approx(exact.figures.pixel_auroc, abs=binned.pixel_auroc_bound + 1e-12)


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
