"""The latency-accuracy ladder: a checkpoint at several sizes and precisions, each exported, measured and judged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from acd_edge.bench.results import write_json
from acd_edge.errors import AcdEdgeError, BenchError, BundleError, ExportError, MissingExtra, OutputError
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.bundle_files import MANIFEST

__all__ = [
    "PRECISIONS", "Choice", "Ladder", "Latency", "Request", "Rung", "Work", "best_rung", "default_precisions",
    "export_rung", "sizes_around", "walk",
]  # fmt: skip

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_SHARES = (1 / 2, 2 / 3, 5 / 6, 1, 7 / 6)  # of the checkpoint's own size
_KEPT = "ladder.json"
_SCHEMA = 1
_LAST_WAIT = 10.0  # seconds for an export that was told to end; torch looks up between two layers
_CODE = "import sys; sys.path[:] = {path!r}; from acd_edge.__main__ import main; main()"
"""The same modules as here: with `-m` those in the current folder would come first."""


@dataclass(frozen=True, order=True)
class Choice:
    """One rung to climb."""

    size: int
    precision: str

    @property
    def name(self) -> str:
        """Of its bundle's folder and of its row."""
        return f"{self.size}-{self.precision}"


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the first byte of a frame to its decision."""

    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One row.

    Attributes:
        name, size, precision: which.
        backend: what ran it.
        p50_ms, p95_ms: to the decision; None where it was not measured.
        pixel_auroc: in 0 to 1; None where it was not measured.
        fits: its p95 is within the budget.
        reason: why it is not there; empty where it is.
    """

    name: str
    size: int
    precision: str
    backend: str = ""
    p50_ms: float | None = None
    p95_ms: float | None = None
    pixel_auroc: float | None = None
    fits: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a rung is exported of, besides size and precision.

    Attributes:
        checkpoint: its folder.
        checkpoint_sha256: so that a rung of another one is not taken for it.
        domain: of the pictures that it is judged on.
        products: name -> words of the prompts.
        calib: pictures for INT8, and
        calib_sha256: their digest.
        bit_depth: that the 16-bit pictures among them, and among those that judge, are read with.
        clip_weights: where the backbone lies, if it has moved.
        int8_base: what INT8's other layers compute in, fp16 for TensorRT and fp32 for a CPU.
    """

    checkpoint: Path
    checkpoint_sha256: str
    domain: str
    products: Mapping[str, str]
    calib: Path | None = None
    calib_sha256: str = ""
    bit_depth: int = 16
    clip_weights: Path | None = None
    int8_base: str = "fp32"

    def identity(self, choice: Choice) -> dict[str, Any]:
        """What makes two exports of a rung the same, for `ladder.json`."""
        own = {
            "checkpoint_sha256": self.checkpoint_sha256, "domain": self.domain, "products": dict(self.products),
            "size": choice.size, "precision": choice.precision,
        }  # fmt: skip
        if choice.precision == "int8":
            own |= {
                "calib_sha256": self.calib_sha256, "bit_depth": self.bit_depth, "int8_base": self.int8_base,
            }  # fmt: skip
        return own

    def arguments(self, choice: Choice, bundle: Path) -> list[str]:
        """Of `acd-edge export`."""
        found = ["export", str(self.checkpoint), "--size", str(choice.size), "--domain", self.domain]
        found += [f"--{choice.precision}"]
        if choice.precision == "int8":
            if self.calib is None:
                raise ExportError("int8 needs --calib DIR, pictures that its ranges are measured on")
            found += [f"--{self.int8_base}", "--calib", str(self.calib), "--bit-depth", str(self.bit_depth)]
        for name, words in self.products.items():
            found += ["--product", f"{name}={words}"]
        if self.clip_weights is not None:
            found += ["--clip-weights", str(self.clip_weights)]
        return [*found, "--no-compile", "-o", str(bundle)]  # an engine is built where one is measured


Exporter = Callable[[Request, Choice, Path], object]
"""Writes the bundle of a rung to a place; raises `AcdEdgeError` where that cannot be."""


def export_rung(request: Request, choice: Choice, bundle: Path) -> None:
    """Run `acd-edge export` in a process of its own, so that torch's memory is not in what is measured after it.

    Raises:
        ExportError: it failed; its own words are the reason.
    """
    code, stderr = _run_module(request.arguments(choice, bundle))
    if code:
        raise ExportError(_reason(code, stderr.strip().splitlines()))


def _reason(code: int, lines: Sequence[str]) -> str:
    """Why an export failed: its own error, or the signal that ended it; the last line is then mere progress."""
    if told := next((line for line in reversed(lines) if line.startswith("Error: ")), None):
        return told.removeprefix("Error: ")
    if code < 0:
        hint = "; perhaps the memory was full: close other programs or add swap" if -code == signal.SIGKILL else ""
        return f"the export was ended by signal {-code} ({signal.strsignal(-code)}){hint}"
    return lines[-1] if lines else f"the export ended with {code}"


def _run_module(arguments: Sequence[str]) -> tuple[int, str]:
    """Run acd-edge; its exit status and stderr. Where this is interrupted it gets time to remove what is temporary."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE.format(path=sys.path), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    with process:
        try:
            _, stderr = process.communicate()
        except BaseException:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_WAIT)
            process.kill()
            raise
    return process.returncode, stderr


