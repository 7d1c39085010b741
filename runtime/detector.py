"""From a frame to a score and a heat map."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acd_edge.errors import BackendError, BundleError, UnknownProduct
from acd_edge.runtime.backends import Array, Backend, BackendOptions, check_feed, open_backend, preload
from acd_edge.runtime.bundle import Bundle, builtin_bundle
from acd_edge.runtime.manifest import Manifest
from acd_edge.runtime.picture import MAX_PIXELS, read_picture
from acd_edge.runtime.preprocess import Pixels, check_picture, resize
from acd_edge.runtime.prompts import DEFAULT_PRODUCT, parse_product
from acd_edge.runtime.stages import Lap, no_lap
from acd_edge.runtime.text import TextEncoder

FloatArray = NDArray[np.float32]
OUTPUTS = ("anomaly_map", "class_score", "fusion_weights")


class Result:
    """What the detector says of one frame.

    Attributes:
        score: a * class_score + b * max(model_map), the manifest's mix; higher is more anomalous.
        class_score: the classification's share of it.
        model_map: abnormal probability on the model's grid, (S, S), before it is stretched to the frame.
        fusion_weights: what the gateway chose, (N, 2, N): level, state (normal, abnormal), text level.
        latency_ms: decoded frame to result.
        product: the name that was asked for.
        frame_hw: height and width of the frame.
    """

    def __init__(
        self,
        *,
        score: float,
        class_score: float,
        model_map: FloatArray,
        fusion_weights: FloatArray,
        latency_ms: float,
        product: str,
        frame_hw: tuple[int, int],
    ) -> None:
        self.score = score
        self.class_score = class_score
        self.model_map = model_map
        self.fusion_weights = fusion_weights
        self.latency_ms = latency_ms
        self.product = product
        self.frame_hw = frame_hw

    @cached_property
    def anomaly_map(self) -> FloatArray:
        """The map at the frame's size, (H, W) float32; stretched bilinearly when first asked for."""
        return stretch_map(self.model_map, self.frame_hw)

    def __repr__(self) -> str:
        height, width = self.frame_hw
        return f"Result({self.product!r}, score {self.score:.4f}, {width} x {height}, {self.latency_ms:.1f} ms)"


def stretch_map(model_map: FloatArray, frame_hw: tuple[int, int]) -> FloatArray:
    """Stretch a map to a frame: bilinear between pixel centres, averaged where the frame is smaller.

    >>> stretch_map(np.array([[0, 1]], np.float32), (1, 4)).tolist()
    [[0.0, 0.25, 0.75, 1.0]]
    """
    height, width = frame_hw
    return np.asarray(Image.fromarray(model_map).resize((width, height), Image.Resampling.BILINEAR))


