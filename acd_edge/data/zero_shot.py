"""What a model was trained on, and whether an evaluation on some pictures is zero-shot.

A checkpoint carries `trained_on.json`, and so does a bundle made from it: the names of the data sets, the products, and
a short digest of every picture. A picture that was trained on makes an evaluation worthless, so it is refused; a data
set or a product that was trained on makes it an evaluation of something else than zero-shot, so it is marked.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from acd_edge.checkpoint import RECORD_FILE
from acd_edge.data.reading import Sample, categories_of
from acd_edge.data.sets import canonical_name, categories_by_name, plain, words_of
from acd_edge.errors import CheckpointError, DataError
from acd_edge.runtime.bundle import Bundle

__all__ = [
    "RECORD_FILE",
    "TrainingRecord",
    "guard",
    "picture_digest",
    "record_of_bundle",
    "record_of_checkpoint",
    "training_record",
]

SCHEMA = 1
DIGEST_BYTES = 8  # of 32: two of 12,000 and 10,000 pictures meet by chance once in 150 thousand million evaluations
_KEYS = ("data_sets", "products", "pictures")
_CHUNK = 1 << 20  # bytes read at once
_WORKERS = 4  # hashing leaves the interpreter's lock, and a disk answers several at once
_NO_PRODUCT = frozenset({"object"})  # what every unnamed product is called

_Digest = TypeVar("_Digest", bytes, "bytes | None")

Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What a model was trained on.

    Attributes:
        data_sets: names, as `Sample.data_set` has them.
        products: categories and the words that the prompts called them.
        pictures: digests of the pictures' files; None where they were not recorded.
    """

    data_sets: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    pictures: frozenset[bytes] | None = None

    def to_json(self) -> str:
        """Content of `trained_on.json`, 11 bytes a picture; the same for the same record."""
        digests = b64encode(b"".join(sorted(self.pictures or ()))).decode()
        values: dict[str, Any] = {
            "schema": SCHEMA,
            "data_sets": list(self.data_sets),
            "products": list(self.products),
            "digest": f"sha256 of each file, its first {DIGEST_BYTES} bytes, sorted and joined, in base64",
            "pictures": None if self.pictures is None else digests,
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def summary(self) -> dict[str, Any]:
        """What `config.json` keeps of it, so that a file that was lost or altered is noticed."""
        text = self.to_json()
        return {"pictures": len(self.pictures or ()), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def picture_digest(path: Path) -> bytes:
    """The first 8 bytes of the sha256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.digest()[:DIGEST_BYTES]


def training_record(
    samples: Sequence[Sample],
    words: Mapping[str, Sequence[str]] | None = None,
    progress: Progress = lambda done, total: None,
) -> TrainingRecord:
    """What a training on these samples is to remember; reads every picture's file once.

    Args:
        samples: all that are trained on.
        words: category -> phrases for its prompts; those of its data set where it has none.
        progress: told after each picture.

    Raises:
        DataError: a file cannot be read.
    """
    given = {category: phrases for category, phrases in (words or {}).items() if phrases}
    called = {**{category: [name] for category, name in words_of(samples, given).items()}, **given}
    phrases = [phrase for category in categories_of(samples) for phrase in (category, *called[category])]
    return TrainingRecord(
        data_sets=tuple(dict.fromkeys(sample.data_set for sample in samples if sample.data_set)),
        products=tuple(dict.fromkeys(plain(phrase) for phrase in phrases)),
        pictures=frozenset(_digests([sample.image for sample in samples], progress, picture_digest)),
    )


def record_of_checkpoint(path: Path) -> TrainingRecord:
    """What a checkpoint says of its training; an older one knows names alone, a converted one nothing.

    Raises:
        CheckpointError: it is no checkpoint, or its record is missing or altered.
    """
    from acd_edge.checkpoint import read_info

    training = read_info(path).training
    summary = training.get("trained_on")
    if summary is None:
        phrases = training.get("words")
        return _by_names(training.get("data"), phrases if isinstance(phrases, Mapping) else {})
    file = path / RECORD_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} says what was trained on, and cannot be read: {error}") from error
    if not isinstance(summary, Mapping) or hashlib.sha256(text.encode()).hexdigest() != summary.get("sha256"):
        raise CheckpointError(f"{file} was altered: its sha256 is not the checkpoint's; copy the checkpoint again")
    return _from_json(text, file)


def record_of_bundle(bundle: Bundle) -> TrainingRecord:
    """What a bundle says of the training of its checkpoint; an older one knows the data sets' names alone.

    Raises:
        CheckpointError: its record does not fit the schema.
    """
    if RECORD_FILE not in bundle.manifest.files:
        return _by_names(bundle.manifest.source.get("data_sets"), {})
    file = bundle.root / RECORD_FILE
    return _from_json(file.read_text(encoding="utf-8"), file)


def guard(
    samples: Sequence[Sample],
    record: TrainingRecord,
    words: Mapping[str, str] | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, str]:
    """Refuse pictures that were trained on, and say which categories are not zero-shot.

    Args:
        samples: what is to be evaluated on.
        record: what was trained on.
        words: category -> the words that the prompts are to call it; those of its data set where it has none.
        progress: told after each picture whose digest is compared.

    Returns:
        category -> why it is not zero-shot; a category that is has no entry.

    Raises:
        DataError: pictures were trained on; the first one and their number are named.
    """
    if record.pictures:
        digests = _digests([sample.image for sample in samples], progress, _digest_if_readable)
        met = [sample.image for sample, digest in zip(samples, digests, strict=True) if digest in record.pictures]
        if met:
            raise DataError(
                f"{len(met)} of {len(samples)} pictures were trained on, the first is {met[0]}; figures on them say "
                "nothing of new pictures, so evaluate on another data set"
            )
    called = {**words_of(samples, words or {}), **(words or {})}
    sets = {canonical_name(name) for name in record.data_sets}
    products = {_product(name) for name in record.products} - _NO_PRODUCT
    reasons: dict[str, str] = {}
    for category, ours in categories_by_name(samples).items():
        if reason := _reason(category, called[category], ours, sets, products):
            reasons[category] = reason
    return reasons


def _reason(category: str, words: str, samples: Sequence[Sample], sets: set[str], products: set[str]) -> str | None:
    for name in dict.fromkeys(sample.data_set for sample in samples):
        if canonical_name(name) in sets:
            return f"data set {name} was trained on"
    for name in (words, category):
        if _product(name) in products:
            return f"product '{plain(name)}' was trained on"
    return None


def _product(name: str) -> str:
    """A product's name without the accidents of spelling; a mere number names none."""
    bare = " ".join(re.sub(r"[_-]", " ", name).casefold().split())
    return re.sub(r"^(a|an|the) ", "", bare) if re.search(r"[^\W\d]", bare) else "object"


def _digests(paths: Sequence[Path], progress: Progress, digest: Callable[[Path], _Digest]) -> list[_Digest]:
    found: list[_Digest] = []
    pool = ThreadPoolExecutor(max_workers=_WORKERS)
    try:
        for each in pool.map(digest, paths):
            found.append(each)
            progress(len(found), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return found


def _digest_if_readable(path: Path) -> bytes | None:
    """None where the evaluation itself will say that the file cannot be read."""
    try:
        return picture_digest(path)
    except DataError:
        return None


def _by_names(data_sets: object, words: Mapping[str, Any]) -> TrainingRecord:
    """The record of a model that keeps no digests."""
    names = [name for name in data_sets if isinstance(name, str)] if isinstance(data_sets, list) else []
    phrases = [[category, *given] for category, given in words.items() if isinstance(given, list)]
    return TrainingRecord(data_sets=tuple(names), products=tuple(plain(str(each)) for row in phrases for each in row))


def _from_json(text: str, file: Path) -> TrainingRecord:
    try:
        values = json.loads(text)
        schema = values.pop("schema")
        values.pop("digest")
        if schema > SCHEMA:
            raise CheckpointError(f"{file} has schema {schema}, this acd-edge reads up to {SCHEMA}; update acd-edge")
        if sorted(values) != sorted(_KEYS):
            raise ValueError(f"it must hold {', '.join(_KEYS)}, and has {', '.join(values)}")
        return TrainingRecord(
            data_sets=_texts(values["data_sets"]),
            products=_texts(values["products"]),
            pictures=None if values["pictures"] is None else _split(b64decode(values["pictures"], validate=True)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} does not say what was trained on: {error}; copy it again") from error


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"a list of names was expected, got {values!r:.60}")
    return tuple(values)


def _split(joined: bytes) -> frozenset[bytes]:
    if len(joined) % DIGEST_BYTES:
        raise ValueError(f"{len(joined)} bytes are no whole number of digests")
    return frozenset(joined[start : start + DIGEST_BYTES] for start in range(0, len(joined), DIGEST_BYTES))
