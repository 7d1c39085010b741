"""Which precision `acd-edge export` was asked for, and INT8's ranges from a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from acd_edge.errors import UsageError

if TYPE_CHECKING:
    from acd_edge.calib.pictures import CalibrationPictures
    from acd_edge.calib.ranges import Method
    from acd_edge.export.bundle import ExportOptions
    from acd_edge.export.int8 import Base, Int8Plan
    from acd_edge.export.precision import Precision
    from acd_edge.model import AcdClip
    from acd_edge.runtime.preprocess import Pixels

CALIB_COUNT = 128
METHOD_NAMES = ("percentile", "minmax", "entropy")
"""Those of `acd_edge.calib.ranges`, repeated here so that a help page imports no numpy; a test compares."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the flags of precision said.

    Raises:
        UsageError: they cannot be combined.
    """

    fp16: bool = False
    fp32: bool = False
    bf16: bool = False
    int8: bool = False
    calib: Path | None = None
    calib_method: str | None = None
    calib_count: int | None = None
    bit_depth: int | None = None
    max_drop: float | None = None
    data: tuple[Path, ...] = ()
    root: Path | None = None
    layout: str | None = None
    backend: str | None = None

    def __post_init__(self) -> None:
        if self.fp16 and self.fp32:
            raise UsageError("give --fp16 or --fp32, not both")
        if self.bf16 and (self.fp16 or self.fp32 or self.int8):
            raise UsageError("--bf16 stands alone; INT8 goes with --fp16, for TensorRT, or --fp32, for a CPU")
        self._check_calibration()
        self._check_search()

    def _check_calibration(self) -> None:
        if self.int8 and self.calib is None:
            raise UsageError("--int8 needs --calib DIR, a folder of pictures that its ranges are measured on")
        if self.calib is not None and not self.int8 and self.max_drop is None:
            raise UsageError("--calib is for --int8 and --max-drop; add one of them, or leave --calib away")
        of_calib = {"--calib-method": self.calib_method, "--calib-count": self.calib_count}
        for flag, given in of_calib.items():
            if given is not None and self.calib is None:
                raise UsageError(f"{flag} says how --calib is used; add --calib DIR, or leave {flag} away")
        if self.bit_depth is not None and self.calib is None and not self.data:
            raise UsageError(
                "--bit-depth says how --calib and --data are read; add one of them, or leave --bit-depth away"
            )

    def _check_search(self) -> None:
        if self.max_drop is None:
            of_search = {"--data": self.data, "--root": self.root, "--layout": self.layout, "--backend": self.backend}
            for flag, given in of_search.items():
                if given:
                    raise UsageError(f"{flag} is for --max-drop; add it, or leave {flag} away")
            return
        if not 0 <= self.max_drop <= 100:  # click lets NaN through
            raise UsageError(f"--max-drop is a number of points from 0 to 100, got {self.max_drop}")
        if not self.data:
            raise UsageError("--max-drop needs --data DIR, labelled pictures that the drop is measured on")
        if self.int8 or self.bf16:
            raise UsageError("--max-drop chooses the precision itself; leave --int8 and --bf16 away")
        if (self.fp16 or self.fp32) and self.calib is None:
            raise UsageError("with --max-drop, --fp16 and --fp32 say what INT8's other layers compute in; add --calib")

    @property
    def bits(self) -> int:
        """That 16-bit pictures use."""
        return self.bit_depth or 16

    @property
    def precision(self) -> Precision:
        """Of the graph, where the flags say it."""
        if self.int8:
            return "int8"
        if self.bf16:
            return "bf16"
        return "fp32" if self.fp32 else "fp16"

    @property
    def base(self) -> Base:
        """What INT8's other layers compute in."""
        return "fp32" if self.fp32 else "fp16"

    @property
    def label(self) -> str:
        """The part of the bundle's name that tells the precision."""
        if self.max_drop is not None:
            return "chosen"
        return f"int8-{self.base}" if self.int8 else self.precision


def pictures_of(wanted: Wanted, progress: Progress) -> CalibrationPictures | None:
    """List the pictures of `--calib`, before a model is loaded for them; None without it.

    Raises:
        SourceError: see `find_pictures`.
    """
    if wanted.calib is None:
        return None
    from acd_edge.calib.pictures import find_pictures

    found = find_pictures(wanted.calib, wanted.calib_count or CALIB_COUNT, wanted.bits)
    if found.masks:
        progress(f"left out of {wanted.calib}: {found.masks} pictures in folders of masks, which no camera sees")
    return found


def with_precision(
    model: AcdClip, options: ExportOptions, wanted: Wanted, pictures: CalibrationPictures | None, progress: Progress
) -> ExportOptions:
    """The options with the precision that was asked for; INT8 is calibrated for them, on `pictures_of` the folder."""
    plan = int8_plan(model, wanted, pictures, wanted.base, progress) if wanted.int8 and pictures else None
    return replace(options, precision=wanted.precision, int8=plan)


def int8_plan(
    model: AcdClip, wanted: Wanted, pictures: CalibrationPictures, base: Base, progress: Progress
) -> Int8Plan:
    """Measure INT8's ranges on pictures, for a graph whose other layers compute in `base`."""
    from acd_edge.calib.ranges import DEFAULT_METHOD
    from acd_edge.cli.data import Progress as Counter
    from acd_edge.export.fold import fold
    from acd_edge.export.int8 import Int8Plan, observe_inputs
    from acd_edge.export.smooth import smoothed, smoothing_factors

    folded, total = fold(model), len(pictures.paths)
    progress(f"calibrate on {total} of the {pictures.found} pictures in {wanted.calib}")

    def counted(what: str) -> Iterator[Pixels]:
        tell = Counter(what)
        for done, picture in enumerate(pictures.read(folded.size)):
            yield picture
            tell(done + 1, total)

    smoothing = smoothing_factors(folded, counted("pictures read for the largest value of each channel"))
    return Int8Plan(
        magnitudes=observe_inputs(smoothed(folded, smoothing), counted("pictures read for the ranges")),
        smoothing=smoothing,
        method=cast("Method", wanted.calib_method or DEFAULT_METHOD),
        base=base,
        pictures={"pictures": total, "pictures_sha256": pictures.sha256, "bit_depth": pictures.bit_depth},
    )


def described(record: Mapping[str, Any]) -> str:
    """The manifest's record of a calibration in words."""
    percentile = f" {record['percentile']}" if "percentile" in record else ""
    left_out = f", {len(record['left_out'])} left out" if record["left_out"] else ""
    return (
        f"{record['groups']} groups of linear layers in a graph of {record['base']}{left_out}; "
        f"{record['method']}{percentile} of {record['pictures']} pictures"
    )