def sizes_around(own: int, patch: int) -> tuple[int, ...]:
    """Some sizes from half of the checkpoint's own up to a sixth more, each a multiple of the patch.

    >>> sizes_around(420, 14)
    (210, 280, 350, 420, 490)
    """
    return tuple(sorted({max(1, round(own * share / patch)) * patch for share in _SHARES}))


def best_rung(rungs: Iterable[Rung]) -> Rung | None:
    """The most accurate of those that fit, the faster one where two are alike; None where none fits."""
    fit = [rung for rung in rungs if rung.fits and rung.pixel_auroc is not None]
    return max(fit, key=lambda rung: (rung.pixel_auroc or 0.0, -(rung.p95_ms or 0.0)), default=None)


class Work:
    """The folder of the rungs: their bundles, and what was exported and judged already.

    Args:
        folder: made where it is not there.

    Raises:
        BenchError: it holds a ladder of another schema, or something that is none.
        OutputError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made: {error.strerror or error}") from error
        self._path = folder / _KEPT
        self._kept = self._newest()

    def bundle(self, choice: Choice) -> Path:
        """Where the bundle of a rung lies."""
        return self.folder / choice.name

    def has(self, request: Request, choice: Choice) -> bool:
        """Whether the very rung was exported before, and is as it was."""
        if self._rung(choice).get("exported") != request.identity(choice):
            return False
        try:
            with Bundle.open(self.bundle(choice)):
                return True
        except BundleError:
            return False

    def make_room(self, choice: Choice) -> None:
        """Remove the bundle of another request; what this folder did not export is somebody else's, and stays.

        From here on the place is the ladder's: an export that is interrupted leaves nothing that a later walk takes
        for the one that was there, or for somebody else's.

        Raises:
            BenchError: it is in the way.
        """
        bundle = self.bundle(choice)
        is_there = os.path.lexists(bundle)
        if is_there and not ("exported" in self._rung(choice) and _is_bundle(bundle)):
            raise BenchError(f"{bundle} was not exported by a ladder and is in the way; choose another -o")
        self._put(choice, {"exported": None})
        if is_there:
            try:
                shutil.rmtree(bundle)
            except OSError as error:
                raise OutputError(f"{bundle} cannot be removed: {error.strerror or error}") from error

    def drop(self, choice: Choice) -> None:
        """Remove the bundle of a rung that nobody will ask for again."""
        shutil.rmtree(self.bundle(choice), ignore_errors=True)

    def exported(self, request: Request, choice: Choice) -> None:
        """Keep that it is there."""
        self._put(choice, {"exported": request.identity(choice)})

    def judged(self, choice: Choice, of: Mapping[str, Any]) -> float | None:
        """The pixel AUROC that was found before, of the same data on the same backend; None where there is none."""
        kept = self._rung(choice).get("judged")
        if not isinstance(kept, Mapping) or kept.get("of") != dict(of):
            return None
        value = kept.get("pixel_auroc")
        return float(value) if isinstance(value, (int, float)) else None

    def judge(self, choice: Choice, of: Mapping[str, Any], pixel_auroc: float) -> None:
        """Keep what was found."""
        self._put(choice, {**self._rung(choice), "judged": {"of": dict(of), "pixel_auroc": pixel_auroc}})

    def _rung(self, choice: Choice) -> Mapping[str, Any]:
        found = self._kept["rungs"].get(choice.name, {})
        return found if isinstance(found, Mapping) else {}

    def _put(self, choice: Choice, rung: Mapping[str, Any]) -> None:
        """Keep one rung, beside those that another walk in the same folder has kept meanwhile."""
        self._kept = self._newest()
        self._kept["rungs"][choice.name] = dict(rung)
        write_json(self._path, self._kept)

    def _newest(self) -> dict[str, Any]:
        return _read(self._path) if self._path.exists() else {"schema": _SCHEMA, "rungs": {}}


def _is_bundle(folder: Path) -> bool:
    """Whether a folder may go: what `export` writes has a manifest from the moment that it is there."""
    return (folder / MANIFEST).is_file() and not folder.is_symlink()


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{path} cannot be read: {error}; choose another -o") from error
    if not isinstance(values, dict) or values.get("schema") != _SCHEMA or not isinstance(values.get("rungs"), dict):
        raise BenchError(f"{path} is of no ladder that this acd-edge knows; choose another -o")
    return values


@dataclass
class Ladder:
    """What was climbed so far; `best` is told over it."""

    budget_ms: float
    rungs: list[Rung] = field(default_factory=list)

    @property
    def best(self) -> Rung | None:
        """See `best_rung`."""
        return best_rung(self.rungs)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, by size and precision."""
        best = self.best
        return {
            "budget_ms": self.budget_ms,
            "rungs": [asdict(rung) for rung in self.sorted()],
            "best": best.name if best else None,
        }

    def sorted(self) -> list[Rung]:
        """By size, then by precision from wide to narrow."""
        return sorted(self.rungs, key=lambda rung: (rung.size, PRECISIONS.index(rung.precision)))


