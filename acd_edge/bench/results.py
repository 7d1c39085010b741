"""A result as one JSON document: made of a measurement, written whole, and read back with every claim checked."""

from __future__ import annotations

import json
import os
import secrets
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acd_edge.bench.measure import Measurement
from acd_edge.bench.statistics import Summary, summarise
from acd_edge.bench.stopwatch import ROWS, FrameTimes, Kept
from acd_edge.errors import BenchError, OutputError

__all__ = [
    "KIND", "SCHEMA", "Result", "check_output", "document", "read_result", "summaries", "write_json", "write_whole",
]  # fmt: skip

SCHEMA, KIND = 1, "acd-edge bench"
_LIMIT = 512 << 20  # bytes; 10,000 frames take less than a million
_FEWEST = 2
_LONGEST = 1e12  # milliseconds; a NaN, an infinity and a whole number that no double holds are not below it either


def document(measured: Measurement, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The whole result, plain values.

    Args:
        measured: with at least one frame that counts.
        facts: what was measured on which machine; goes in as it is.
    """
    kept = measured.kept
    rows = summaries(kept)
    return {
        "kind": KIND,
        "schema": SCHEMA,
        **facts,
        "ending": measured.ending,
        "cold": None if measured.first is None else {"first_frame_ms": _rounded(measured.first)},
        "warm_up_frames": measured.warmed,
        "frames": kept.seen,
        "kept_one_of": kept.stride,
        "frames_per_second": round(measured.frames_per_second, 3),
        "scores": list(measured.scores),
        "live": measured.live,
        "rows_ms": {name: None if row is None else row.to_dict() for name, row in rows.items()},
        "samples_ms": kept.rounded(),
    }


def summaries(kept: Kept) -> dict[str, Summary | None]:
    """Row -> its summary, None for a stage that nobody could tell. Mean and maximum are of all frames."""
    found: dict[str, Summary | None] = {}
    for name in ROWS:
        column = kept.column(name)
        if not column:
            found[name] = None
            continue
        row = summarise(column)
        found[name] = Summary(kept.mean(name), row.p50, row.p90, row.p95, row.p99, kept.largest(name))
    return found


def _rounded(times: FrameTimes) -> dict[str, float]:
    return {name: round(value, 4) for name, value in times.rows().items()}


def check_output(path: Path, *, force: bool, flag: str) -> None:
    """Refuse a place in use, or that cannot be written, before the measuring.

    Raises:
        OutputError: something is there and `force` is not given, it is a folder, or its folder cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give {flag} the name of a file")
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists already; add --force to replace it, or choose another {flag}")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        probe = path.absolute().with_name(f".{path.name}.{os.getpid()}")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a document whole or not at all; a reader finds the one before or this one.

    Raises:
        OutputError: the place cannot be written.
    """
    write_whole(path, (json.dumps(values, allow_nan=False) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    part = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # two may write at once
    try:
        with part.open("xb") as stream:
            stream.write(content)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # where it could not even be made
            part.unlink()


@dataclass(frozen=True)
class Result:
    """A result that was read back.

    Attributes:
        path: of the file.
        values: the document.
        samples: row -> milliseconds in order of time; every one has as many.
    """

    path: Path
    values: Mapping[str, Any]
    samples: Mapping[str, array[float]]

    def fact(self, *keys: str) -> Any:
        """A value inside the document, None where it is not told."""
        value: Any = self.values
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def read_result(path: Path) -> Result:
    """Read what `bench --json FILE` wrote.

    Raises:
        BenchError: it is absent, no JSON, another program's, of another schema, or its samples are none.
    """
    try:
        if path.stat().st_size > _LIMIT:
            raise BenchError(f"{path} is too large for a result of acd-edge bench")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise BenchError(f"{path} is no result of acd-edge bench; write one with: acd-edge bench --json {path}")
    if values.get("schema") != SCHEMA:
        raise BenchError(f"{path} has schema {values.get('schema')}, this acd-edge reads {SCHEMA}; measure again")
    return Result(path, values, _samples(path, values.get("samples_ms")))


def _samples(path: Path, found: Any) -> dict[str, array[float]]:
    columns = found if isinstance(found, dict) else {}
    if "end_to_end" not in columns or not set(columns) <= set(ROWS):
        raise BenchError(f"{path} holds no times of single frames, or unknown ones; measure again")
    if any(not isinstance(column, list) or not all(map(_is_time, column)) for column in columns.values()):
        raise BenchError(f"{path} holds a time that is no number; measure again")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or min(lengths) < _FEWEST or min(columns["end_to_end"]) <= 0:
        raise BenchError(f"{path} holds too few frames, or columns that do not fit together; measure again")
    return {name: array("d", column) for name, column in columns.items()}


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LONGEST
