"""From a model to the bundle that a device needs: graph, text features, golden samples, manifest."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from acd_edge import __version__
from acd_edge.errors import ConfigError, ExportError, OutputError
from acd_edge.export.count import fold_counts
from acd_edge.export.drift import apart_of
from acd_edge.export.fold import fold
from acd_edge.export.golden import PICTURES, made_pictures
from acd_edge.export.graph import FoldedAcdClip, Outputs
from acd_edge.export.int8 import Int8Plan, quantised
from acd_edge.export.onnx import OPSET, onnx_from_folded, onnx_from_text
from acd_edge.export.precision import Precision, WideProducts, audit_ranges, check_ranges, halve, narrowed
from acd_edge.export.smooth import smoothed
from acd_edge.export.text import fold_text, store_half
from acd_edge.model import AcdClip
from acd_edge.model.tokenizers import Tokenize
from acd_edge.runtime.bundle import write_bundle
from acd_edge.runtime.bundle_files import GRAPH, TEXT_ENCODER, TOKENIZER, Golden
from acd_edge.runtime.bundle_write import check_target
from acd_edge.runtime.manifest import Manifest
from acd_edge.runtime.prompts import DEFAULT_PRODUCT, DEFAULT_PROMPTS, PromptEnsemble, product_features

__all__ = ["ExportOptions", "ExportReport", "encode_product", "export_bundle", "workplace"]

FloatArray = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: of the bundle.
        manifest: as written, with the report of the fold.
        ranges: name of every float16 value -> its largest magnitude on the golden pictures; empty without float16.
    """

    path: Path
    manifest: Manifest
    ranges: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Size of the bundle without its manifest."""
        return sum(record.bytes for record in self.manifest.files.values())


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What goes into a bundle beside the model.

    Attributes:
        name: of the bundle.
        precision: of the graph.
        int8: how it is quantised; with the precision int8, and only there.
        products: name -> words of its prompts; `object` is added.
        tokenizer_json: with it, the bundle carries a text encoder for new products.
        source, weights_license: for the manifest.
        extra_files: name inside the bundle -> file to add or its content, such as a licence.
    """

    name: str
    precision: Precision = "fp16"
    int8: Int8Plan | None = None
    products: Mapping[str, str] = field(default_factory=dict)
    tokenizer_json: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    weights_license: str | None = None
    extra_files: Mapping[str, Path | bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.precision == "int8") != (self.int8 is not None):
            raise ConfigError("the precision int8 and a plan for it go together: give both or neither")

    @property
    def holds_float16(self) -> bool:
        """Whether the graph computes in float16 anywhere."""
        return self.precision == "fp16" or (self.int8 is not None and self.int8.base == "fp16")


