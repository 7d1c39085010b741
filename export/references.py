"""Whom a bundle is compared with, and the text features that both are given. torch is imported late."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from acd_edge.errors import BackendError, BundleError, MissingExtra, UnknownProduct, UsageError
from acd_edge.export.drift import Said
from acd_edge.lazy import require
from acd_edge.runtime.backends import Array, Backend, BackendOptions, check_feed, open_backend
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.prompts import product_features
from acd_edge.runtime.text import BundleTokenizer

if TYPE_CHECKING:
    from acd_edge.model import AcdClip

__all__ = [
    "Encode", "Features", "Reference", "Says", "Source", "encode_with", "load_source", "made_from", "ort_reference",
    "says",
]  # fmt: skip

Pixels = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Encode = Callable[[str], FloatArray]
"""Words of a product to its text features (N, 2, D)."""
Says = Callable[[Pixels, FloatArray], Said]
"""Pixels (S, S, 3) and text features (N, 2, D) to what is said of them."""


def says(backend: Backend, bundle: Bundle) -> Says:
    """A loaded graph as `Says`; non-finite values pass, so that they can be told."""
    size, groups, dim = bundle.manifest.size, bundle.manifest.groups, bundle.manifest.feature_dim
    blank: Mapping[str, Any] = {
        "image": np.zeros((1, size, size, 3), np.uint8),
        "text_features": np.zeros((1, groups, 2, dim), np.float32),
    }
    try:
        check_feed(blank, backend.inputs)
    except ValueError as error:
        raise BundleError(f"the bundle's graph and manifest disagree: {error}; export the bundle again") from error

    def say(pixels: Pixels, features: FloatArray) -> Said:
        feed: dict[str, Array] = {
            "image": np.ascontiguousarray(pixels[None]),
            "text_features": np.ascontiguousarray(features[None]),
        }
        check_feed(feed, backend.inputs)
        return Said.of(backend.run(feed))

    return say


def encode_with(backend: Backend, bundle: Bundle) -> Encode:
    """A loaded text encoder as `Encode`; like the runtime's, but that non-finite values pass, so that they are told."""
    manifest = bundle.manifest
    tokenize = BundleTokenizer(bundle.tokenizer_path.read_text(encoding="utf-8"), manifest.context_length)

    def encode(words: str) -> FloatArray:
        normal, abnormal = manifest.prompts.sentences(words)
        ids, mask = tokenize([*normal, *abnormal])
        given = {"input_ids": ids, "attention_mask": mask}
        feed = {name: given[name] for name in backend.inputs if name in given}
        check_feed(feed, backend.inputs)
        each = backend.run(feed)["prompt_features"]
        return product_features(each[: len(normal)], each[len(normal) :]).astype(np.float32)

    return encode


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What counts as right.

    Attributes:
        name: as the report calls it.
        same_bundle: it has the bundle's own weights and roundings.
        says: see `Says`.
        close: frees it; twice is fine.
    """

    name: str
    same_bundle: bool
    says: Says
    close: Callable[[], None]


def ort_reference(bundle: Bundle, threads: int | None = None) -> Reference:
    """ONNX Runtime's run of the same bundle on the CPU, which computes float16 in float32 for the most part.

    Raises:
        UsageError: it cannot run the bundle, or is not installed; there is nothing to compare a folder with.
    """
    rest = "give the source checkpoint with --checkpoint CKPT, or leave --data away: the golden samples need neither"
    if bundle.manifest.precision == "bf16":
        raise UsageError(f"ONNX Runtime's CPU cannot run a bf16 bundle, so a folder has no reference: {rest}")
    try:
        backend = open_backend(
            bundle.model_file, backend="onnxruntime", options=BackendOptions(threads=threads, device="cpu")
        )
    except (MissingExtra, BackendError) as error:
        reason = f"a folder is compared with ONNX Runtime's CPU run, and that cannot be: {error}"
        raise UsageError(f"{reason}; {rest}") from error
    return Reference(
        name="the same bundle in ONNX Runtime on the CPU",
        same_bundle=True,
        says=says(backend, bundle),
        close=backend.close,
    )


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that a bundle was made from, loaded.

    Attributes:
        model: in float32, at the bundle's size and domain.
        reference: the unfolded model.
        encode: words of a product -> text features (N, 2, D), with the bundle's prompts.
    """

    model: AcdClip
    reference: Reference
    encode: Encode


