"""A plain evaluation: how well maps and scores tell defective from good, for a checkpoint and a bundle alike.

Pictures are stretched to the model's S x S and masks follow by nearest pixel; maps are compared there, never enlarged.
The pixels of a category are pooled, and the mean is taken over the categories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from acd_edge.data.samples import Sample, categories_of, read_sample
from acd_edge.errors import ConfigError, DataError
from acd_edge.metrics import EXACT_VALUES, Pool
from acd_edge.runtime.prompts import DEFAULT_PROMPTS, PromptEnsemble, product_features

if TYPE_CHECKING:
    from acd_edge.model import AcdClip
    from acd_edge.model.tokenizers import Tokenize
    from acd_edge.runtime.detector import Detector

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Predictor = Callable[[Bytes, str], tuple[Floats, float]]
"""Pixels uint8 RGB (S, S, 3) and the product's words -> abnormal probability (S, S) and the picture's score."""
Progress = Callable[[int, int, str], None]
"""Called with pictures done, pictures in all, and the category."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Areas under curves in 0 to 1; None where the data do not give one.

    Image figures need good and defective pictures; pixel figures need masks.
    """

    pixel_auroc: float | None
    pixel_ap: float | None
    image_auroc: float | None
    image_ap: float | None


@dataclass(frozen=True, kw_only=True)
class CategoryReport:
    """Figures of one category.

    Attributes:
        words: what the prompts called the product.
        good, defective: pictures.
        figures: see `Figures`.
        pixel_auroc_bound: how far `pixel_auroc` can be off; 0 unless there were too many pixels to keep each.
    """

    words: str
    good: int
    defective: int
    figures: Figures
    pixel_auroc_bound: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `evaluate` found: the categories by name, and the mean over those that have a figure."""

    size: int
    categories: Mapping[str, CategoryReport]
    mean: Figures

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the figures stand beside the counts."""
        rows = {name: asdict(row) for name, row in self.categories.items()}
        return {
            "size": self.size,
            "categories": {name: {**row.pop("figures"), **row} for name, row in rows.items()},
            "mean": asdict(self.mean),
        }


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    size: int,
    words: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    exact_pixels: int = EXACT_VALUES,
) -> Report:
    """Measure a predictor on labelled pictures.

    Args:
        predictor: see `Predictor`; `predictor_from_model` and `predictor_from_detector` make one.
        samples: of one or more categories, in any order.
        size: S.
        words: category -> the product's words; the category's name with spaces where it is not given.
        progress: told after each picture.
        exact_pixels: pixels of a category that are kept; beyond them they are counted in bins.

    Raises:
        DataError: there is no picture, or one cannot be read.
        ConfigError: `words` names a category that the data do not have.
    """
    names = categories_of(samples)
    if not names:
        raise DataError("there is no picture to evaluate")
    if strange := sorted(set(words or {}) - set(names)):
        raise ConfigError(f"--product {', '.join(strange)} is no category of the data; they have {', '.join(names)}")
    rows: dict[str, CategoryReport] = {}
    done = 0
    for name in names:
        called = (words or {}).get(name) or name.replace("_", " ")
        ours = [sample for sample in samples if sample.category == name]
        tally = _Tally(predictor, called, size, exact_pixels)
        for sample in ours:
            tally.add(sample)
            done += 1
            if progress:
                progress(done, len(samples), name)
        rows[name] = tally.report()
    return Report(size=size, categories=rows, mean=_mean(row.figures for row in rows.values()))


class _Tally:
    """What one category gathers."""

    def __init__(self, predictor: Predictor, words: str, size: int, exact_pixels: int) -> None:
        self._predictor, self._words, self._size = predictor, words, size
        self._pixels, self._images = Pool(exact_pixels), Pool()
        self._labels: list[int] = []

    def add(self, sample: Sample) -> None:
        pixels, mask = read_sample(sample, self._size)
        anomaly_map, score = self._predictor(pixels, self._words)
        if sample.has_mask:
            self._pixels.add(anomaly_map, mask)
        self._images.add(np.array([score]), np.array([sample.label]))
        self._labels.append(sample.label)

    def report(self) -> CategoryReport:
        defective = sum(self._labels)
        figures = Figures(
            pixel_auroc=self._pixels.auroc(),
            pixel_ap=self._pixels.average_precision(),
            image_auroc=self._images.auroc(),
            image_ap=self._images.average_precision(),
        )
        return CategoryReport(
            words=self._words,
            good=len(self._labels) - defective,
            defective=defective,
            figures=figures,
            pixel_auroc_bound=self._pixels.auroc_bound(),
        )


def _mean(rows: Iterable[Figures]) -> Figures:
    """Mean of each figure over the rows that have it."""
    given = list(rows)
    means: dict[str, float | None] = {}
    for field in fields(Figures):
        values = [value for row in given if (value := getattr(row, field.name)) is not None]
        means[field.name] = sum(values) / len(values) if values else None
    return Figures(**means)


def predictor_from_detector(detector: Detector) -> Predictor:
    """A bundle's predictor: its own graph, features, domain and score mix.

    A product that the bundle does not carry goes through its text encoder; without one it is refused by name.
    """
    names = {words: name for name, words in detector.bundle.manifest.products.items()}
    a, b = detector.bundle.manifest.score_mix

    def predict(pixels: Bytes, words: str) -> tuple[Floats, float]:
        product = names.get(words, f"{words}={words}")
        if detector.product != product.partition("=")[0]:
            detector.set_product(product)
        found = detector.infer(pixels[None])
        anomaly_map = found["anomaly_map"][0]
        return anomaly_map, a * float(found["class_score"][0]) + b * float(anomaly_map.max())

    return predict


def predictor_from_model(model: AcdClip, tokenizer: Tokenize, prompts: PromptEnsemble = DEFAULT_PROMPTS) -> Predictor:
    """A torch model's predictor, in evaluation mode; the domain is that of `model.config`."""
    import torch

    features: dict[str, torch.Tensor] = {}
    a, b = model.config.score_mix
    model.eval()

    def encode(words: str) -> torch.Tensor:
        normal, abnormal = prompts.sentences(words)
        ids, mask = tokenizer([*normal, *abnormal])
        each = model.encode_prompts(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return torch.from_numpy(product_features(each[: len(normal)], each[len(normal) :]))[None]

    @torch.inference_mode()
    def predict(pixels: Bytes, words: str) -> tuple[Floats, float]:
        if words not in features:
            features[words] = encode(words)
        image = model.normalise(torch.from_numpy(np.array(pixels[None])))
        found = model(image, features[words])
        anomaly_map = found.anomaly_map[0].numpy()
        return anomaly_map, a * float(found.class_score[0]) + b * float(anomaly_map.max())

    return predict
