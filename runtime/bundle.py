"""Reading a bundle: a folder, or one `.acd` zip of it, checked to the last byte before anything in it is used."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import stat
import sys
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, final

import numpy as np

import acd_edge
from acd_edge.errors import BundleError, UsageError
from acd_edge.runtime.backends import GraphFile
from acd_edge.runtime.bundle_files import (
    CALIBRATION,
    CALIBRATION_SCHEMA,
    CHUNK,
    FEATURES,
    GOLDEN,
    GRAPH,
    MANIFEST,
    TEXT_ENCODER,
    TOKENIZER,
    FloatArray,
    Golden,
    check_golden,
    check_growth,
    check_text_features,
    file_record,
    load_npz,
)
from acd_edge.runtime.bundle_write import write_bundle
from acd_edge.runtime.graph_files import external_files
from acd_edge.runtime.manifest import FileRecord, Manifest, manifest_from_json

__all__ = ["Bundle", "Golden", "builtin_bundle", "check_not_builtin", "threshold_of", "write_bundle"]

_MANIFEST_LIMIT = 4 << 20  # bytes; a real manifest has a few thousand


@final
class Bundle:
    """A validated bundle. Open it with `Bundle.open`; `close` removes what a zip was unpacked to.

    Attributes:
        path: what was opened.
        root: the folder that holds the files; they stay there until `close`.
        manifest: see `Manifest`.
    """

    def __init__(self, path: Path, root: Path, manifest: Manifest) -> None:
        self.path = path
        self.root = root
        self.manifest = manifest
        self._cleanup = weakref.finalize(self, _remove_unpacked, root, path)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open a folder or a `.acd` zip and check the manifest, the digests, the paths and the text features.

        Raises:
            BundleError: something is missing, altered, unsafe, not finite, or of a newer schema.
        """
        path = Path(path)
        if not os.path.isdir(path) and not os.path.isfile(path):  # unlike Path's, these take every odd name
            raise BundleError(f"there is no bundle at {path}; make one with: acd-edge export -o {path}")
        root: Path | None = None
        try:
            root = path if path.is_dir() else _unpacked(path)
            manifest = _read_manifest(root)
            _check_files(root, manifest)
            bundle = cls(path, root, manifest)
            _ = bundle.text_features, bundle.calibration  # both are small, and checked where they are read
        except BundleError as error:
            _remove_unpacked(root, path)
            raise BundleError(f"{path}: {error}") from error
        except OSError as error:
            _remove_unpacked(root, path)
            raise BundleError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
        except BaseException:
            _remove_unpacked(root, path)
            raise
        return bundle

    def close(self) -> None:
        """Remove the unpacked copy of a zip; twice is fine."""
        self._cleanup()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def model_path(self) -> Path:
        """The graph; its external data lies beside it."""
        return self.root / GRAPH

    @property
    def text_encoder_path(self) -> Path | None:
        """The text encoder, or None when the bundle has none."""
        return self.root / TEXT_ENCODER if TEXT_ENCODER in self.manifest.files else None

    @property
    def model_file(self) -> GraphFile:
        """The graph as a backend loads it."""
        return GraphFile(
            path=self.model_path,
            precision=self.manifest.precision,
            digest=self._digest(GRAPH),
            bundle=self._in_commands,
        )

    @property
    def text_encoder_file(self) -> GraphFile | None:
        """The text encoder as a backend loads it, or None. It computes in float32, whatever holds its weights."""
        path = self.text_encoder_path
        if path is None:
            return None
        return GraphFile(path=path, digest=self._digest(TEXT_ENCODER), bundle=self._in_commands)

    @property
    def _in_commands(self) -> str:
        return "" if self.path.resolve() == builtin_bundle().resolve() else shlex.quote(str(self.path))

    def _digest(self, graph: str) -> str:
        """Of a graph and the files it reads its weights from, by the manifest's digests, which were checked."""
        names = sorted({graph, *external_files(self.root / graph)})
        lines = (f"{name} {self.manifest.files[name].sha256}\n" for name in names)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def tokenizer_path(self) -> Path:
        """The text encoder's tokenizer."""
        return self.root / TOKENIZER

    @cached_property
    def text_features(self) -> dict[str, FloatArray]:
        """Product -> features (N, 2, D), in the manifest's order."""
        stored = load_npz(self.root / FEATURES, ("names", "features"))
        names = [str(name) for name in np.atleast_1d(stored["names"])]
        check_text_features(self.manifest, names, stored["features"])
        return dict(zip(names, stored["features"], strict=True))

    @cached_property
    def golden(self) -> Golden:
        """The golden samples; read on demand."""
        golden = Golden(**load_npz(self.root / GOLDEN, tuple(Golden.__dataclass_fields__)))
        check_golden(self.manifest, golden)
        return golden

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """What `calibrate` wrote, by product, or nothing."""
        if CALIBRATION not in self.manifest.files:
            return {}
        try:
            values = json.loads((self.root / CALIBRATION).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{CALIBRATION} is not JSON: {error}") from error
        if isinstance(values, dict) and isinstance(schema := values.get("schema"), int) and schema > CALIBRATION_SCHEMA:
            raise BundleError(
                f"{CALIBRATION} has schema {schema}, this acd-edge reads up to {CALIBRATION_SCHEMA}; "
                "update it: pip install -U acd-edge"
            )
        products = values.get("products") if isinstance(values, dict) else None
        if not isinstance(products, dict) or not all(_has_threshold(entry) for entry in products.values()):
            raise BundleError(f"{CALIBRATION} must hold a threshold for each product; calibrate again")
        return dict(values)


def builtin_bundle() -> Path:
    """The bundle that the package carries."""
    return Path(acd_edge.__file__).absolute().parent / "builtin" / "bundle"


def check_not_builtin(path: Path, hint: str) -> None:
    """Refuse to write into the package; an update would lose it, and everybody shares it.

    Raises:
        UsageError: `path` is the built-in bundle; `hint` says what to do.
    """
    if path.resolve() == builtin_bundle().resolve():
        raise UsageError(f"the built-in bundle stays as it is; {hint}")


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    if not path.is_file():
        raise BundleError(f"there is no {MANIFEST} in it, so it is no bundle")
    if path.is_symlink() or path.stat().st_size > _MANIFEST_LIMIT:
        raise BundleError(f"{MANIFEST} is a link or too large, so it is no bundle")
    return manifest_from_json(path.read_bytes())


def _check_files(root: Path, manifest: Manifest) -> None:
    if absent := [name for name in (GRAPH, FEATURES, GOLDEN) if name not in manifest.files]:
        raise BundleError(f"the manifest lists no {', '.join(absent)}; export the bundle again")
    if (TEXT_ENCODER in manifest.files) != (TOKENIZER in manifest.files):
        raise BundleError(f"the manifest must list both {TEXT_ENCODER} and {TOKENIZER}, or neither")
    for name, record in manifest.files.items():
        _check_place(root, name, record)
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing leaves the interpreter's lock
        found = pool.map(file_record, (root / name for name in manifest.files))
        for (name, want), got in zip(manifest.files.items(), found, strict=True):
            if got != want:
                raise BundleError(f"{name} was altered: its sha256 is not the manifest's; copy the bundle again")
    for graph in {GRAPH, TEXT_ENCODER} & set(manifest.files):
        _check_external_files(root / graph, manifest)


def _check_external_files(graph: Path, manifest: Manifest) -> None:
    """Refuse a graph that reads a file which is not one of the bundle's, beside it.

    A name with a slash is none: ONNX Runtime takes one such text for an address in memory.
    """
    for name in sorted(external_files(graph)):
        if name not in manifest.files or "/" in name:
            raise BundleError(f"the bundle names a file outside itself: {graph.name} reads its weights from {name!r}")


def _check_place(root: Path, name: str, record: FileRecord) -> None:
    path = root / name
    if not path.is_file():
        raise BundleError(f"{name} is missing; copy the bundle again, whole")
    if not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"the bundle names a file outside itself: {name} is a link to {path.resolve()}")
    if (size := path.stat().st_size) != record.bytes:
        raise BundleError(f"{name} was altered: {size:,} bytes instead of {record.bytes:,}; copy the bundle again")


