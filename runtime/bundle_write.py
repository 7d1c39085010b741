"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np

from acd_edge.errors import BundleError, OutputError
from acd_edge.runtime.bundle_files import (
    CALIBRATION,
    FEATURES,
    GOLDEN,
    GRAPH,
    MANIFEST,
    TEXT_ENCODER,
    TOKENIZER,
    ZIP_SUFFIX,
    FloatArray,
    Golden,
    check_golden,
    check_text_features,
    file_record,
)
from acd_edge.runtime.manifest import Manifest, check_inner_path
from acd_edge.runtime.staging import check_only_ours, check_place, staged_folder

_OWN = frozenset({MANIFEST, FEATURES, GOLDEN, CALIBRATION})
_READABLE = 0o100644 << 16  # a file's rights, as a zip of Unix keeps them
_CHUNK = 1 << 20  # bytes copied at once


def write_bundle(
    path: str | Path,
    manifest: Manifest,
    *,
    files: Mapping[str, Path | bytes],
    text_features: Mapping[str, FloatArray],
    golden: Golden,
    calibration: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Manifest:
    """Write a folder, or a zip of it when `path` ends in `.acd`, and return the manifest with its digests.

    Everything is written beside `path` and moved there at the end, so that a failure leaves what was there.

    Args:
        path: where the bundle goes; it must not exist unless `force`.
        manifest: its `files` are replaced.
        files: name inside the bundle -> a file to copy or its content; `model.onnx`
            with its external data, `text_encoder.onnx` and `tokenizer.json`.
        text_features: product -> (N, 2, D), for every product of the manifest.
        golden: see `Golden`.
        calibration: content of `calibration.json`.
        force: replace a bundle that is there. Anything else that is there, also in its folder, is never replaced.

    Raises:
        BundleError: an array holds NaN or has another shape, or a name is refused.
        OutputError: the place is in use or cannot be written.
    """
    _check_names(files)
    names = list(text_features)
    features = np.stack([np.asarray(text_features[name], np.float32) for name in names])
    check_text_features(manifest, names, features)
    check_golden(manifest, golden)
    with staged(Path(path), force=force) as folder:
        for name, content in files.items():
            _place(content, folder / name)
        np.savez(folder / FEATURES, names=np.array(names), features=features)
        np.savez_compressed(folder / GOLDEN, **cast(Any, golden.arrays()))
        if calibration is not None:
            (folder / CALIBRATION).write_text(json.dumps(calibration, indent=2, allow_nan=False) + "\n")
        return _seal(folder, manifest)


def rewrite_bundle(
    source: Path, manifest: Manifest, path: Path, *, calibration: Mapping[str, Any], force: bool = False
) -> Manifest:
    """Write the files of the opened bundle folder `source` again with another calibration.

    Rewriting in place links the files where the disk allows it, so that a large bundle is not copied.
    """
    with staged(path, force=force) as folder:
        for name in manifest.files:
            if name != CALIBRATION:
                _place(source / name, folder / name, link=path.absolute() == source.absolute())
        (folder / CALIBRATION).write_text(json.dumps(calibration, indent=2, allow_nan=False) + "\n")
        return _seal(folder, manifest)


@contextmanager
def staged(path: Path, *, force: bool) -> Iterator[Path]:
    """A fresh folder beside `path` that takes its place, zipped for `.acd`, when the block ends without an error."""
    check_target(path, force)
    with staged_folder(path, _zipped if path.suffix == ZIP_SUFFIX else None) as folder:
        yield folder


def _check_names(files: Mapping[str, Path | bytes]) -> None:
    for name in files:
        check_inner_path(name)
    if taken := sorted(_OWN & set(files)):
        raise BundleError(f"{', '.join(taken)} is written by acd-edge itself and cannot be given")
    if GRAPH not in files or (TEXT_ENCODER in files) != (TOKENIZER in files):
        raise BundleError(f"a bundle needs {GRAPH}, and {TEXT_ENCODER} goes with {TOKENIZER}; got {', '.join(files)}")


def check_target(path: Path, force: bool) -> None:
    """Refuse a place that is in use or cannot be written, and with `force` one that holds anything but a bundle.

    Raises:
        OutputError: see there; a bundle's folder with files that its manifest does not name holds more than a bundle.
    """
    if os.path.lexists(path):
        _check_replaceable(path, force)
    check_place(path)


def _check_replaceable(path: Path, force: bool) -> None:
    if not force:
        raise OutputError(f"{path} exists already; add --force to replace it, or choose another place with -o")
    if path.is_dir():
        named = _named_files(path) if any(path.iterdir()) else set()
    else:
        named = set() if path.suffix == ZIP_SUFFIX and zipfile.is_zipfile(path) else None
    if named is None:
        raise OutputError(f"{path} is not a bundle, so it is not replaced; choose another place with -o")
    check_only_ours(path, named)


def _named_files(path: Path) -> set[str] | None:
    """What a bundle's manifest says is in its folder, itself included; None where there is none that says it."""
    try:
        return {MANIFEST, *dict(json.loads((path / MANIFEST).read_bytes())["files"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _place(content: Path | bytes, target: Path, *, link: bool = False) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        target.write_bytes(content)
        return
    if link:
        with suppress(OSError):  # a disk without links
            os.link(content.resolve(), target)
            return
    shutil.copyfile(content, target)


def _seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with the digest of every file in the folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    sealed = manifest.with_files({path.relative_to(folder).as_posix(): file_record(path) for path in found})
    (folder / MANIFEST).write_text(sealed.to_json(), encoding="utf-8")
    return sealed


def _zipped(folder: Path, target: Path) -> Path:
    """Pack without compression: weights do not shrink, and unpacking stays a plain copy.

    Neither time nor rights of the files go in, so that the same content gives the same bytes.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*"), key=lambda path: (path.name != MANIFEST, path)):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # of 1980
                entry.external_attr, entry.file_size = _READABLE, path.stat().st_size  # the size decides on zip64
                with path.open("rb") as source, archive.open(entry, "w") as packed:
                    shutil.copyfileobj(source, packed, _CHUNK)
    return target
