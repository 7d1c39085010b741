"""Batches: what decides them, what is decoded, and the authors' augmentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acd_edge.data import augment_authors, sampling
from acd_edge.data.samples import Bytes, Sample, load_data, read_sample
from acd_edge.data.sampling import Batches, Mix, Style
from tests.picture_trees import SIDE, write_category, write_defect, write_good

REAL = Mix(synthetic=0.0, textures=0.0, spoiled=1.0, backdrop=0.0, generic=0.0)
PLAIN = {"mix": REAL, "augment": False}


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Five pictures, two of them defective."""
    return load_data([write_category(tmp_path / "metal_nut")], split="train")


@pytest.mark.parametrize("augment", [False, True])
def test_slots_are_parts_of_the_batch(samples: list[Sample], augment: bool) -> None:
    batches = Batches(samples, size=28, batch=4, seed=3, mix=replace(REAL, synthetic=0.3, generic=0.1), augment=augment)
    whole, parts = batches.items(5), [*batches.items(5, range(3)), *batches.items(5, [3])]
    for one, other in zip(whole, parts, strict=True):
        assert (one.category, one.key) == (other.category, other.key)
        np.testing.assert_array_equal(one.image(), other.image())
        np.testing.assert_array_equal(one.mask(), other.mask())
    images = batches.batch(5)[0]
    np.testing.assert_array_equal(images, np.stack([item.image() for item in whole]))
    assert not np.array_equal(images, batches.batch(6)[0])


@pytest.mark.parametrize("room", [1 << 20, 0])
def test_unchanged_pictures_have_a_key_and_wait_to_be_decoded(
    samples: list[Sample], room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_file = {sample.image: sample for sample in samples}
    decoded: list[Path] = []

    def noted(sample: Sample, size: int) -> tuple[Bytes, Bytes]:
        decoded.append(sample.image)
        return read_sample(sample, size)

    monkeypatch.setattr(sampling, "read_sample", noted)
    batches = Batches(samples, size=28, batch=8, seed=1, cache_bytes=room, **PLAIN)  # type: ignore[arg-type]
    items = batches.items(0)
    assert not decoded
    for item in items:
        assert item.key is not None
        image, mask = read_sample(by_file[item.key], 28)
        np.testing.assert_array_equal(item.image(), image)
        np.testing.assert_array_equal(item.mask(), mask)
    decoded.clear()
    for item in items:
        item.mask()
    assert bool(decoded) == (room == 0)  # a picture that was decoded left its mask behind, where there is room


def test_made_pictures_have_no_key(samples: list[Sample]) -> None:
    for mix, augment in ((REAL, True), (replace(REAL, synthetic=1.0), False), (replace(REAL, textures=1.0), False)):
        batches = Batches(samples, size=28, batch=4, seed=1, mix=mix, augment=augment)
        assert [item.key for item in batches.items(0)] == [None] * 4


def test_shuffled_goes_through_all_pictures(samples: list[Sample]) -> None:
    """Rounds of five pictures in batches of two: each once per round, in another order each time."""
    batches = Batches(samples, size=28, batch=2, seed=1, order="shuffled", **PLAIN)  # type: ignore[arg-type]
    seen = [item.key for step in range(10) for item in batches.items(step)]
    rounds = [seen[at : at + 5] for at in range(0, 20, 5)]
    for keys in rounds:
        assert sorted(map(str, keys)) == sorted(str(sample.image) for sample in samples)
    assert len({tuple(keys) for keys in rounds}) > 1
    other = Batches(samples, size=28, batch=2, seed=2, order="shuffled", **PLAIN)  # type: ignore[arg-type]
    assert seen != [item.key for step in range(10) for item in other.items(step)]


def test_authors_geometry_moves_picture_and_mask_alike() -> None:
    """A bright square on a dark picture is its own mask: they must stay so, whatever is drawn."""
    image, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    image[10:30, 15:40], mask[10:30, 15:40] = 255, 1
    moved, filled = 0, 0
    for seed in range(40):
        picture, defect = augment_authors.geometry(np.random.default_rng(seed), image, mask)
        np.testing.assert_array_equal(picture[..., 0] == 255, defect == 1)
        moved += not np.array_equal(defect, mask)
        filled += bool((picture == augment_authors.MEAN_COLOUR).all(axis=-1).any())
    assert 30 < moved <= 40
    assert 15 < filled < 40  # turned or shifted in three of four cases


def test_authors_colours_stay_within_their_factors() -> None:
    """On gray, contrast and saturation change nothing: what is left is a factor from 0.5 to 1.5, and rare specks."""
    gray = np.full((SIDE, SIDE, 3), 100, np.uint8)
    middles = []
    for seed in range(60):
        changed = augment_authors.colours(np.random.default_rng(seed), gray)
        middle = float(np.median(changed))
        middles.append(middle)
        assert 49 <= middle <= 150
        assert (changed != middle).mean() < 0.03
    assert min(middles) < 70
    assert max(middles) > 130
    assert 5 < middles.count(100.0) < 35  # three in ten keep their brightness


def test_authors_augmentation_keeps_the_label(tmp_path: Path) -> None:
    """A chip in the corner is often turned or shifted out: theirs stays a defective picture, ours becomes good."""
    write_defect(tmp_path / "set" / "chipped", "chip", "000", 200, np.s_[:6, :6])
    write_good(tmp_path / "set" / "whole", "test", "000")
    two = load_data([tmp_path / "set"], split="train")
    styles: tuple[Style, ...] = ("authors", "ours")
    for style in styles:
        batches = Batches(two, size=28, batch=40, seed=1, mix=REAL, style=style)
        _, masks, labels, names = batches.batch(0)
        own, left = np.array(names) == "chipped", masks.any(axis=(1, 2))
        assert 0 < left.sum() < own.sum()
        np.testing.assert_array_equal(labels, own if style == "authors" else left)


def test_authors_augmentation_is_not_ours(samples: list[Sample]) -> None:
    batches = Batches(samples, size=28, batch=6, seed=1, mix=REAL, style="authors")
    images, masks, _, _ = batches.batch(0)
    assert images.shape == (6, 28, 28, 3)
    assert set(np.unique(masks)) == {0, 1}
    ours = Batches(samples, size=28, batch=6, seed=1, mix=REAL)
    assert not np.array_equal(images, ours.batch(0)[0])
