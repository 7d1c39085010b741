"""`acd-edge export --max-drop`: try precisions, keep the fastest that loses little enough."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acd_edge.cli.backend import BackendFlags, load_detector
from acd_edge.cli.data import Progress as Counter
from acd_edge.cli.export_precision import Wanted, int8_plan
from acd_edge.errors import AcdEdgeError, DataError, DeviceError, MissingExtra, UsageError

if TYPE_CHECKING:
    from acd_edge.data.samples import Sample
    from acd_edge.export.bundle import ExportOptions
    from acd_edge.export.int8 import Int8Plan
    from acd_edge.export.search import Candidate, Trial
    from acd_edge.model import AcdClip
    from acd_edge.runtime.detector import Detector

PROBES = 2
"""Pictures of the calibration that tell which layers are sensitive."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search ended with.

    Attributes:
        options: of the export that is kept.
        trials, kept: what was tried, fp32 first, and which of it is kept.
        max_drop: points.
        pictures: that it was judged on.
        backend: that ran them.
    """

    options: ExportOptions
    trials: Sequence[Trial]
    kept: Trial
    max_drop: float
    pictures: int
    backend: str

    def table(self) -> str:
        """For people."""
        from acd_edge.export.search import table

        head = f"{self.pictures} labelled pictures, {self.backend}"
        return f"{head}\n{table(self.trials, self.kept, self.max_drop)}"

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        from acd_edge.export.search import rows

        about = {"max_drop": self.max_drop, "pictures": self.pictures, "backend": self.backend}
        return {**about, "tried": rows(self.trials, self.kept)}


def search_precision(model: AcdClip, options: ExportOptions, wanted: Wanted, target: Path, progress: Progress) -> Found:
    """Try every candidate as a bundle beside `target`, and say which export to make.

    Raises:
        UsageError: a picture lies in both folders.
        DataError: the labelled pictures have no masks, or one cannot be read.
    """
    from acd_edge.data.samples import load_data
    from acd_edge.export.search import Trial, best_trial, candidates

    max_drop = wanted.max_drop
    assert max_drop is not None
    samples = load_data(wanted.data, split="test")
    if wanted.calib is not None:
        _check_apart(wanted.calib, samples)
    backend, on_engines = _backend(wanted)
    if not (wanted.fp16 or wanted.fp32):
        wanted = replace(wanted, fp16=on_engines, fp32=not on_engines)  # what INT8's other layers are fastest in
    plan = None if wanted.calib is None else int8_plan(model, wanted, progress)
    order = [] if plan is None else _sensitivity(model, plan, wanted, progress)
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as folder:
        bench = _Bench(model, options, samples, Path(folder), backend, progress)
        try:
            trials = [bench.reference()]
            chosen: dict[str, Candidate] = {}
            for candidate in candidates(order, bf16=on_engines):
                chosen[candidate.name] = candidate
                try:
                    trials.append(bench.trial(candidate, plan))
                except DataError:
                    raise
                except AcdEdgeError as error:
                    trials.append(Trial(name=candidate.name, refused=str(error).splitlines()[0]))
            name = bench.backend_name
        finally:
            bench.close()
    kept = best_trial(trials, max_drop)
    gate = {
        "max_drop": max_drop, "drop": kept.drop, "pictures": len(samples), "backend": name, "tried": len(trials)
    }  # fmt: skip
    final = replace(options, source={**options.source, "gate": gate})
    return Found(
        options=_as(final, chosen[kept.name], plan) if kept.name in chosen else replace(final, precision="fp32"),
        trials=trials, kept=kept, max_drop=max_drop, pictures=len(samples), backend=name,
    )  # fmt: skip


def _as(options: ExportOptions, candidate: Candidate, plan: Int8Plan | None) -> ExportOptions:
    int8 = None if candidate.precision != "int8" or plan is None else replace(plan, leave_out=candidate.leave_out)
    return replace(options, precision=candidate.precision, int8=int8)


def _check_apart(calib: Path, samples: Sequence[Sample]) -> None:
    """Refuse pictures that would both set the ranges and judge them, under whatever name they lie."""
    from acd_edge.calib.pictures import pictures_below
    from acd_edge.data.zero_shot import picture_digest

    known = {picture_digest(path): path for path in pictures_below(calib)}
    for sample in samples:
        if (same := known.get(picture_digest(sample.image))) is not None:
            raise UsageError(
                f"{sample.image} of --data is {same} of --calib too; ranges cannot be judged on pictures that set them"
            )


def _backend(wanted: Wanted) -> tuple[BackendFlags, bool]:
    """What measures, and whether it builds engines: TensorRT where it and a GPU are, unless told otherwise."""
    name = wanted.backend or "auto"
    if name == "auto" and _has_tensorrt():
        name = "tensorrt"
    return BackendFlags(backend=name), name == "tensorrt"


def _has_tensorrt() -> bool:
    from acd_edge.runtime.cuda import open_cuda
    from acd_edge.runtime.trt_module import load_tensorrt

    try:
        load_tensorrt(), open_cuda()
    except (MissingExtra, DeviceError):
        return False
    return True


def _sensitivity(model: AcdClip, plan: Int8Plan, wanted: Wanted, progress: Progress) -> list[str]:
    from acd_edge.calib.pictures import find_pictures
    from acd_edge.export.bundle import encode_product
    from acd_edge.export.fold import fold
    from acd_edge.export.search import most_sensitive_first
    from acd_edge.export.smooth import smoothed
    from acd_edge.model.weights import tokenizer_for

    assert wanted.calib is not None
    progress("which layers are sensitive")
    folded = smoothed(fold(model), plan.smoothing)
    pictures = list(find_pictures(wanted.calib, PROBES).read(folded.size))
    features = encode_product(model, tokenizer_for(model.config), "object")
    return most_sensitive_first(folded, plan.ranges(), pictures, features, Counter("groups of layers quantised alone"))


class _Bench:
    """Exports candidates, and measures each against fp32, which stays loaded."""

    def __init__(
        self,
        model: AcdClip,
        options: ExportOptions,
        samples: Sequence[Sample],
        folder: Path,
        backend: BackendFlags,
        progress: Progress,
    ) -> None:
        from acd_edge.data.samples import words_of

        self._model, self._samples, self._folder, self._how = model, samples, folder, backend
        self._words = dict(words_of(samples, {}))
        self._options = replace(options, products=self._words, tokenizer_json=None)
        self._progress = progress
        self._plain: Detector | None = None
        self._auroc = 0.0
        self.backend_name = ""

    def reference(self) -> Trial:
        """Fp32: what the others are compared with."""
        from acd_edge.export.search import Trial

        options = replace(self._options, precision="fp32", int8=None)
        self._plain = self._detector("fp32", options)
        self.backend_name = self._plain.backend_name
        self._auroc = self._measured("fp32", self._plain)
        return Trial(name="fp32", bytes=_graph_bytes(self._plain), auroc=self._auroc, drop=0.0, speed=1.0)

    def trial(self, candidate: Candidate, plan: Int8Plan | None) -> Trial:
        """Measure one candidate."""
        from acd_edge.export.search import Trial, interleaved_ratio

        plain = self._plain
        assert plain is not None
        with self._detector(candidate.name, _as(self._options, candidate, plan)) as detector:
            auroc = self._measured(candidate.name, detector)
            picture = detector.bundle.golden.image[:1]
            speed = interleaved_ratio(lambda: plain.infer(picture), lambda: detector.infer(picture))
            return Trial(
                name=candidate.name, bytes=_graph_bytes(detector), auroc=auroc,
                drop=100 * (self._auroc - auroc), speed=speed,
            )  # fmt: skip

    def close(self) -> None:
        """Free fp32's graph."""
        if self._plain is not None:
            self._plain.close()

    def _detector(self, name: str, options: ExportOptions) -> Detector:
        from acd_edge.export.bundle import export_bundle
        from acd_edge.model.weights import tokenizer_for

        self._progress(f"try {name}")
        path = self._folder / name.replace(" ", "-")
        export_bundle(self._model, path, tokenizer_for(self._model.config), options, progress=lambda _: None)
        return load_detector(path, product="object", how=self._how)

    def _measured(self, name: str, detector: Detector) -> float:
        from acd_edge.evaluate import evaluate, predictor_from_detector

        report = evaluate(
            predictor_from_detector(detector), self._samples, size=detector.bundle.manifest.size, words=self._words,
            resize_rule=detector.bundle.manifest.resize, listener=_Told(name),
        )  # fmt: skip
        if report.failed:
            raise DataError(f"{report.failed[0].reason}; mend or remove it")
        if report.mean.pixel_auroc is None:
            raise DataError("--data has no masks, so there is no pixel AUROC that could drop")
        return report.mean.pixel_auroc


def _graph_bytes(detector: Detector) -> int:
    """Of the graph and its data, without text encoder."""
    files = detector.bundle.manifest.files
    return sum(record.bytes for path, record in files.items() if path.startswith("model.onnx"))


class _Told:
    """A line on stderr every few seconds while pictures are measured."""

    def __init__(self, name: str) -> None:
        self._tell = Counter(f"pictures in {name}", at_end=False)

    def picture(self, done: int, total: int, category: str) -> None:
        """See `acd_edge.evaluate.Listener`."""
        self._tell(done, total)

    def failure(self, failure: Any) -> None:
        """It ends the search."""
        click.echo(f"Error: {failure.reason}", err=True)

    def category(self, name: str, row: Any) -> None:
        """Nothing is told of one."""