Measure = Callable[[Path], "tuple[Latency, str]"]
"""Bundle -> its latency, and the backend that ran it."""
Judge = Callable[[Path, Choice], float]
"""Bundle -> pixel AUROC on the data."""


def walk(
    ladder: Ladder,
    choices: Iterable[Choice],
    request: Request,
    work: Work,
    *,
    export: Exporter,
    measure: Measure,
    judge: Judge,
    keep: bool = True,
    say: Callable[[str], object] = lambda line: None,
) -> Iterator[Rung]:
    """Climb rung after rung and give each as it is done; `ladder` has them too.

    Args:
        ladder: gets the rungs.
        choices: which, in the order in which they are climbed.
        request: what they are exported of.
        work: where.
        export, measure, judge: see there; what raises `AcdEdgeError` makes a rung with its reason.
        keep: leave the bundles; else each goes when its rung is done, since many large ones would fill a disk.
        say: told what is being done.

    Raises:
        MissingExtra: what runs the rungs is not installed.
    """
    for choice in choices:
        rung = Rung(name=choice.name, size=choice.size, precision=choice.precision)
        try:
            bundle = work.bundle(choice)
            if work.has(request, choice):
                say(f"{choice.name}: exported before")
            else:
                say(f"{choice.name}: export")
                work.make_room(choice)
                export(request, choice, bundle)
                work.exported(request, choice)
            say(f"{choice.name}: latency")
            latency, backend = measure(bundle)
            fits = latency.p95_ms <= ladder.budget_ms
            rung = replace(rung, backend=backend, p50_ms=latency.p50_ms, p95_ms=latency.p95_ms, fits=fits)
            say(f"{choice.name}: accuracy")
            rung = replace(rung, pixel_auroc=judge(bundle, choice))
        except MissingExtra:
            raise  # it would be missing for every other rung too
        except AcdEdgeError as error:
            rung = replace(rung, fits=False, reason=" ".join(str(error).splitlines()))
        if not keep:
            work.drop(choice)
        ladder.rungs.append(rung)
        yield rung


def default_precisions(*, on_tensorrt: bool, has_calib: bool) -> Sequence[str]:
    """What can run: bf16 on TensorRT alone, INT8 with pictures to calibrate on.

    >>> default_precisions(on_tensorrt=False, has_calib=True)
    ('fp32', 'fp16', 'int8')
    """
    unfit = {"bf16": not on_tensorrt, "int8": not has_calib}
    return tuple(precision for precision in PRECISIONS if not unfit.get(precision, False))