@final
class Detector:
    """A loaded bundle, ready for one product at a time. Use it from one thread; `close` it or use `with`.

    Attributes:
        bundle: where everything came from.
        product: what `predict` looks for, see `set_product`.
        is_named: the name alone would mean the same words, so that a threshold kept under the name fits.
        lap: called where a stage of `predict` ends, see `acd_edge.runtime.stages`.
    """

    lap: Lap

    def __init__(
        self,
        bundle: Bundle,
        *,
        product: str = DEFAULT_PRODUCT,
        backend: Backend,
        text_backend: str = "auto",
        options: BackendOptions = BackendOptions(),  # noqa: B008  # frozen
    ) -> None:
        self.bundle = bundle
        self._text_backend, self._options = text_backend, options
        self.lap = no_lap
        self._backend = backend
        self._text_encoder: TextEncoder | None = None
        _check_graph(bundle.manifest, backend)
        try:
            self.set_product(product)
        except BaseException:
            self._close_text_encoder()
            raise

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle | None = None,
        *,
        product: str = DEFAULT_PRODUCT,
        backend: str = "auto",
        options: BackendOptions = BackendOptions(),  # noqa: B008  # frozen
    ) -> Detector:
        """Open a bundle and load its graph.

        Args:
            bundle: a folder, a `.acd` file, or None for the model that the package carries.
            product: a name of the bundle; any name or `NAME=words` where the bundle has a text encoder.
            backend: `auto` or a name of `acd_edge.runtime.backends.BACKENDS`.
            options: threads, device, and what else says how the graph is run.

        Raises:
            BundleError: see `Bundle.open`.
            UnknownProduct: see `set_product`.
            MissingExtra, BackendError, EngineError, DeviceError, UsageError: see `open_backend`. No engine is built
                here; with `tensorrt` the message says which command makes one.
        """
        with ThreadPoolExecutor(1) as pool:  # the import and the digests share no work, so they share the time
            imported = pool.submit(preload, backend)
            opened = (
                bundle if isinstance(bundle, Bundle) else Bundle.open(builtin_bundle() if bundle is None else bundle)
            )
            imported.result()
        with ExitStack() as undo:  # a device's memory is not freed by forgetting it
            if opened is not bundle:
                undo.callback(opened.close)
            graph = open_backend(opened.model_file, backend=backend, options=options)
            undo.callback(graph.close)
            detector = cls(opened, product=product, backend=graph, text_backend=backend, options=options)
            undo.pop_all()
        return detector

    @property
    def products(self) -> tuple[str, ...]:
        """Names whose features the bundle carries."""
        return tuple(self.bundle.text_features)

    @property
    def backend(self) -> Backend:
        """What runs the graph; it stays the detector's own."""
        return self._backend

    @property
    def backend_name(self) -> str:
        """What runs the graph, such as `onnxruntime`, `onnxruntime (CUDA)` or `tensorrt (fp16)`."""
        return self._backend.name

    def set_product(self, product: str) -> None:
        """Look for another product from now on.

        Raises:
            UnknownProduct: the bundle does not carry it and has no text encoder.
        """
        name, words = parse_product(product)
        known = self.bundle.manifest.products
        if is_carried(self.bundle, product):
            features = self.bundle.text_features[name]
        else:
            features = self._encoder(product).features(words)
        self.product = name
        self.is_named = words == known.get(name, parse_product(name)[1]) or "=" not in product
        self._text_features: FloatArray = features[None]  # (1, N, 2, D)

    def predict(self, image: str | Path | Pixels, *, bit_depth: int = 16, max_pixels: int = MAX_PIXELS) -> Result:
        """Score one picture.

        Args:
            image: a file, or uint8 RGB pixels (H, W, 3).
            bit_depth, max_pixels: for a file, see `read_picture`.
        """
        if isinstance(image, (str, Path)):
            image = read_picture(image, bit_depth=bit_depth, max_pixels=max_pixels)
        self.lap("other")
        began = time.perf_counter()
        manifest = self.bundle.manifest
        found = self.infer(resize(check_picture(image), manifest.size, manifest.resize)[None])
        model_map, class_score = found["anomaly_map"][0], float(found["class_score"][0])
        a, b = manifest.score_mix
        score = a * class_score + b * float(model_map.max())
        result = Result(
            score=score,
            class_score=class_score,
            model_map=model_map,
            fusion_weights=found["fusion_weights"][0],
            latency_ms=(time.perf_counter() - began) * 1e3,
            product=self.product,
            frame_hw=(image.shape[0], image.shape[1]),
        )
        self.lap("post")
        return result

    def infer(self, pixels: Pixels) -> dict[str, Array]:
        """Run the graph on pixels of the model's size, (1, S, S, 3); the three outputs by name."""
        feed: Mapping[str, NDArray[Any]] = {"image": pixels, "text_features": self._text_features}
        check_feed(feed, self._backend.inputs)
        self.lap("preprocess")
        found = self._backend.run(feed)
        self.lap("infer")
        if not np.isfinite(found["class_score"]).all() or not np.isfinite(found["anomaly_map"]).all():
            raise BackendError(f"{self._backend.name} gave NaN; the bundle's precision does not suit this machine")
        return found

    def close(self) -> None:
        """Free the graph and what the bundle unpacked; twice is fine."""
        self._backend.close()
        self._close_text_encoder()
        self.bundle.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_text_encoder(self) -> None:
        if self._text_encoder is not None:
            self._text_encoder.close()

    def _encoder(self, product: str) -> TextEncoder:
        if self._text_encoder is None:
            check_product(self.bundle, product)
            graph = self.bundle.text_encoder_file
            assert graph is not None  # it was checked
            self._text_encoder = TextEncoder(
                graph,
                self.bundle.tokenizer_path,
                self.bundle.manifest,
                backend=self._text_backend,
                options=self._options,
            )
        return self._text_encoder


def check_product(bundle: Bundle, product: str) -> None:
    """Refuse a product that the bundle neither carries nor can make, before anything is loaded for it.

    Raises:
        UnknownProduct: see `Detector.set_product`.
    """
    if bundle.text_encoder_file is None and not is_carried(bundle, product):
        raise UnknownProduct(_unknown(product, bundle.manifest.products))


def is_carried(bundle: Bundle, product: str) -> bool:
    """Whether the bundle has the features of a product, `NAME` or `NAME=words`, so that it needs no text encoder."""
    name, words = parse_product(product)
    known = bundle.manifest.products
    return name in known and ("=" not in product or known[name] == words)


def _unknown(product: str, products: Mapping[str, str]) -> str:
    name, _ = parse_product(product)
    near = difflib.get_close_matches(name, products, n=3, cutoff=0.5)
    if name in products:
        hint = f"its {name} stands for {products[name]!r}: --product '{name}={products[name]}'."
    elif near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"it knows {', '.join(list(products)[:10])}."
    return (
        f"the bundle has no product {product!r} and no text encoder to make one; {hint} "
        f"Add it with: acd-edge export --product {product!r}, or --with-text-encoder for any name"
    )


def _check_graph(manifest: Manifest, backend: Backend) -> None:
    """Refuse a graph that is not the manifest's, before the first frame."""
    feed: dict[str, Array] = {
        "image": np.empty((1, manifest.size, manifest.size, 3), np.uint8),
        "text_features": np.empty((1, manifest.groups, 2, manifest.feature_dim), np.float32),
    }
    try:
        check_feed(feed, backend.inputs)
    except ValueError as error:
        raise BundleError(f"the bundle's graph and manifest disagree: {error}; export the bundle again") from error
