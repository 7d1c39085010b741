"""The flags that say what runs a graph; `run`, `eval`, `calibrate`, `verify`, `bench` and `prompts` share them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from acd_edge.runtime.backends import BackendOptions, Device, OpenVinoPrecision
    from acd_edge.runtime.bundle import Bundle
    from acd_edge.runtime.cuda import Binding
    from acd_edge.runtime.detector import Detector

BACKEND_NAMES = ("auto", "tensorrt", "onnxruntime", "openvino")
"""Those of `acd_edge.runtime.backends`, repeated here so that a help page imports no numpy; a test compares."""

_OPTIONS = (
    click.option("--backend", type=click.Choice(BACKEND_NAMES), default="auto", show_default=True,
                 help="What runs the graph. `auto` never builds an engine, `tensorrt` does where none is there."),
    click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True,
                 help="Where it runs; `gpu` is an error where it would run on the CPU."),
    click.option("--threads", type=click.IntRange(1, 256), metavar="N",
                 help="CPU threads; one for each core unless told. Not for tensorrt."),
    click.option("--openvino-precision", type=click.Choice(["f32", "bf16"]), default="f32", show_default=True,
                 help="bf16 is faster where the processor has it, and less exact. For openvino."),
    click.option("--cuda", type=click.Choice(["auto", "cuda-python", "pycuda"]), default="auto", show_default=True,
                 help="Python binding of CUDA. For tensorrt."),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BackendFlags:
    """What the flags said.

    Attributes:
        backend: `auto` or a name of `acd_edge.runtime.backends.BACKENDS`.
        device, threads, openvino_precision, cuda: see `BackendOptions`.
    """

    backend: str = "auto"
    device: Device = "auto"
    threads: int | None = None
    openvino_precision: OpenVinoPrecision = "f32"
    cuda: Binding = "auto"

    @property
    def options(self) -> BackendOptions:
        """As a backend takes them."""
        from acd_edge.runtime.backends import BackendOptions

        return BackendOptions(
            threads=self.threads, device=self.device, openvino_precision=self.openvino_precision, cuda=self.cuda
        )

    @property
    def given(self) -> list[str]:
        """The flags that differ from their defaults, for commands that have no graph to run."""
        return [
            f"--{field.name.replace('_', '-')} {value}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]


def backend_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags to a command, which gets them as one `BackendFlags` in its argument `how`."""

    @wraps(function)
    def with_flags(*args: Any, backend: str, device: Device, threads: int | None,
                   openvino_precision: OpenVinoPrecision, cuda: Binding, **others: Any) -> Any:  # fmt: skip
        how = BackendFlags(
            backend=backend, device=device, threads=threads, openvino_precision=openvino_precision, cuda=cuda
        )
        return function(*args, how=how, **others)

    for option in reversed(_OPTIONS):
        with_flags = option(with_flags)
    return with_flags


def load_detector(path: Path | None, *, product: str, how: BackendFlags, words: Collection[str] = ()) -> Detector:
    """Open a bundle, the built-in one where `path` is None, and load its graph; a missing engine is built first.

    The text encoder's engine is built where it will be used only: for what the bundle does not carry.

    Args:
        path: of the bundle.
        product: see `Detector.load`.
        how: what the flags said.
        words: of the products that are asked for later.

    Raises:
        AcdEdgeError: see `Detector.load` and `acd_edge.export.engine.ensure_engine`.
    """
    from acd_edge.runtime.detector import Detector

    if how.backend != "tensorrt":
        return Detector.load(path, product=product, backend=how.backend, options=how.options)
    from acd_edge.runtime.bundle import Bundle, builtin_bundle
    from acd_edge.runtime.detector import check_product

    bundle = Bundle.open(builtin_bundle() if path is None else path)
    try:
        check_product(bundle, product)  # told before engines are built
        prepare(bundle, how, text_encoder=_needs_text_encoder(bundle, product, words))
        return Detector.load(bundle, product=product, backend=how.backend, options=how.options)
    except BaseException:
        bundle.close()
        raise


def _needs_text_encoder(bundle: Bundle, product: str, words: Collection[str]) -> bool:
    """Whether a run asks for what the bundle does not carry; told now, before a graph is loaded beside a build."""
    from acd_edge.runtime.detector import is_carried

    return not (is_carried(bundle, product) and set(words) <= set(bundle.manifest.products.values()))


def prepare(bundle: Bundle, how: BackendFlags, *, model: bool = True, text_encoder: bool) -> None:
    """With `--backend tensorrt`: build and verify the engines of a bundle where they are not there, with a line each.

    Every other backend needs nothing, and `auto` never builds.

    Args:
        bundle: whose engines.
        how: what the flags said.
        model, text_encoder: which of them are used.
    """
    if how.backend != "tensorrt":
        return
    from acd_edge.export.engine import MODEL, TEXT_ENCODER, ensure_engine
    from acd_edge.runtime.backends import check_options
    from acd_edge.runtime.cuda import open_cuda
    from acd_edge.runtime.trt_module import load_tensorrt

    check_options("tensorrt", how.options)
    ensure_engine(
        bundle,
        parts=[part for part, used in ((MODEL, model), (TEXT_ENCODER, text_encoder)) if used],
        trt=load_tensorrt(),
        cuda=open_cuda(how.cuda),
        progress=lambda line: click.echo(line, err=True),
    )