@torch.no_grad()
def export_bundle(
    model: AcdClip,
    path: Path,
    tokenize: Tokenize,
    options: ExportOptions,
    *,
    force: bool = False,
    progress: Callable[[str], None] = logger.info,
) -> ExportReport:
    """Fold a model, write its graph and everything beside it.

    Args:
        model: in float32 and evaluation mode; its config's domain goes into graph and manifest.
        path: a folder, or a zip where it ends in `.acd`.
        tokenize: sentences -> ids and mask, of the model's backbone.
        options: see there.
        force: replace a bundle that is there.
        progress: is told each step.

    Raises:
        OutputError: the place is in use or cannot be written.
        ExportError: a weight is not finite, a value comes near the end of float16, or the graph fails ONNX's checks.
    """
    check_target(path, force)  # before the work, not after it
    _check_finite(model)
    words = {DEFAULT_PRODUCT: DEFAULT_PRODUCT, **options.products}
    progress(f"text features of {', '.join(words)}")
    features = {product: encode_product(model, tokenize, phrase) for product, phrase in words.items()}
    progress("fold")
    folded = fold(model)
    if options.int8 is not None:
        folded = smoothed(folded, options.int8.smoothing)
    progress("golden samples")
    golden = golden_samples(model, features[DEFAULT_PRODUCT])
    difference, ranges = compare(folded, golden, audit=options.holds_float16)
    check_ranges(ranges)
    typed = typed_module(folded, options)
    report: dict[str, Any] = {**fold_counts(model, folded), "largest_difference": difference}
    if options.precision != "fp32":
        progress(f"drift of {options.precision}")
        report["drift"] = drift_of(typed, golden)
    manifest = _manifest(model, words, options, report)
    with workplace(path) as folder:
        try:
            files = dict(options.extra_files) | _write_graphs(model, typed, folder, options, progress)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}; nothing was changed") from error
        progress(f"write {path}")
        manifest = write_bundle(path, manifest, files=files, text_features=features, golden=golden, force=force)
    return ExportReport(path=path, manifest=manifest, ranges=ranges)


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """A folder beside the bundle-to-be at `path`, on the same disk; it goes at the end.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    with folder as name:
        yield Path(name)


def _write_graphs(
    model: AcdClip, typed: FoldedAcdClip, folder: Path, options: ExportOptions, progress: Callable[[str], None]
) -> dict[str, Path | bytes]:
    """The graph with its data, and the text encoder with its tokenizer where one is wanted."""
    progress(f"graph in {options.precision}")
    graph = onnx_from_folded(typed, folder / GRAPH)
    files: dict[str, Path | bytes] = {GRAPH: graph, f"{GRAPH}.data": Path(f"{graph}.data")}
    if options.tokenizer_json is not None:
        progress("text encoder")
        files[TEXT_ENCODER] = onnx_from_text(store_half(fold_text(model)), folder / TEXT_ENCODER)
        files[TOKENIZER] = options.tokenizer_json.encode()
    return files


def typed_module(folded: FoldedAcdClip, options: ExportOptions) -> FoldedAcdClip:
    """The module in the types of the wanted graph."""
    if options.int8 is not None:
        base = halve(folded) if options.int8.base == "fp16" else folded
        return quantised(base, folded, options.int8.ranges())
    if options.precision == "bf16":
        return narrowed(folded, torch.bfloat16)
    return halve(folded) if options.precision == "fp16" else folded


def _check_finite(model: AcdClip) -> None:
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ExportError(f"{name} holds NaN or infinity; nothing was written, train or convert the model again")


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


def drift_of(typed: FoldedAcdClip, golden: Golden) -> dict[str, dict[str, float]]:
    """How far the typed module is from the golden samples: output -> cosine and largest difference.

    torch computes it on the CPU as the types mean it, whatever the processor can do.

    Raises:
        ExportError: an output is not finite.
    """
    with WideProducts():
        said = [
            typed(torch.from_numpy(golden.image[at : at + 1]), torch.from_numpy(golden.text_features[at : at + 1]))
            for at in range(len(golden.image))
        ]
    found = {name: torch.cat([getattr(each, name) for each in said]).numpy() for name in Outputs._fields}
    return {name: _drift(name, array, getattr(golden, name)) for name, array in found.items()}


def _drift(name: str, found: FloatArray, wanted: FloatArray) -> dict[str, float]:
    apart = apart_of([(name, found, wanted)])
    if apart.cosine is None or apart.difference is None:
        raise ExportError(f"{name} is NaN or infinite on made pictures in this precision; export with --fp32")
    return {"cosine": apart.cosine, "difference": apart.difference}


def _manifest(
    model: AcdClip, products: Mapping[str, str], options: ExportOptions, report: Mapping[str, Any]
) -> Manifest:
    config, vision = model.config, model.vision
    return Manifest(
        name=options.name,
        model=config.to_dict(),
        preset=config.preset,
        domain=config.domain,
        size=vision.grid * vision.patch,
        patch=vision.patch,
        grid=vision.grid,
        groups=config.groups,
        feature_dim=model.feature_dim,
        score_mix=config.score_mix,
        precision=options.precision,
        opset=OPSET,
        products=dict(products),
        context_length=model.text.context_length,
        source={**options.source, **({"int8": options.int8.record()} if options.int8 is not None else {})},
        license=options.weights_license,
        tools={"acd-edge": __version__, "torch": version("torch"), "onnx": version("onnx")},
        fold=dict(report),
    )
