"""`acd-edge export --max-drop`: try precisions, keep the fastest that loses little enough."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acd_edge.cli.backend import BackendFlags, load_detector
from acd_edge.cli.data import Progress as Counter
from acd_edge.cli.export_precision import Wanted, int8_plan
from acd_edge.cli.judged import judged_samples, pixel_auroc_of
from acd_edge.errors import BackendError, DataError, DeviceError, EngineError, ExportError, MissingExtra

if TYPE_CHECKING:
    from acd_edge.calib.pictures import CalibrationPictures
    from acd_edge.data.samples import Sample
    from acd_edge.export.bundle import ExportOptions
    from acd_edge.export.int8 import Base, Int8Plan
    from acd_edge.export.search import Candidate, Trial
    from acd_edge.model import AcdClip
    from acd_edge.results import Failure
    from acd_edge.runtime.detector import Detector

PROBES = 2
"""Pictures of the calibration that tell which layers are sensitive."""

CANDIDATE_ERRORS = (ExportError, BackendError, EngineError)
"""Errors that say something of the candidate; any other would meet the next one too, and ends the search."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Judges:
    """What candidates are judged by, found before a model is loaded.

    Attributes:
        samples: labelled pictures with masks.
        backend: what runs the graphs.
        on_engines: whether it builds an engine of each.
    """

    samples: Sequence[Sample]
    backend: BackendFlags
    on_engines: bool

    @property
    def base(self) -> Base:
        """What INT8's other layers are fastest in."""
        return "fp16" if self.on_engines else "fp32"


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

        head = f"{self.pictures} labelled pictures; speed against fp32 on this machine, {self.backend}"
        return f"{head}\n{table(self.trials, self.kept, self.max_drop)}"

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        from acd_edge.export.search import rows

        about = {"max_drop": self.max_drop, "pictures": self.pictures, "backend": self.backend}
        return {**about, "tried": rows(self.trials, self.kept)}


def judges_of(wanted: Wanted) -> Judges:
    """What the flags say, before a model is loaded; raises as `judged_samples`."""
    samples = judged_samples(wanted.data, wanted.root, wanted.layout, wanted.calib, wanted.bits)
    backend, on_engines = _backend(wanted)
    return Judges(samples=samples, backend=backend, on_engines=on_engines)


def search_precision(
    model: AcdClip,
    options: ExportOptions,
    wanted: Wanted,
    pictures: CalibrationPictures | None,
    judges: Judges,
    target: Path,
    progress: Progress,
) -> Found:
    """Try every candidate as a bundle beside `target`, and say which export to make.

    Args:
        model, options: as the export gets them; the options' precision is replaced.
        wanted: the flags.
        pictures: to calibrate INT8 on; without them it is not tried.
        judges: see there.
        target: where the bundle will lie.
        progress: told each step.

    Raises:
        DataError: a labelled picture cannot be read.
        OutputError: the place cannot be written.
    """
    from acd_edge.export.bundle import workplace
    from acd_edge.export.search import best_trial

    max_drop = wanted.max_drop
    assert max_drop is not None
    base = wanted.base if wanted.fp16 or wanted.fp32 else judges.base
    with workplace(target) as folder, _Bench(model, options, judges, folder, progress) as bench:
        trials = [bench.reference()]  # first, since it meets at once whatever cannot be read, written or run
        plan = None if pictures is None else int8_plan(model, wanted, pictures, base, progress)
        chosen = _candidates(model, plan, wanted, judges, progress)
        trials += [bench.trial(candidate, plan) for candidate in chosen.values()]
        name = bench.backend_name
    kept = best_trial(trials, max_drop)
    assert kept.speed is not None
    gate = {
        "max_drop": max_drop, "drop": kept.drop, "speed": kept.speed.median, "pictures": len(judges.samples),
        "bit_depth": wanted.bits, "backend": name, "tried": len(trials),
    }  # fmt: skip
    final = replace(options, source={**options.source, "gate": gate})
    return Found(
        options=_as(final, chosen[kept.name], plan) if kept.name in chosen else replace(final, precision="fp32"),
        trials=trials, kept=kept, max_drop=max_drop, pictures=len(judges.samples), backend=name,
    )  # fmt: skip


