"""Balanced, seeded batches; each is a function of (seed, step) alone, so that a resumed training repeats nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from acd_edge.data import augment, augment_authors
from acd_edge.data.samples import Bytes, Sample, categories_of, nearest, read_full, read_sample
from acd_edge.data.shapes import Rng, cv2
from acd_edge.data.synthetic import add_defect
from acd_edge.data.textures import before_backdrop, make_texture
from acd_edge.errors import DataError
from acd_edge.runtime.preprocess import resize

Labels = npt.NDArray[np.int64]
Origin = Literal["real", "synthetic", "texture"]
Order = Literal["balanced", "shuffled"]
Style = Literal["ours", "authors"]
GENERIC = "object"
ORDER_STREAM, WORDS_STREAM = 2**32 - 1, 2**32 - 2  # no slot has these numbers, so theirs are no picture's


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What a batch is made of, as chances per picture; `TrainConfig` has the defaults, and refuses what cannot be.

    Attributes:
        synthetic: a good picture, with a synthetic defect in `spoiled` of the cases.
        textures: a made texture or object, with a synthetic defect in `spoiled` of the cases.
        spoiled: see there.
        backdrop: share of those two that are cut out and set before a backdrop first.
        generic: the category is given as `object`, so that a model also answers to names that it has never read.

    What remains is real: good or defective by an even draw, then a category that has such pictures by an even draw.
    """

    synthetic: float
    textures: float
    spoiled: float
    backdrop: float
    generic: float


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture of a batch.

    Attributes:
        category: what it is said to show.
        image: gives its pixels, uint8 RGB (S, S, 3).
        mask: gives its mask, uint8 (S, S), 1 where defective.
        label: 1 for a defective picture; None where the mask tells it.
        key: the file whose pixels these are, where a file always comes as the same pixels; None where they were made
            for this item. Until then such an item has decoded nothing.
    """

    category: str
    image: Callable[[], Bytes]
    mask: Callable[[], Bytes]
    label: int | None = None
    key: Path | None = None


class Batches:
    """Endless batches from labelled pictures.

    Args:
        samples: what to draw from; every defect needs its mask.
        size: side S of the pictures in a batch.
        batch: pictures in a batch.
        seed: with the step it decides everything.
        mix: what they are made of.
        augment: crop, turn, recolour and degrade; off, pictures come as `read_sample` gives them.
        style: of what `augment` does; `authors` is the way of the authors' code, where a real picture keeps its label
            though its defect was moved out of it.
        order: `balanced` draws real pictures as `Mix` says; `shuffled` goes through all of them, each once, in a new
            random order each time, whatever their label.
        cache_bytes: decoded pictures are kept in memory up to here, the later ones are decoded each time.

    Raises:
        DataError: there is no sample, or a defect without a mask.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        size: int,
        batch: int,
        seed: int,
        mix: Mix,
        augment: bool = True,
        style: Style = "ours",
        order: Order = "balanced",
        cache_bytes: int = 2 << 30,
    ) -> None:
        self.size, self.size_of_batch, self.seed = size, batch, seed
        self.mix, self.augment, self.style = mix, augment, style
        self._groups = _by_category_and_label(samples)
        self._by_label = [found for label in (0, 1) if (found := _with_label(self._groups, label))]
        self._good = _with_label(self._groups, 0)
        self._in_order = tuple(samples) if order == "shuffled" else ()
        self._cache: dict[Sample, tuple[Bytes, Bytes]] = {}
        self._masks: dict[Sample, Bytes] = {}  # eight pixels a byte
        self._cache_left = cache_bytes

    @property
    def categories(self) -> list[str]:
        """Every category that a batch may name."""
        extra = [GENERIC] if self.mix.textures or self.mix.generic else []
        return list(dict.fromkeys([*self._groups, *extra]))

    def batch(self, step: int) -> tuple[Bytes, Bytes, Labels, list[str]]:
        """Return batch number `step`.

        Returns:
            pictures uint8 RGB (B, S, S, 3); masks uint8 (B, S, S), 1 where defective; labels int64 (B,), see
            `labels_of`; the categories' names, B of them.
        """
        items = self.items(step)
        images, masks = np.stack([item.image() for item in items]), np.stack([item.mask() for item in items])
        return images, masks, labels_of(items, masks), [item.category for item in items]

    def items(self, step: int, slots: Iterable[int] | None = None) -> list[Item]:
        """The pictures of batch number `step`, or those of its `slots` alone: each is a function of (step, slot)."""
        wanted = range(self.size_of_batch) if slots is None else slots
        return [self._item(np.random.default_rng([self.seed, step, slot]), step, slot) for slot in wanted]

    def _item(self, rng: Rng, step: int, slot: int) -> Item:
        origin = self._origin(rng)
        sample = None if origin == "texture" else self._choose(rng, origin, step, slot)
        if sample is not None and origin == "real" and not self.augment:
            image, mask = partial(self._picture, sample), partial(self._mask, sample)
            name = self._named(rng, sample.category)
            return Item(category=name, image=image, mask=mask, label=self._label(sample), key=sample.image)
        pixels, defect = self._made(rng, origin, sample)
        name = self._named(rng, sample.category if sample else GENERIC)
        label = self._label(sample) if sample and origin == "real" else None
        return Item(category=name, image=lambda: pixels, mask=lambda: defect, label=label)

    def _label(self, sample: Sample) -> int | None:
        return sample.label if self.style == "authors" else None

    def _made(self, rng: Rng, origin: Origin, sample: Sample | None) -> tuple[Bytes, Bytes]:
        """Picture and mask that are this item's alone."""
        if sample is None:
            image = make_texture(rng, self.size)
            mask = np.zeros(image.shape[:2], np.uint8)
        else:
            image, mask = self._read(rng, sample)
        if origin != "real" and self.mix.backdrop and rng.random() < self.mix.backdrop:
            image = before_backdrop(rng, image)
        if origin != "real" and rng.random() < self.mix.spoiled:
            image, mask = self._spoil(rng, image)
        if self.augment and self.style == "ours":
            image = augment.degrade(rng, augment.recolour(rng, image))
        return image, mask

    def _named(self, rng: Rng, category: str) -> str:
        return GENERIC if rng.random() < self.mix.generic else category

    def _choose(self, rng: Rng, origin: Origin, step: int, slot: int) -> Sample:
        if origin == "synthetic":
            return self._pick_good(rng)
        if not self._in_order:
            return self._pick(rng)
        turn, place = divmod(step * self.size_of_batch + slot, len(self._in_order))
        return self._in_order[_shuffled(self.seed, turn, len(self._in_order))[place]]

    def _origin(self, rng: Rng) -> Origin:
        draw = rng.random()
        if draw < self.mix.textures:
            return "texture"
        return "synthetic" if self._good and draw < self.mix.textures + self.mix.synthetic else "real"

    def _pick(self, rng: Rng) -> Sample:
        by_category = self._by_label[int(rng.integers(len(self._by_label)))]
        return _draw(rng, by_category[int(rng.integers(len(by_category)))])

    def _pick_good(self, rng: Rng) -> Sample:
        return _draw(rng, self._good[int(rng.integers(len(self._good)))])

    def _spoil(self, rng: Rng, image: Bytes) -> tuple[Bytes, Bytes]:
        donor = self._read(rng, self._pick(rng))[0] if rng.random() < 0.3 else None
        return add_defect(rng, image, donor)

    def _read(self, rng: Rng, sample: Sample) -> tuple[Bytes, Bytes]:
        """Picture (S, S, 3) and mask (S, S): cut, stretched and turned when augmenting."""
        if not self.augment:
            return read_sample(sample, self.size)
        if self.style == "authors":
            image, mask = read_full(sample)
            image = resize(augment_authors.colours(rng, image), self.size)
            return augment_authors.geometry(rng, image, nearest(mask, (self.size, self.size)))
        image, mask = self._full(sample)
        image, mask = augment.crop(rng, image, mask)
        image, mask = resize(image, self.size), nearest(mask, (self.size, self.size))
        if rng.random() < 0.3:
            image, mask = augment.rotate(rng, image, mask)
        return augment.turn(rng, image, mask)

    def _picture(self, sample: Sample) -> Bytes:
        """Pixels of an item that comes unchanged; its mask is kept, for the time when only that is asked for."""
        image, mask = read_sample(sample, self.size)
        if sample not in self._masks and mask.size // 8 < self._cache_left:
            self._masks[sample] = np.packbits(mask)
            self._cache_left -= self._masks[sample].nbytes
        return image

    def _mask(self, sample: Sample) -> Bytes:
        if sample not in self._masks:
            self._picture(sample)
        if sample not in self._masks:  # no room
            return read_sample(sample, self.size)[1]
        return np.unpackbits(self._masks[sample], count=self.size**2).reshape(self.size, self.size)

    def _full(self, sample: Sample) -> tuple[Bytes, Bytes]:
        """The decoded pair, from memory where it is; sides beyond 1.5 S are shrunk before they are kept."""
        if sample not in self._cache:
            pair = _shrunk(*read_full(sample), round(1.5 * self.size))
            cost = sum(array.nbytes for array in pair)
            if cost > self._cache_left:
                return pair
            self._cache[sample], self._cache_left = pair, self._cache_left - cost
        return self._cache[sample]


