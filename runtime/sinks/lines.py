"""One line a frame, for eyes or for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass

from acd_edge.runtime.detector import Result
from acd_edge.runtime.sources.base import Frame


@dataclass(frozen=True)
class Record:
    """A frame, what the detector says of it, and the threshold of the decision, if there is one."""

    frame: Frame
    result: Result
    threshold: float | None

    @property
    def anomalous(self) -> bool | None:
        """Whether the score reaches the threshold; None without one."""
        return None if self.threshold is None else self.result.score >= self.threshold


def json_line(record: Record) -> str:
    """One JSON object without a line end."""
    return json.dumps(
        {
            "source": record.frame.source,
            "frame": record.frame.index,
            "product": record.result.product,
            "score": record.result.score,
            "threshold": record.threshold,
            "anomalous": record.anomalous,
            "latency_ms": round(record.result.latency_ms, 3),
        },
        allow_nan=False,
    )


def text_line(record: Record, *, numbered: bool) -> str:
    """A line for the terminal; `numbered` shows the frame, which a single picture does not need."""
    parts = [f"{record.result.score:.4f}"]
    if record.threshold is not None:
        parts.append("ANOMALOUS" if record.anomalous else "good     ")
    parts.append(f"{record.result.latency_ms:7.1f} ms")
    source = record.frame.source
    shown = source if source.isprintable() else repr(source)  # a name may hold a line end, or bytes that are no text
    parts.append(shown + (f" #{record.frame.index}" if numbered else ""))
    return "  ".join(parts)
