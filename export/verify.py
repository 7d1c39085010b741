"""Whether a bundle, or an engine of it, computes here what its source computed.

It is compared with the golden samples that the bundle carries (the float32 source's outputs), with the source
checkpoint where that is at hand, and on a user's pictures. The first needs neither torch nor onnx, so that a device can
do it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from acd_edge.errors import AcdEdgeError, BundleError, UsageError
from acd_edge.export.judge import Check, Comparison, Judge, Shown
from acd_edge.export.references import (
    Encode,
    Features,
    Reference,
    Source,
    encode_with,
    load_source,
    made_from,
    ort_reference,
    says,
)
from acd_edge.export.tolerance import Limits, Tolerance, limits_for
from acd_edge.runtime.backends import Backend, BackendOptions, GraphFile, open_backend
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.cuda import Cuda
from acd_edge.runtime.engines import Engine, Stamp

__all__ = ["PARTS", "Part", "VerifyReport", "limits_of", "stamp_of", "verify_bundle", "verify_engine"]

Open = Callable[[GraphFile], Backend]
Part = Literal["model", "text encoder"]
PARTS: tuple[Part, ...] = ("model", "text encoder")
ORT_CPU = "onnxruntime"
TEXT = "text"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        bundle: its path.
        name, precision, size: of its manifest.
        backend: what ran the graph.
        tolerance: what was allowed against the float32 source; each line has its own limit.
        comparisons: one for each reference.
    """

    bundle: str
    name: str
    precision: str
    size: int
    backend: str
    tolerance: Tolerance
    comparisons: tuple[Comparison, ...]

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every line, in order."""
        return tuple(check for comparison in self.comparisons for check in comparison.checks)

    @property
    def passed(self) -> bool:
        """Whether every line is inside its limit, and something was compared at all."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The lines that are not."""
        return tuple(check for check in self.checks if not check.passed)

    def part(self, part: str) -> tuple[Check, ...]:
        """The lines that say something of one graph of the bundle: `model` or `text encoder`."""
        return tuple(check for check in self.checks if (check.against == TEXT) == (part == "text encoder"))

    @property
    def unread(self) -> dict[str, str]:
        """Pictures that could not be read, and why."""
        return {name: reason for each in self.comparisons for name, reason in each.failed.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "bundle": self.bundle,
            "name": self.name,
            "precision": self.precision,
            "size": self.size,
            "backend": self.backend,
            "passed": self.passed,
            "tolerance": self.tolerance.to_dict(),
            "comparisons": [
                {
                    "against": each.against,
                    "title": each.title,
                    "thresholds": dict(each.thresholds),
                    "checks": [asdict(check) for check in each.checks],
                    "drift": None if each.drift is None else asdict(each.drift),
                    "failed": dict(each.failed),
                }
                for each in self.comparisons
            ],
        }


def verify_bundle(
    bundle: Bundle,
    backend: str = "auto",
    options: BackendOptions = BackendOptions(),  # noqa: B008  # frozen
    *,
    pictures: Sequence[Shown] = (),
    checkpoint: Path | None = None,
    clip_weights: Path | None = None,
    tolerance: Tolerance | Limits | None = None,
    parts: Collection[Part] = PARTS,
    open_graph: Open | None = None,
    progress: Callable[[str], None] = logger.info,
    counted: Callable[[int, int], None] = lambda done, total: None,
) -> VerifyReport:
    """Compare a bundle's graph, and its text encoder, on one backend with everything that counts as right.

    Args:
        bundle: opened, so that its digests were checked.
        backend, options: what runs it, see `open_backend`.
        pictures: of the user; compared with the checkpoint, where one is given, else with ONNX Runtime's CPU run.
        checkpoint: what the bundle was made from; needs torch.
        clip_weights: where the checkpoint's CLIP weights are now.
        tolerance: instead of `limits_of`; a plain one is for every comparison.
        parts: the graph, its text encoder, or both; a bundle without a text encoder has the graph only.
        open_graph: loads a graph in place of `open_backend`, such as one engine out of several.
        progress: is told each step.
        counted: is told how many of the pictures are done.

    Raises:
        BundleError: the golden samples are not the graph's, or the checkpoint is another one.
        UsageError: the pictures have no reference, or would be compared with themselves.
        DataError: none of the pictures can be read.
    """
    _ = bundle.golden  # refused here, where it is damaged
    if checkpoint is not None:
        made_from(bundle, checkpoint)  # before anything heavy
    limits = limits_of(bundle, options) if tolerance is None else tolerance
    limits = Limits.everywhere(limits) if isinstance(limits, Tolerance) else limits
    load = open_graph or (lambda graph: open_backend(graph, backend=backend, options=options))
    with _Verification(bundle, Judge(bundle, limits), load, progress) as work:
        comparisons: list[Comparison] = []
        if "model" in parts:
            comparisons += work.of_graph(pictures, checkpoint, clip_weights, options.threads, counted)
        if "text encoder" in parts:
            comparisons += work.of_text_encoder()
    return VerifyReport(
        bundle=str(bundle.path),
        name=bundle.manifest.name,
        precision=bundle.manifest.precision,
        size=bundle.manifest.size,
        backend=work.backend,
        tolerance=limits.source,
        comparisons=tuple(comparisons),
    )


def limits_of(bundle: Bundle, options: BackendOptions) -> Limits:
    """What is allowed of a bundle, see `limits_for`."""
    recorded = bundle.manifest.fold.get("drift") or {}
    return limits_for(bundle.manifest.precision, recorded, openvino_precision=options.openvino_precision)


