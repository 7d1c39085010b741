"""A user's pictures as `verify` takes them: a labelled data set where the folder is one, plain pictures otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from acd_edge.data.reading import Sample, nearest, read_full
from acd_edge.data.samples import categories_of, load_data, words_of
from acd_edge.data.sets import layout_of
from acd_edge.errors import ConfigError, SourceError, UsageError
from acd_edge.export.judge import Read, Shown
from acd_edge.runtime.preprocess import resize
from acd_edge.runtime.prompts import DEFAULT_PRODUCT, parse_product, parse_products
from acd_edge.runtime.sources import PictureSource, ReadOptions, open_sources

__all__ = ["Found", "find_pictures"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Pictures to verify on.

    Attributes:
        pictures: in order.
        as_what: how the place was read, for the user.
        unread: files and folders that cannot be read, and why.
    """

    pictures: tuple[Shown, ...]
    as_what: str
    unread: Mapping[str, str]

    def limited(self, limit: int | None) -> Found:
        """At most so many, spread evenly over the categories and over good and defective ones."""
        if limit is None or limit >= len(self.pictures):
            return self
        groups: dict[tuple[str, int | None], list[Shown]] = {}
        for shown in self.pictures:
            groups.setdefault((shown.category, shown.label), []).append(shown)
        shares = _shares([len(group) for group in groups.values()], limit)
        kept = [each for group, share in zip(groups.values(), shares, strict=True) for each in _spread(group, share)]
        return replace(self, pictures=tuple(kept), as_what=f"{self.as_what}, {len(kept)} of them")


def find_pictures(
    path: Path,
    *,
    size: int,
    resize_rule: str,
    products: Sequence[str] = (),
    root: Path | None = None,
    layout: str | None = None,
    bit_depth: int = 16,
) -> Found:
    """List the pictures of a folder, a data set or a list; nothing is decoded yet.

    Args:
        path: a picture, a folder of pictures, or a data set that docs/data.md describes.
        size, resize_rule: of the bundle.
        products: `NAME` or `NAME='words'` that all pictures show; of a data set, `CATEGORY='words'` too.
        root, layout: of a data set, as in `load_data`.
        bit_depth: see `read_picture`.

    Raises:
        DataError: a data set that is malformed.
        SourceError: there is nothing, or no picture.
        UsageError, ConfigError: a product that fits nothing here.
    """
    if layout is None and not _is_data_set(path):
        return _plain(path, size, resize_rule, products, bit_depth)
    samples = load_data([path], root, split="test", layout=layout, bit_depth=bit_depth)
    words = _called(samples, products)
    shown = [
        Shown(
            name=str(sample.image),
            words=words[sample.category],
            read=partial(_read_sample, sample, size, resize_rule),
            category=sample.category,
            label=sample.label,
        )
        for sample in samples
    ]
    return Found(pictures=tuple(shown), as_what=f"a data set, {len(shown)} labelled pictures", unread={})


def _is_data_set(path: Path) -> bool:
    if path.suffix.lower() == ".jsonl":
        return True
    try:
        return path.is_dir() and layout_of(path) is not None
    except OSError as error:
        raise SourceError(f"cannot read {error.filename or path}: {error.strerror or error}") from error


def _plain(path: Path, size: int, resize_rule: str, products: Sequence[str], bit_depth: int) -> Found:
    if len(products) > 1:
        raise UsageError(f"{path} holds plain pictures of one product; give --product once")
    words = parse_product(products[0] if products else DEFAULT_PRODUCT)[1]
    sources, errors = open_sources([str(path)], ReadOptions(bit_depth=bit_depth))
    pictures = [source for source in sources if isinstance(source, PictureSource)]
    if not pictures:
        raise (
            errors[0]
            if errors
            else SourceError(f"{path} holds no picture; verify takes pictures, not videos or streams")
        )
    shown = [
        Shown(name=source.name, words=words, read=partial(_read_plain, source, size, resize_rule))
        for source in pictures
    ]
    unread = {str(error.filename or path): str(error) for error in errors}
    return Found(pictures=tuple(shown), as_what=f"plain pictures without labels, {len(shown)}", unread=unread)


def _called(samples: Sequence[Sample], products: Sequence[str]) -> dict[str, str]:
    """Category -> words: of its own `CATEGORY='words'`, else of a `NAME` for all, else of its set."""
    categories = categories_of(samples)
    given = parse_products(products)
    for_all = [words for name, words in given.items() if name not in categories]
    if len(for_all) > 1:
        raise ConfigError(
            f"--product: one name for all pictures, or CATEGORY='words' of {', '.join(categories)}; "
            f"got {', '.join(given)}"
        )
    own = {name: words for name, words in given.items() if name in categories}
    rest = dict.fromkeys(categories, for_all[0]) if for_all else words_of(samples, own)
    return {**rest, **own}


def _read_sample(sample: Sample, size: int, resize_rule: str) -> Read:
    picture, mask = read_full(sample)
    truth = nearest(mask, (size, size)) if sample.has_mask else None
    return Read(resize(picture, size, resize_rule), truth)


def _read_plain(source: PictureSource, size: int, resize_rule: str) -> Read:
    (frame,) = source.frames()
    return Read(resize(frame.rgb, size, resize_rule))


def _shares(counts: Sequence[int], limit: int) -> list[int]:
    """Split a limit over groups, evenly as far as each has enough; the first ones get what is left over.

    >>> _shares([10, 2, 10], 9)
    [4, 2, 3]
    """
    shares = [0] * len(counts)
    while limit:
        open_groups = [place for place, count in enumerate(counts) if shares[place] < count]
        for place in open_groups[:limit]:
            shares[place] += 1
        limit -= min(limit, len(open_groups))
    return shares


def _spread(group: Sequence[Shown], count: int) -> list[Shown]:
    return [group[int(place)] for place in np.linspace(0, len(group) - 1, count)]
