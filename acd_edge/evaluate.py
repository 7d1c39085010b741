"""How well maps and scores tell defective from good, for a checkpoint and a bundle alike.

Pictures are stretched to the model's S x S. Pixels are compared there, masks brought by nearest pixel, or at each
picture's own size, maps enlarged as the runtime enlarges them. The pixels of a category are pooled, and the mean is
taken over the categories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from acd_edge.ceiling import patch_ceiling
from acd_edge.data.samples import Sample, categories_of, nearest, read_full
from acd_edge.errors import ConfigError, DataError
from acd_edge.exhibits import Showcase
from acd_edge.metrics import EXACT_VALUES, Curve, Measure, Pool, Steps
from acd_edge.results import At, CategoryReport, Evidence, Failure, Figures, Report, mean_of
from acd_edge.runtime.detector import stretch_map
from acd_edge.runtime.preprocess import DEFAULT_RESIZE, resize
from acd_edge.runtime.prompts import DEFAULT_PROMPTS, PromptEnsemble, product_features

if TYPE_CHECKING:
    from acd_edge.model import AcdClip
    from acd_edge.model.tokenizers import Tokenize
    from acd_edge.runtime.detector import Detector

__all__ = [
    "CategoryReport",
    "Figures",
    "Listener",
    "Predictor",
    "Report",
    "evaluate",
    "predictor_from_detector",
    "predictor_from_model",
]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Predictor = Callable[[Bytes, str], tuple[Floats, float]]
"""Pixels uint8 RGB (S, S, 3) and the product's words -> abnormal probability (S, S) and the picture's score."""


class Listener(Protocol):
    """Told what happens during an evaluation."""

    def picture(self, done: int, total: int, category: str) -> None:
        """A picture is done with, measured or not: so many of all."""

    def failure(self, failure: Failure) -> None:
        """A picture could not be read."""

    def category(self, name: str, row: CategoryReport) -> None:
        """The last picture of a category is done with."""


class _Deaf:
    """A listener that does nothing."""

    def picture(self, done: int, total: int, category: str) -> None:
        pass

    def failure(self, failure: Failure) -> None:
        pass

    def category(self, name: str, row: CategoryReport) -> None:
        pass


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    size: int,
    words: Mapping[str, str] | None = None,
    at: At = "model",
    resize_rule: str = DEFAULT_RESIZE,
    patch: int | None = None,
    gallery: int | None = None,
    not_zero_shot: Mapping[str, str] | None = None,
    listener: Listener | None = None,
    exact_pixels: int = EXACT_VALUES,
) -> Report:
    """Measure a predictor on labelled pictures. A picture that cannot be read is listed and the others are measured.

    Args:
        predictor: see `Predictor`; `predictor_from_model` and `predictor_from_detector` make one.
        samples: of one or more categories, in any order.
        size: S.
        words: category -> the product's words; the category's name with spaces where it is not given.
        at: compare pixels at S x S (`model`) or at each picture's own size (`native`).
        resize_rule: of `acd_edge.runtime.preprocess`, how pictures come to S.
        patch: measure the ceiling of patches of that side too (see `acd_edge.ceiling`).
        gallery: keep evidence for a page, with so many pictures of each kind.
        not_zero_shot: category -> why its figures do not count as zero-shot.
        listener: told what happens.
        exact_pixels: pixels of a category that are kept; beyond them they are counted in bins.

    Raises:
        DataError: there is no picture, or none can be read.
        ConfigError: `words` names a category that the data do not have.
    """
    names = categories_of(samples)
    if not names:
        raise DataError("there is no picture to evaluate")
    if strange := sorted(set(words or {}) - set(names)):
        raise ConfigError(f"--product {', '.join(strange)} is no category of the data; they have {', '.join(names)}")
    listener = listener or _Deaf()
    rows: dict[str, CategoryReport] = {}
    failed: list[Failure] = []
    done = 0
    for name in names:
        called = (words or {}).get(name) or name.replace("_", " ")
        tally = _Tally(size, at=at, patch=patch, gallery=gallery, exact_pixels=exact_pixels)
        for sample in (sample for sample in samples if sample.category == name):
            try:
                picture, mask = read_full(sample)
            except DataError as error:
                failed.append(Failure(str(sample.image), str(error)))
                listener.failure(failed[-1])
            else:
                tally.add(sample, mask, *predictor(resize(picture, size, resize_rule), called))
            done += 1
            listener.picture(done, len(samples), name)
        rows[name] = tally.report(called, (not_zero_shot or {}).get(name))
        listener.category(name, rows[name])
    if len(failed) == len(samples):
        raise DataError(f"none of the {len(samples)} pictures could be measured; the first: {failed[0].reason}")
    mean = mean_of(row.figures for row in rows.values())
    return Report(size=size, at=at, patch=patch, categories=rows, mean=mean, failed=tuple(failed))


class _Tally:
    """What one category gathers."""

    def __init__(self, size: int, *, at: At, patch: int | None, gallery: int | None, exact_pixels: int) -> None:
        self._size, self._at, self._patch = size, at, patch
        self._pixels, self._ceiling = Pool(exact_pixels), Pool(exact_pixels)
        self._scores: tuple[list[float], list[float]] = ([], [])
        self._vanished = 0
        self._showcase = None if gallery is None else Showcase(gallery)

    def add(self, sample: Sample, mask: Bytes, anomaly_map: Floats, score: float) -> None:
        """Count a picture; `mask` (H, W) is of the picture's own size."""
        if not (np.isfinite(score) and np.isfinite(anomaly_map).all()):
            raise DataError(f"{sample.image}: the model's map or score is not finite; these weights cannot be measured")
        self._scores[sample.label].append(score)
        small = nearest(mask, (self._size, self._size))
        if sample.has_mask:
            self._vanished += self._at == "model" and bool(sample.label) and not small.any()
            truth = mask if self._at == "native" else small
            self._pixels.add_map(self._placed(anomaly_map, truth), truth)
            if self._patch is not None:
                self._ceiling.add(self._placed(patch_ceiling(small, self._patch), truth), truth)
        if self._showcase is not None:
            self._showcase.offer(sample, anomaly_map, score, small if sample.has_mask else None)

    def report(self, words: str, not_zero_shot: str | None) -> CategoryReport:
        """Figures of what was counted."""
        good, defective = self._scores
        images = Pool()
        images.add(np.array([*good, *defective]), np.repeat([0, 1], [len(good), len(defective)]))
        of_pixels, of_images, ceiling = self._pixels.steps(), images.steps(), self._ceiling.steps()
        on_pixels = {f"pixel_{name}": measure for name, measure in _measures(of_pixels, pixels=True).items()}
        on_pixels["pixel_ap_ceiling"] = None if ceiling is None else ceiling.average_precision()
        on_images = {f"image_{name}": measure for name, measure in _measures(of_images, pixels=False).items()}
        values = {name: None if measure is None else measure.value for name, measure in (on_pixels | on_images).items()}
        return CategoryReport(
            words=words,
            good=len(good),
            defective=len(defective),
            regions=self._pixels.regions,
            vanished=self._vanished,
            figures=Figures(**values),
            bounds={name: 0.0 if measure is None else measure.within for name, measure in on_pixels.items()},
            not_zero_shot=not_zero_shot,
            evidence=self._evidence(of_pixels, of_images),
        )

    def _placed(self, anomaly_map: Floats, truth: Bytes) -> Floats:
        return anomaly_map if self._at == "model" else stretch_map(anomaly_map, (truth.shape[0], truth.shape[1]))

    def _evidence(self, of_pixels: Steps | None, of_images: Steps | None) -> Evidence | None:
        if self._showcase is None:
            return None
        good, defective = self._scores
        best, worst = self._showcase.extremes()
        return Evidence(
            pixel_curves={**_curves(of_pixels), **({"PRO": of_pixels.pro()} if of_pixels else {})},
            image_curves=_curves(of_images),
            good_scores=tuple(good),
            defective_scores=tuple(defective),
            best=best,
            worst=worst,
            alarms=self._showcase.alarms(),
        )


def _curves(steps: Steps | None) -> dict[str, Curve]:
    return {} if steps is None else {"ROC": steps.roc(), "PR": steps.precision_recall()}


def _measures(steps: Steps | None, *, pixels: bool) -> dict[str, Measure | None]:
    """Figure -> its measure, None where there is none."""
    names = ("auroc", "ap", "f1_max", *(("aupro",) if pixels else ()))
    if steps is None:
        return dict.fromkeys(names)
    found = (steps.auroc(), steps.average_precision(), steps.f1_max(), *((steps.aupro(),) if pixels else ()))
    return dict(zip(names, found, strict=True))


def predictor_from_detector(detector: Detector) -> Predictor:
    """A bundle's predictor: its own graph, features, domain and score mix.

    A product that the bundle does not carry goes through its text encoder; without one it is refused by name.
    """
    names = {words: name for name, words in detector.bundle.manifest.products.items()}
    a, b = detector.bundle.manifest.score_mix
    chosen: str | None = None

    def predict(pixels: Bytes, words: str) -> tuple[Floats, float]:
        nonlocal chosen
        if words != chosen:  # by its words, since a name of the bundle may stand for others
            detector.set_product(names.get(words, f"{words.replace('=', ' ')}={words}"))
            chosen = words
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
