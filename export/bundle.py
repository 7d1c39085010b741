"""From a model to the bundle that a device needs: graph, text features, golden samples, manifest."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from acd_edge import __version__
from acd_edge.errors import OutputError
from acd_edge.export.count import fold_counts
from acd_edge.export.fold import fold
from acd_edge.export.golden import PICTURES, made_pictures
from acd_edge.export.graph import FoldedAcdClip
from acd_edge.export.onnx import OPSET, onnx_from_folded, onnx_from_text
from acd_edge.export.precision import Precision, audit_ranges, check_ranges, halve
from acd_edge.export.text import fold_text, store_half
from acd_edge.model import AcdClip
from acd_edge.runtime.bundle import write_bundle
from acd_edge.runtime.bundle_files import GRAPH, TEXT_ENCODER, TOKENIZER, Golden
from acd_edge.runtime.manifest import Manifest
from acd_edge.runtime.prompts import DEFAULT_PRODUCT, DEFAULT_PROMPTS, PromptEnsemble, product_features

__all__ = ["ExportReport", "Tokenize", "encode_product", "export_bundle"]

Tokenize = Callable[[Sequence[str]], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
FloatArray = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: of the bundle.
        manifest: as written, with the report of the fold.
        ranges: name of every float16 value -> its largest magnitude on the golden pictures; empty for fp32.
    """

    path: Path
    manifest: Manifest
    ranges: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Size of the bundle without its manifest."""
        return sum(record.bytes for record in self.manifest.files.values())


@torch.no_grad()
def export_bundle(
    model: AcdClip,
    path: Path,
    tokenize: Tokenize,
    *,
    name: str,
    precision: Precision = "fp16",
    products: Mapping[str, str] | None = None,
    tokenizer_json: str | None = None,
    source: Mapping[str, Any] | None = None,
    weights_license: str | None = None,
    extra_files: Mapping[str, Path] | None = None,
    force: bool = False,
    progress: Callable[[str], None] = logger.info,
) -> ExportReport:
    """Fold a model, write its graph and everything beside it.

    Args:
        model: in float32 and evaluation mode; its config's domain goes into graph and manifest.
        path: a folder, or a zip where it ends in `.acd`.
        tokenize: sentences -> ids and mask, of the model's backbone.
        name: of the bundle.
        precision: of the graph.
        products: name -> words of its prompts; `object` is added.
        tokenizer_json: with it, the bundle carries a text encoder for new products.
        source, weights_license: for the manifest.
        extra_files: name inside the bundle -> file to add, such as a licence.
        force: replace a bundle that is there.
        progress: is told each step.

    Raises:
        OutputError: the place is in use or cannot be written.
        ExportError: a value comes near the end of float16, or the graph fails ONNX's checks.
    """
    if os.path.lexists(path) and not force:  # before the work, not after it
        raise OutputError(f"{path} exists already; add --force to replace it, or choose another place with -o")
    words = {DEFAULT_PRODUCT: DEFAULT_PRODUCT, **(products or {})}
    progress(f"text features of {', '.join(words)}")
    features = {product: encode_product(model, tokenize, phrase) for product, phrase in words.items()}
    progress("fold")
    folded = fold(model)
    counts = fold_counts(model, folded)
    progress("golden samples")
    golden = golden_samples(model, features[DEFAULT_PRODUCT])
    difference, ranges = compare(folded, golden, audit=precision == "fp16")
    check_ranges(ranges)
    report = {**counts, "largest_difference": difference}
    manifest = _manifest(model, name, precision, words, source or {}, weights_license, report)
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        workplace = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    with workplace as folder:
        files: dict[str, Path | bytes] = dict(extra_files or {})
        progress(f"graph in {precision}")
        typed = halve(folded) if precision == "fp16" else folded
        graph = onnx_from_folded(typed, Path(folder) / GRAPH)
        files |= {GRAPH: graph, f"{GRAPH}.data": Path(f"{graph}.data")}
        if tokenizer_json is not None:
            progress("text encoder")
            files[TEXT_ENCODER] = onnx_from_text(store_half(fold_text(model)), Path(folder) / TEXT_ENCODER)
            files[TOKENIZER] = tokenizer_json.encode()
        progress(f"write {path}")
        manifest = write_bundle(path, manifest, files=files, text_features=features, golden=golden, force=force)
    return ExportReport(path=path, manifest=manifest, ranges=ranges)


@torch.no_grad()
def encode_product(
    model: AcdClip, tokenize: Tokenize, words: str, prompts: PromptEnsemble = DEFAULT_PROMPTS
) -> FloatArray:
    """Text features of a product from the words of its prompts, (N, 2, D) unit norm."""
    normal, abnormal = prompts.sentences(words)
    ids, mask = (torch.from_numpy(array) for array in tokenize([*normal, *abnormal]))
    each = model.encode_prompts(ids, mask).numpy()
    return product_features(each[: len(normal)], each[len(normal) :]).astype(np.float32)


def golden_samples(model: AcdClip, features: FloatArray) -> Golden:
    """Made pictures and what the unfolded float32 model says of them, one at a time to save memory."""
    pictures = made_pictures(model.vision.grid * model.vision.patch)
    text = torch.from_numpy(features)[None]
    said = [model(model.normalise(torch.from_numpy(picture)[None]), text) for picture in pictures]
    anomaly_map, class_score, fusion_weights = (torch.cat(each).numpy() for each in zip(*said, strict=True))
    return Golden(
        image=pictures,
        text_features=np.repeat(features[None], PICTURES, axis=0),
        anomaly_map=anomaly_map,
        class_score=class_score,
        fusion_weights=np.ascontiguousarray(fusion_weights),
    )


def compare(folded: FoldedAcdClip, golden: Golden, *, audit: bool) -> tuple[float, dict[str, float]]:
    """Largest difference of the folded model's outputs from the golden ones, and with `audit` the float16 ranges."""
    largest, ranges = 0.0, dict[str, float]()
    for index in range(len(golden.image)):
        image = torch.from_numpy(golden.image[index : index + 1])
        text = torch.from_numpy(golden.text_features[index : index + 1])
        if audit:
            found, outputs = audit_ranges(folded, image, text)
            ranges = {name: max(value, ranges.get(name, 0.0)) for name, value in found.items()}
        else:
            outputs = folded(image, text)
        for mine, theirs in zip(outputs, (golden.anomaly_map, golden.class_score, golden.fusion_weights), strict=True):
            largest = max(largest, float(np.abs(mine[0].numpy() - theirs[index]).max()))
    return largest, ranges


def _manifest(
    model: AcdClip,
    name: str,
    precision: Precision,
    products: Mapping[str, str],
    source: Mapping[str, Any],
    weights_license: str | None,
    report: Mapping[str, Any],
) -> Manifest:
    config, vision = model.config, model.vision
    return Manifest(
        name=name,
        model=config.to_dict(),
        preset=config.preset,
        domain=config.domain,
        size=vision.grid * vision.patch,
        patch=vision.patch,
        grid=vision.grid,
        groups=config.groups,
        feature_dim=model.feature_dim,
        score_mix=config.score_mix,
        precision=precision,
        opset=OPSET,
        products=dict(products),
        context_length=model.text.context_length,
        source=dict(source),
        license=weights_license,
        tools={"acd-edge": __version__, "torch": version("torch"), "onnx": version("onnx")},
        fold=dict(report),
    )
