"""Lists of labelled pictures, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from acd_edge.data.folders import Finding, Kind, Report
from acd_edge.data.reading import Sample
from acd_edge.errors import DataError


def list_jsonl(file: Path, base: Path, report: Report) -> Iterator[Sample]:
    """Samples of a list, one JSON object a line: `image_path`, `label` (0 or 1), `class_name`, `mask_path`.

    Args:
        file: the list; empty lines are skipped, keys beyond the four are ignored.
        base: what its paths are relative to.
        report: told of lines that are no such object, and of files that are not there, with the line's number.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # a text may hold other breaks, such as U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _json_sample(f"{file}:{number}", line, base)
            except _BadLine as bad:
                report(bad.finding(file))


class _BadLine(DataError):
    """A line of a list that gives no sample."""

    def __init__(self, message: str, kind: Kind = "bad list", path: Path | None = None) -> None:
        super().__init__(message)
        self.kind, self.path = kind, path

    def finding(self, file: Path) -> Finding:
        return Finding(kind=self.kind, path=self.path or file, message=str(self))


def _json_sample(where: str, line: str, base: Path) -> Sample:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, and [[[[…, are no JSONDecodeError
        raise _BadLine(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise _BadLine(f"{where} is not a JSON object but {type(row).__name__}")
    label = row.get("label")
    if isinstance(label, bool) or label not in (0, 1):
        raise _BadLine(f"{where}: label must be 0 (good) or 1 (defective), got {label!r}")
    mask = row.get("mask_path") or None
    return Sample(
        image=_listed_file(where, row, "image_path", base),
        mask=_listed_file(where, row, "mask_path", base) if mask and label else None,
        label=int(label),
        category=_text(where, row, "class_name"),
    )


def _listed_file(where: str, row: Mapping[str, Any], key: str, base: Path) -> Path:
    path = base / _text(where, row, key)
    if not path.is_file():
        message = f"{where}: {key} {path} is not there; paths are relative to {base} (--root changes that)"
        raise _BadLine(message, "missing mask" if key == "mask_path" else "missing picture", path)
    return path


def _text(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise _BadLine(f"{where}: {key} must be a text, got {value!r}")
    return value