def _unpacked(path: Path) -> Path:
    """Unpack the files that the manifest inside a zip names, and no others; return the folder."""
    root = Path(tempfile.mkdtemp(prefix="acd-edge-"))
    try:
        with zipfile.ZipFile(path) as archive:
            _unpack(archive, root)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # or NotImplementedError, a RuntimeError
        _remove_unpacked(root, path)
        raise BundleError(f"it is no bundle, neither a folder nor a readable zip ({error})") from error
    except OSError as error:
        _remove_unpacked(root, path)
        raise BundleError(f"it cannot be unpacked to {root}: {error.strerror or error}") from error
    except BaseException:
        _remove_unpacked(root, path)
        raise
    return root


def _unpack(archive: zipfile.ZipFile, root: Path) -> None:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    names = [entry.filename for entry in entries]
    if MANIFEST not in names:
        raise BundleError(f"the zip holds no {MANIFEST}, so it is no bundle")
    if len(set(names)) != len(names):
        raise BundleError("the zip holds a name twice; export the bundle again")
    _copy_entry(archive, archive.getinfo(MANIFEST), root / MANIFEST, _MANIFEST_LIMIT)
    manifest = manifest_from_json((root / MANIFEST).read_bytes())
    if extra := sorted(set(names) - set(manifest.files) - {MANIFEST}):
        raise BundleError(f"the zip holds a file that its manifest does not name: {extra[0]!r}")
    packed = os.fstat(archive.fp.fileno()).st_size if archive.fp is not None else 0
    check_growth("the zip", packed, sum(record.bytes for record in manifest.files.values()))
    for entry in entries:
        if entry.filename != MANIFEST:
            _copy_entry(archive, entry, root / entry.filename, manifest.files[entry.filename].bytes)


def _copy_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, limit: int) -> None:
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise BundleError(f"the zip holds a link, {entry.filename!r}; a bundle has plain files only")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(f"{entry.filename!r} is packed by method {entry.compress_type}; store or deflate it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as stream, target.open("wb") as out:
        _copy_at_most(stream, out, limit, entry.filename)


def _copy_at_most(stream: IO[bytes], out: IO[bytes], limit: int, name: str) -> None:
    while chunk := stream.read(CHUNK):
        limit -= len(chunk)
        if limit < 0:
            raise BundleError(f"{name} unpacks to more than the manifest says; the zip is damaged or hostile")
        out.write(chunk)


def _remove_unpacked(root: Path | None, path: Path) -> None:
    """Remove what a zip was unpacked to; the bundle's own folder stays."""
    if root is not None and root != path:
        shutil.rmtree(root, ignore_errors=True)


def _has_threshold(entry: object) -> bool:
    value = entry.get("threshold") if isinstance(entry, dict) else None
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < sys.float_info.max


def threshold_of(calibration: Mapping[str, Any], product: str) -> float | None:
    """The calibrated threshold of a product, or None."""
    entry = calibration.get("products", {}).get(product)
    return None if entry is None else float(entry["threshold"])