def labels_of(items: Sequence[Item], masks: Bytes) -> Labels:
    """Labels of items, int64 (B,): their own, or 1 where their mask of `masks` (B, S, S) has a pixel."""
    seen = np.asarray(masks.any(axis=(1, 2)), np.int64)
    return np.array(
        [given if item.label is None else item.label for item, given in zip(items, seen, strict=True)], np.int64
    )


@lru_cache(maxsize=2)
def _shuffled(seed: int, turn: int, count: int) -> tuple[int, ...]:
    """The order of `count` pictures in their `turn`-th round."""
    return tuple(map(int, np.random.default_rng([seed, turn, ORDER_STREAM]).permutation(count)))


def _with_label(groups: dict[str, dict[int, list[Sample]]], label: int) -> list[list[Sample]]:
    return [by_label[label] for by_label in groups.values() if label in by_label]


def _draw(rng: Rng, samples: Sequence[Sample]) -> Sample:
    return samples[int(rng.integers(len(samples)))]


def _shrunk(image: Bytes, mask: Bytes, most: int) -> tuple[Bytes, Bytes]:
    rows, columns = (min(side, most) for side in mask.shape)
    if (rows, columns) == mask.shape:
        return image, mask
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA), nearest(mask, (rows, columns))


def _by_category_and_label(samples: Sequence[Sample]) -> dict[str, dict[int, list[Sample]]]:
    groups: dict[str, dict[int, list[Sample]]] = {name: {} for name in categories_of(samples)}
    for sample in samples:
        if not sample.has_mask:
            raise DataError(f"{sample.image} is labelled defective and has no mask; training needs one")
        groups[sample.category].setdefault(sample.label, []).append(sample)
    if not groups:
        raise DataError("there is no picture to train on")
    return groups