def _candidates(
    model: AcdClip, plan: Int8Plan | None, wanted: Wanted, judges: Judges, progress: Progress
) -> dict[str, Candidate]:
    """What to try, by name."""
    from acd_edge.export.search import candidates

    order = [] if plan is None else _sensitivity(model, plan, wanted, progress)
    return {each.name: each for each in candidates(order, bf16=judges.on_engines)}


def _as(options: ExportOptions, candidate: Candidate, plan: Int8Plan | None) -> ExportOptions:
    int8 = None if candidate.precision != "int8" or plan is None else replace(plan, leave_out=candidate.leave_out)
    return replace(options, precision=candidate.precision, int8=int8)


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
    pictures = list(find_pictures(wanted.calib, PROBES, wanted.bits).read(folded.size))
    features = encode_product(model, tokenizer_for(model.config), "object")
    return most_sensitive_first(folded, plan.ranges(), pictures, features, Counter("groups of layers quantised alone"))


class _Bench:
    """Exports candidates, and measures each against fp32, which stays loaded until the block ends."""

    def __init__(
        self, model: AcdClip, options: ExportOptions, judges: Judges, folder: Path, progress: Progress
    ) -> None:
        from acd_edge.data.samples import categories_of, words_of

        self._model, self._judges, self._folder = model, judges, folder
        given = {name: options.products[name] for name in categories_of(judges.samples) if name in options.products}
        self._words = words_of(judges.samples, given) | given
        self._options = replace(options, products=self._words, tokenizer_json=None)
        self._progress = progress
        self._plain: Detector | None = None
        self._auroc = 0.0
        self.backend_name = ""

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        if self._plain is not None:
            self._plain.close()

    def reference(self) -> Trial:
        """Fp32: what the others are compared with."""
        from acd_edge.export.search import ALIKE, Trial

        self._plain = self._detector("fp32", replace(self._options, precision="fp32", int8=None))
        self.backend_name = self._plain.backend_name
        self._auroc = self._measured("fp32", self._plain)
        return Trial(name="fp32", bytes=_graph_bytes(self._plain), auroc=self._auroc, drop=0.0, speed=ALIKE)

    def trial(self, candidate: Candidate, plan: Int8Plan | None) -> Trial:
        """Measure one candidate, whose bundle goes afterwards; one that cannot run says so in the table."""
        from acd_edge.export.search import Trial

        try:
            with self._detector(candidate.name, _as(self._options, candidate, plan)) as detector:
                return self._judged(candidate.name, detector)
        except CANDIDATE_ERRORS as error:
            return Trial(name=candidate.name, refused=str(error).splitlines()[0])
        finally:
            shutil.rmtree(self._place(candidate.name), ignore_errors=True)

    def _judged(self, name: str, detector: Detector) -> Trial:
        from acd_edge.export.search import Trial, interleaved_ratio

        plain = self._plain
        assert plain is not None
        auroc = self._measured(name, detector)
        picture = detector.bundle.golden.image[:1]
        speed = interleaved_ratio(lambda: plain.infer(picture), lambda: detector.infer(picture))
        drop = 100 * (self._auroc - auroc)
        return Trial(name=name, bytes=_graph_bytes(detector), auroc=auroc, drop=drop, speed=speed)

    def _place(self, name: str) -> Path:
        return self._folder / name.replace(" ", "-")

    def _detector(self, name: str, options: ExportOptions) -> Detector:
        from acd_edge.export.bundle import export_bundle
        from acd_edge.model.weights import tokenizer_for

        self._progress(f"try {name}")
        path, tokenize = self._place(name), tokenizer_for(self._model.config)
        export_bundle(self._model, path, tokenize, options, progress=lambda _: None)
        return load_detector(path, product="object", how=self._judges.backend)

    def _measured(self, name: str, detector: Detector) -> float:
        from acd_edge.evaluate import evaluate, predictor_from_detector

        manifest = detector.bundle.manifest
        report = evaluate(
            predictor_from_detector(detector), self._judges.samples, size=manifest.size, words=self._words,
            resize_rule=manifest.resize, listener=_Told(name),
        )  # fmt: skip
        return pixel_auroc_of(report)


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

    def failure(self, failure: Failure) -> None:
        """It ends the search."""
        raise DataError(f"{failure.reason}; mend or remove it")

    def category(self, name: str, row: Any) -> None:
        """Nothing is told of one."""
