"""What lies in a bundle: the names of its files, the shapes of its arrays, and the checks of both."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acd_edge.errors import BundleError
from acd_edge.runtime.manifest import FileRecord, Manifest

MANIFEST, GRAPH, FEATURES, GOLDEN, CALIBRATION = (
    "manifest.json",
    "model.onnx",
    "text_features.npz",
    "golden.npz",
    "calibration.json",
)
TEXT_ENCODER, TOKENIZER = "text_encoder.onnx", "tokenizer.json"
ZIP_SUFFIX = ".acd"
CALIBRATION_SCHEMA = 1
CHUNK = 1 << 20  # bytes read at once
_LARGEST_GROWTH = 100  # times; deflate reaches 1000 on zeros, and about 5 on the text among a bundle's files

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """Made pictures and what the fp32 source says of them, so that a device can verify itself.

    Attributes:
        image: (K, S, S, 3) uint8 RGB.
        text_features: (K, N, 2, D).
        anomaly_map: (K, S, S).
        class_score: (K,).
        fusion_weights: (K, N, 2, N).
    """

    image: NDArray[np.uint8]
    text_features: FloatArray
    anomaly_map: FloatArray
    class_score: FloatArray
    fusion_weights: FloatArray

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields by name, as the file holds them."""
        return dict(vars(self))


def file_record(path: Path) -> FileRecord:
    """Digest and size of a file, read in pieces."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileRecord(digest.hexdigest(), size)


def check_text_features(manifest: Manifest, names: list[str], features: NDArray[Any]) -> None:
    """Refuse features that are not float32 (P, N, 2, D), finite, unit length, one for each product once."""
    want = (len(names), manifest.groups, 2, manifest.feature_dim)
    _check_array(FEATURES, "features", features, np.dtype(np.float32), want)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise BundleError(f"{FEATURES} holds {', '.join(twice)} twice; each product stands once")
    if set(names) != set(manifest.products):
        odd = sorted(set(names) ^ set(manifest.products))
        raise BundleError(f"{FEATURES} and the manifest disagree about the products: {', '.join(odd)}")
    norms = np.linalg.norm(features, axis=-1)
    if np.abs(norms - 1).max() > 1e-3:
        raise BundleError(f"{FEATURES}: every feature has length 1, got {norms.min():.4f} to {norms.max():.4f}")


def check_golden(manifest: Manifest, golden: Golden) -> None:
    """Refuse golden samples of another shape or type, not finite, or fewer than 2 or more than 4."""
    count, size, levels = len(golden.image), manifest.size, manifest.groups
    if not 2 <= count <= 4:
        raise BundleError(f"{GOLDEN}: want 2 to 4 samples, got {count}")
    float32 = np.dtype(np.float32)
    _check_array(GOLDEN, "image", golden.image, np.dtype(np.uint8), (count, size, size, 3))
    _check_array(GOLDEN, "text_features", golden.text_features, float32, (count, levels, 2, manifest.feature_dim))
    _check_array(GOLDEN, "anomaly_map", golden.anomaly_map, float32, (count, size, size))
    _check_array(GOLDEN, "class_score", golden.class_score, float32, (count,))
    _check_array(GOLDEN, "fusion_weights", golden.fusion_weights, float32, (count, levels, 2, levels))


def _check_array(file: str, name: str, array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise BundleError(f"{file}: want {name} {dtype} {shape}, got {array.dtype} {array.shape}")
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise BundleError(f"{file}: {name} holds NaN or infinity; export the bundle again")


def check_growth(name: str, packed: int, unpacked: int) -> None:
    """Refuse a zip that would fill disk or memory; weights hardly shrink, so an honest one hardly grows.

    Raises:
        BundleError: it grows more than a hundredfold.
    """
    if unpacked > _LARGEST_GROWTH * packed:
        raise BundleError(f"{name} of {packed:,} bytes would unpack to {unpacked:,}; it is damaged or hostile")


def load_npz(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read exactly these arrays, without pickle."""
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle, and say how to load one
        raise BundleError(f"{path.name} is no file of numpy arrays; copy the bundle again")
    try:
        with zipfile.ZipFile(path) as archive:
            check_growth(path.name, path.stat().st_size, sum(entry.file_size for entry in archive.infolist()))
        with np.load(path, allow_pickle=False) as stored:
            if wrong := sorted(set(names) ^ set(stored.files)):
                raise BundleError(f"{path.name}: want the arrays {', '.join(names)}; odd are {', '.join(wrong)}")
            return {name: stored[name] for name in names}
    except BundleError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path.name} cannot be read: {error}") from error
