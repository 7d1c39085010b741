"""How far a graph may be from its source: one table, a reason beside each line.

The figures behind the limits are the largest drift that was seen when the built-in model at 280 px said the golden
samples and labelled pictures (steel, magnetic tiles) in that arithmetic in torch, beside its own float32:
`benchmarks/drift.py` measures it, `benchmarks/results/drift.json` has 48 pictures, 64 others of the same sets were
looked at before. A CLIP of random weights (12 blocks, 256 wide) drifts less in its outputs, and up to 1.7 times more in
its blocks. The margin is stated with each line: three or more, since other models are steeper at the edges of defects.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from acd_edge.errors import UsageError

__all__ = [
    "LIMIT_OF", "TOLERANCES", "Limits", "Tolerance", "limits_for", "on_golden", "tolerance_for", "with_overrides",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What is allowed; differences are of probabilities, 0 to 1.

    Attributes:
        cosine: least of any output, over all pictures as one vector.
        map: largest difference of a pixel of the map.
        class_score: of the class score.
        fusion: of a fusion weight.
        score: of the picture's score.
        edge: pixels by which the outline of what is marked may move; the least overlap follows (`least_overlap`).
        auroc: largest change of a category's pixel or image AUROC, in either direction.
        text: largest difference of a value of a text feature, which are unit vectors.
        block: relative error (L2 norm) of a block's output from which on `--bisect` says that it departs.
    """

    cosine: float
    map: float
    class_score: float
    fusion: float
    score: float
    edge: float
    auroc: float
    text: float
    block: float

    def to_dict(self) -> dict[str, float]:
        """By name, as a stamp keeps it."""
        return asdict(self)

    def loosened(self, other: Tolerance) -> Tolerance:
        """The looser of both, limit by limit."""
        pairs = ((each.name, getattr(self, each.name), getattr(other, each.name)) for each in fields(self))
        return Tolerance(**{name: (min if name in _AT_LEAST else max)(mine, yours) for name, mine, yours in pairs})


LIMIT_OF: Mapping[str, str] = MappingProxyType(
    {"anomaly_map": "map", "class_score": "class_score", "fusion_weights": "fusion"}
)
"""Output of the graph -> its limit in `Tolerance`."""

_AT_LEAST = frozenset({"cosine"})
"""Limits that a value may not fall below; the others may not be passed."""

_TEXT = 1e-3  # the encoder computes in float32 whatever the graph does; its matrices are stored in float16: seen 9e-5

TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        # Another order of float32 sums and nothing else: seen 1.3e-5 in the map (1e-4 allowed for ONNX Runtime at 420
        # px), 2e-7 in the weights, 1e-7 in the scores, blocks 3e-6. Times 10 in the map and more elsewhere; TF32, which
        # some libraries take for float32, keeps 11 bits as float16 does, and is beyond it.
        "fp32": Tolerance(
            cosine=0.99999, map=1e-3, class_score=1e-4, fusion=1e-4, score=2e-4, edge=0.05, auroc=2e-4, text=_TEXT,
            block=1e-3,
        ),
        # 11 bits, sums in float32: seen 0.028 in the map, at the edge of a defect; 0.0062 in the class score, 0.0025 in
        # the weights, 0.0056 in the score; cosine 1 - 1e-5, edge 0.07 px, AUROC 3e-4, blocks 4.8e-3. Times 3. What
        # overflows is off by far more.
        "fp16": Tolerance(
            cosine=0.99995, map=0.08, class_score=0.02, fusion=0.01, score=0.02, edge=0.2, auroc=1e-3, text=_TEXT,
            block=0.015,
        ),
        # 8 bits, sums in float32: seen 0.111 in the map, 0.0183 in the class score, 0.0143 in the weights, 0.0168 in
        # the score; cosine 1 - 4e-4, edge 0.32 px, AUROC 4.5e-4, blocks 0.045. Times 3.
        "bf16": Tolerance(
            cosine=0.999, map=0.3, class_score=0.06, fusion=0.05, score=0.05, edge=1.0, auroc=2e-3, text=_TEXT,
            block=0.13,
        ),
        # 127 steps, every layer of every block, calibrated on pictures of the same sets or of another: seen 0.22 in the
        # map, 0.020 in the class score, 0.015 in the weights, 0.019 in the score; cosine 1 - 0.0043, edge 1.8 px, AUROC
        # 4e-4, blocks 0.29. Times 3, the blocks 2. A model or a calibration that INT8 suits badly fails, rightly.
        "int8": Tolerance(
            cosine=0.985, map=0.6, class_score=0.06, fusion=0.05, score=0.06, edge=5.0, auroc=2e-3, text=_TEXT,
            block=0.6,
        ),
    }
)  # fmt: skip
"""Precision of the graph -> what is allowed."""


