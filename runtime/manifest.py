"""The first file of a bundle: what the graph is, how to feed it, and the digest of every other file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import Any

from acd_edge.errors import AcdEdgeError, BundleError
from acd_edge.runtime.preprocess import DEFAULT_RESIZE, RESIZE_RULES
from acd_edge.runtime.prompts import DEFAULT_PRODUCT, DEFAULT_PROMPTS, PromptEnsemble

SCHEMA = 1
_UNSEALED = '"sha256": ""'
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_WHOLE = ("size", "patch", "grid", "groups", "feature_dim", "opset", "context_length")
_TEXT = ("name", "preset", "domain", "resize", "precision")
_TABLES = ("model", "source", "tools", "fold", "products", "files")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """Digest and size in bytes of one file."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise BundleError(f"a sha256 is 64 hexadecimal digits, got {self.sha256!r}")
        if not _is_whole(self.bytes) or self.bytes < 0:
            raise BundleError(f"a file's bytes are a whole number, got {self.bytes!r}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a device must know about a bundle.

    Attributes:
        name: what `info` shows.
        model: the model's settings, as training wrote them; the runtime does not read them.
        preset, domain: what the numbers were trained as, and for which use smoothing and mix were chosen.
        size, patch, grid, groups, feature_dim: S, the patch in pixels, G, N and D.
        resize: rule of `acd_edge.runtime.preprocess` that brings a frame to S x S.
        score_mix: (a, b) of score = a * class_score + b * max(anomaly_map).
        precision, opset: of the graph.
        prompts, context_length: sentences of a new product and L, the tokens of each.
        products: name -> words of its prompts; `object` is always there.
        files: path inside the bundle -> digest; every file but the manifest. Filled when the bundle is written.
        source: where it came from: checkpoint_sha256, backbone, data_sets.
        license: of the weights, or None.
        tools, fold: versions that made it, and the report of the fold.
    """

    name: str
    model: Mapping[str, Any]
    preset: str
    domain: str
    size: int
    patch: int
    grid: int
    groups: int
    feature_dim: int
    score_mix: tuple[float, float]
    precision: str
    opset: int
    products: Mapping[str, str]
    context_length: int
    prompts: PromptEnsemble = DEFAULT_PROMPTS
    resize: str = DEFAULT_RESIZE
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    fold: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_kinds(self)
        if self.patch * self.grid != self.size:
            raise BundleError(f"manifest: {self.grid} patches of {self.patch} pixels do not make size {self.size}")
        if self.precision not in PRECISIONS:
            raise BundleError(f"manifest: precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.resize not in RESIZE_RULES:
            raise BundleError(f"manifest: resize must be one of {', '.join(RESIZE_RULES)}, got {self.resize!r}")
        if DEFAULT_PRODUCT not in self.products:
            raise BundleError(f"manifest: the product {DEFAULT_PRODUCT!r} is missing, it is always there")
        for path in self.files:
            check_inner_path(path)

    def with_files(self, files: Mapping[str, FileRecord]) -> Manifest:
        """A copy with other files."""
        return replace(self, files=dict(files))

    def to_json(self) -> str:
        """Text of `manifest.json`; `manifest_from_json` reads it back.

        Its key `sha256` is the digest of the text as it stands with that key empty.
        """
        values = {"schema": SCHEMA, **asdict(self), "sha256": ""}
        values["score_mix"] = {"class": self.score_mix[0], "map": self.score_mix[1]}
        values["prompts"] = {**values["prompts"], "context_length": values.pop("context_length")}
        return seal(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def seal(text: str) -> str:
    """Fill the digest of a manifest's text into its last `"sha256": ""`."""
    head, tail = text.rsplit(_UNSEALED, 1)
    return f'{head}"sha256": "{hashlib.sha256(text.encode()).hexdigest()}"{tail}'


def manifest_from_json(text: str | bytes) -> Manifest:
    """Read a manifest of this or an older schema.

    Raises:
        BundleError: no JSON, a newer schema, an unknown or missing key, a value that does not fit, or an altered byte.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is not JSON: {error}") from error
    if not isinstance(values, dict) or not _is_whole(schema := values.pop("schema", None)):
        raise BundleError("manifest.json holds no schema number, so this is not a bundle of acd-edge")
    if schema > SCHEMA:
        raise BundleError(
            f"the bundle has schema {schema}, this acd-edge reads up to {SCHEMA}; update it: pip install -U acd-edge"
        )
    digest = values.pop("sha256", None)
    known = {entry.name for entry in fields(Manifest)} - {"context_length"}
    if wrong := sorted(known ^ set(values)):
        state = {name: "unknown" if name in values else "missing" for name in wrong}
        raise BundleError("manifest.json: " + ", ".join(f"{state[name]} key {name!r}" for name in wrong))
    try:
        manifest = Manifest(**_decoded(values))
    except (KeyError, TypeError, ValueError, AttributeError, AcdEdgeError) as error:
        reason = error if isinstance(error, BundleError) else f"manifest.json: {error}"
        raise BundleError(str(reason)) from error
    _check_digest(text if isinstance(text, bytes) else text.encode(), digest)
    return manifest


def _check_digest(text: bytes, digest: object) -> None:
    """Refuse a text whose bytes are not those that were sealed; against damage and edits, not forgery."""
    plain = text.replace(str(digest).encode(), b"", 1) if isinstance(digest, str) and digest else text
    if hashlib.sha256(plain).hexdigest() != digest:
        raise BundleError("manifest.json was altered: its sha256 is not its own; copy the bundle again")


def check_inner_path(path: str) -> None:
    """Refuse a path that is not a plain relative one inside the bundle."""
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or ".." in parts or parts[0] == "/" or re.search(r"[\\:\x00-\x1f]", path):
        raise BundleError(f"the bundle names a file outside itself: {path!r}")


def _decoded(values: dict[str, Any]) -> dict[str, Any]:
    prompts = dict(values["prompts"])
    mix = values["score_mix"]
    return {
        **values,
        "context_length": prompts.pop("context_length"),
        "prompts": PromptEnsemble(**prompts),
        "score_mix": (mix["class"], mix["map"]),
        "files": {path: FileRecord(**record) for path, record in values["files"].items()},
    }


def _check_kinds(manifest: Manifest) -> None:
    for name in _WHOLE:
        if not _is_whole(value := getattr(manifest, name)) or value < 1:
            raise BundleError(f"manifest: {name} must be a whole number above zero, got {value!r}")
    for name in _TEXT:
        if not isinstance(value := getattr(manifest, name), str) or not value:
            raise BundleError(f"manifest: {name} must be a text, got {value!r}")
    for name in _TABLES:
        if not isinstance(value := getattr(manifest, name), Mapping):
            raise BundleError(f"manifest: {name} must be a table, got {value!r}")
    if any(not isinstance(words, str) or not words for words in manifest.products.values()):
        raise BundleError(f"manifest: every product needs its words, got {dict(manifest.products)}")
    if len(manifest.score_mix) != 2 or not all(_is_share(value) for value in manifest.score_mix):
        raise BundleError(f"manifest: score_mix must be two numbers in 0 to 1, got {manifest.score_mix!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