def made_from(bundle: Bundle, checkpoint: Path) -> None:
    """Refuse a checkpoint that the bundle was not made from; nothing heavy is imported.

    Raises:
        CheckpointError: it is no checkpoint.
        BundleError: it is another one.
    """
    from acd_edge.checkpoint import checkpoint_digest, read_info

    read_info(checkpoint)
    wanted, given = bundle.manifest.source.get("checkpoint_sha256"), checkpoint_digest(checkpoint)
    if not wanted:
        raise BundleError(f"{bundle.path} does not say which checkpoint it was made from; do without, or export again")
    if wanted != given:
        raise BundleError(
            f"{bundle.path} was made from checkpoint {str(wanted)[:12]}, {checkpoint} is {given[:12]}; "
            "give the right one, or export again"
        )


def load_source(bundle: Bundle, checkpoint: Path, clip_weights: Path | None = None) -> Source:
    """The source model of a bundle, after its digest was compared.

    Raises:
        CheckpointError, BundleError: see `made_from`.
        MissingExtra: torch is not installed.
        WeightsError: the backbone's weights are gone.
    """
    made_from(bundle, checkpoint)
    require("torch", "export")
    import torch

    from acd_edge.checkpoint import load_checkpoint
    from acd_edge.export.bundle import encode_product
    from acd_edge.model.weights import tokenizer_for

    manifest = bundle.manifest
    model = load_checkpoint(checkpoint, size=manifest.size, clip_weights=clip_weights)
    model.config = model.config.with_(domain=manifest.domain)

    @torch.inference_mode()
    def say(pixels: Pixels, features: FloatArray) -> Said:
        image = model.normalise(torch.from_numpy(np.array(pixels[None])))
        found = model(image, torch.from_numpy(np.array(features[None])))
        return Said(found.anomaly_map[0].numpy(), float(found.class_score[0]), found.fusion_weights[0].numpy())

    @torch.inference_mode()
    def encode(words: str) -> FloatArray:
        return encode_product(model, tokenizer_for(model.config), words, manifest.prompts)

    name = f"checkpoint {checkpoint} (torch, float32)"
    reference = Reference(name=name, same_bundle=False, says=say, close=lambda: None)
    return Source(model=model, reference=reference, encode=encode)


class Features:
    """Text features of the words that pictures are called, the same for both sides; each is found once.

    A product of the bundle has them there.

    Args:
        bundle: that the pictures are shown to.
        encoder: loads what encodes other words, the source checkpoint or the bundle's text encoder; None without one.
    """

    def __init__(self, bundle: Bundle, encoder: Callable[[], Encode] | None) -> None:
        self._bundle, self._encoder = bundle, encoder
        self._encode: Encode | None = None
        self._known: dict[str, FloatArray] = {}
        names = {words: name for name, words in bundle.manifest.products.items()}
        self._known.update({words: bundle.text_features[name] for words, name in names.items()})

    def __call__(self, words: str) -> FloatArray:
        """Features (N, 2, D) of a product's words.

        Raises:
            UnknownProduct: nothing here can make them.
        """
        if words not in self._known:
            self._known[words] = self._made(words)
        return self._known[words]

    def _made(self, words: str) -> FloatArray:
        if self._encoder is None:
            raise UnknownProduct(
                f"the bundle has no product {words!r} and no text encoder; it knows "
                f"{', '.join(self._bundle.manifest.products)}. Call the pictures one of these with --product NAME, or "
                "give --checkpoint CKPT"
            )
        if self._encode is None:
            self._encode = self._encoder()
        return self._encode(words)