class _Verification(AbstractContextManager["_Verification"]):
    """What is loaded for one verification; all of it is freed at the end.

    Attributes:
        backend: name of the first that was loaded.
    """

    def __init__(self, bundle: Bundle, judge: Judge, load: Open, progress: Callable[[str], None]) -> None:
        self._bundle, self._judge, self._load, self._progress = bundle, judge, load, progress
        self._closing = ExitStack()
        self.backend = ""

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def of_graph(
        self,
        pictures: Sequence[Shown],
        checkpoint: Path | None,
        clip_weights: Path | None,
        threads: int | None,
        counted: Callable[[int, int], None],
    ) -> list[Comparison]:
        """The graph against the golden samples, the checkpoint where one is given, and on pictures."""
        bundle, judge, golden = self._bundle, self._judge, self._bundle.golden
        graph = self._opened(bundle.model_file)
        subject, source, reference = says(graph, bundle), None, None
        if checkpoint is not None:
            self._progress(f"load {checkpoint}")
            source = load_source(bundle, checkpoint, clip_weights)
            reference = source.reference
        elif pictures:
            reference = _other_than(graph, bundle, threads)
            self._closing.callback(reference.close)
        features = Features(bundle, self._encoder(source))
        known = {words: features(words) for words in dict.fromkeys(shown.words for shown in pictures)}
        self._progress("golden samples")
        found = [judge.golden(subject, golden)]
        if source is not None:
            found += judge.source(subject, source, golden)
        if pictures and reference is not None:
            found.append(judge.pictures(subject, reference, known, pictures, counted))
        return found

    def of_text_encoder(self) -> list[Comparison]:
        """The text encoder against the text features; nothing where the bundle has none."""
        graph = self._bundle.text_encoder_file
        if graph is None:
            return []
        self._progress("text encoder")
        return [self._judge.text(encode_with(self._opened(graph), self._bundle))]

    def _opened(self, file: GraphFile) -> Backend:
        loaded = self._load(file)
        self._closing.callback(loaded.close)
        self.backend = self.backend or loaded.name
        return loaded

    def _encoder(self, source: Source | None) -> Callable[[], Encode] | None:
        """What makes text features of words that the bundle does not carry."""
        if source is not None:
            return lambda: source.encode
        graph = self._bundle.text_encoder_file
        return None if graph is None else lambda: encode_with(self._opened(graph), self._bundle)


def _other_than(graph: Backend, bundle: Bundle, threads: int | None) -> Reference:
    """ONNX Runtime's CPU run, unless that is what is verified: it would agree with itself, and show nothing."""
    if graph.name == ORT_CPU:
        raise UsageError(
            "ONNX Runtime on the CPU is what is verified here, and the reference of a folder too; "
            f"give the source checkpoint with --checkpoint{_at_hand(bundle)}, or verify another --backend"
        )
    return ort_reference(bundle, threads)


def _at_hand(bundle: Bundle) -> str:
    """The built-in checkpoint's place, for the message, where the bundle was made from it."""
    from acd_edge.checkpoint import builtin_checkpoint

    try:
        made_from(bundle, builtin_checkpoint())
    except AcdEdgeError:
        return " CKPT"
    return f" {builtin_checkpoint()}"


def verify_engine(
    bundle: Bundle,
    engine: Engine,
    *,
    tolerance: Tolerance | Limits | None = None,
    cuda: Cuda | None = None,
    trt: Any = None,
    progress: Callable[[str], None] = logger.info,
) -> VerifyReport:
    """Compare one engine with what its bundle carries; stamp it with `write_stamp(engine, stamp_of(report, engine))`.

    The graph's is compared with the golden samples, the text encoder's with the text features.

    Args:
        bundle: that it was built from.
        engine: of either graph, in whatever state.
        tolerance: as in `verify_bundle`.
        cuda, trt: what runs it; this device's own unless given.
        progress: is told each step.

    Raises:
        BundleError: the engine is of neither graph of the bundle.
        EngineError, DeviceError, BackendError: it cannot be loaded or run here.
    """
    from acd_edge.runtime.backends.trt import TrtBackend

    part = part_of(bundle, engine)
    return verify_bundle(
        bundle,
        "tensorrt",
        tolerance=tolerance,
        parts=(part,),
        open_graph=lambda _: TrtBackend.of_engine(engine, cuda=cuda, trt=trt),
        progress=progress,
    )


def part_of(bundle: Bundle, engine: Engine) -> Part:
    """Which graph of a bundle an engine was built from, by the digests.

    Raises:
        BundleError: neither.
    """
    encoder = bundle.text_encoder_file
    graphs: dict[str, Part] = {bundle.model_file.digest: "model"}
    if encoder is not None:
        graphs[encoder.digest] = "text encoder"
    found = graphs.get(engine.record.key.graph)
    if found is None:
        raise BundleError(
            f"{engine.folder} was built from another graph than {bundle.path}; compile the bundle: "
            f"acd-edge compile {bundle.path}"
        )
    return found


def stamp_of(report: VerifyReport, engine: Engine) -> Stamp:
    """What is kept beside an engine: the lines about the graph that it was built from, and what was allowed.

    Without a line about it, it did not pass.
    """
    checks = report.part(engine.record.part)
    return Stamp(
        passed=bool(checks) and all(check.passed for check in checks),
        plan_sha256=engine.record.plan_sha256,
        checks=[asdict(check) for check in checks],
        tolerance=report.tolerance.to_dict(),
    )