def tolerance_for(precision: str, *, openvino_precision: str = "f32") -> Tolerance:
    """The line of a precision; bf16's where OpenVINO was told to round further.

    >>> tolerance_for("fp32").map, tolerance_for("fp32", openvino_precision="bf16").map == TOLERANCES["bf16"].map
    (0.001, True)
    """
    own = TOLERANCES[precision]
    return own.loosened(TOLERANCES["bf16"]) if openvino_precision == "bf16" else own


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is allowed, by what it is compared with.

    Attributes:
        source: the float32 source.
        golden: the same on the golden pictures, see `on_golden`.
        peer: the same bundle in another library.
    """

    source: Tolerance
    golden: Tolerance
    peer: Tolerance

    @classmethod
    def everywhere(cls, tolerance: Tolerance) -> Limits:
        """One for all."""
        return cls(source=tolerance, golden=tolerance, peer=tolerance)

    def with_overrides(self, texts: Collection[str]) -> Limits:
        """With `NAME=VALUE` in all three; raises as the function of this name."""
        return Limits(
            source=with_overrides(self.source, texts),
            golden=with_overrides(self.golden, texts),
            peer=with_overrides(self.peer, texts),
        )


def limits_for(precision: str, recorded: Mapping[str, Any], *, openvino_precision: str = "f32") -> Limits:
    """The limits of a bundle.

    Two libraries that run the same INT8 graph round alike, but for values near a half: ONNX Runtime and OpenVINO were
    seen 0.117 apart in the map, 0.0016 in the class score, the outline 0.23 px. bf16's line leaves twice that and more.

    Args:
        precision: of the graph.
        recorded: the drift that the export recorded, or nothing.
        openvino_precision: what OpenVINO rounds to; with bf16 what was recorded is not what is computed.
    """
    source = tolerance_for(precision, openvino_precision=openvino_precision)
    peer = TOLERANCES["bf16"] if precision == "int8" else source
    golden = on_golden(source, recorded) if openvino_precision == "f32" else source
    return Limits(source=source, golden=golden, peer=peer)


def on_golden(tolerance: Tolerance, recorded: Mapping[str, Any]) -> Tolerance:
    """What is allowed on the golden samples, where the export has recorded how far the graph itself is from them.

    Twice that, and a float16's limit beside it for the library's own rounding, where this is narrower: a model that
    INT8 suits well shall not be allowed what the others are. What a cosine lacks of one is half the square of the
    relative error, so there it is the roots that are doubled and added. The recorded drift is that of exact arithmetic;
    ONNX Runtime was seen at 4.3 times what its cosine lacks, and 2.3 times its difference.

    Args:
        tolerance: of the precision.
        recorded: output -> `cosine` and `difference`, the manifest's `fold["drift"]`; or nothing.

    >>> known = {"anomaly_map": {"cosine": 0.999, "difference": 0.03}}
    >>> round(on_golden(TOLERANCES["int8"], known).map, 3), on_golden(TOLERANCES["fp16"], known).map
    (0.14, 0.08)
    """
    limits = {output: entry for output, entry in recorded.items() if output in LIMIT_OF and isinstance(entry, Mapping)}
    if not limits:
        return tolerance
    beside = TOLERANCES["fp16"]
    cosine = min(float(entry.get("cosine", 0)) for entry in limits.values())
    narrower = {
        LIMIT_OF[output]: 2 * float(entry.get("difference", math.inf)) + getattr(beside, LIMIT_OF[output])
        for output, entry in limits.items()
    }
    kept = {name: min(limit, getattr(tolerance, name)) for name, limit in narrower.items()}
    error = 2 * math.sqrt(max(1 - cosine, 0)) + math.sqrt(1 - beside.cosine)
    return replace(tolerance, **kept, cosine=max(tolerance.cosine, 1 - error**2))


def with_overrides(tolerance: Tolerance, texts: Iterable[str]) -> Tolerance:
    """With `NAME=VALUE` for some of the limits.

    Raises:
        UsageError: a name is unknown, or a value is no number from 0.

    >>> with_overrides(tolerance_for("fp16"), ["map=0.2"]).map
    0.2
    """
    known = [each.name for each in fields(Tolerance)]
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise UsageError(f"--tolerance {text}: it is NAME=VALUE, with a name of {', '.join(known)}")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not (math.isfinite(limit) and limit >= 0):
            raise UsageError(f"--tolerance {text}: {value!r} is no number from 0")
        tolerance = replace(tolerance, **{name: limit})
    return tolerance
