"""Synthetic defects, made textures, augmentation and the batches made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from acd_edge.data import Sample, load_mvtec, read_sample
from acd_edge.data import augment as changes
from acd_edge.data.sampling import GENERIC, Batches, Mix
from acd_edge.data.shapes import foreground
from acd_edge.data.synthetic import DEFECTS, add_defect
from acd_edge.data.textures import TEXTURES, before_backdrop, make_texture
from acd_edge.errors import DataError
from tests.picture_trees import write_category, write_defect

SIZE = 112
MIX = Mix(synthetic=0.3, textures=0.1, spoiled=1.0, backdrop=0.0, generic=0.1)
Bytes = npt.NDArray[np.uint8]


def surface(seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(90, 150, (SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_is_seen_where_its_mask_says(kind: str) -> None:
    for seed in range(4):
        before = surface()
        after, mask = add_defect(np.random.default_rng(seed), before, surface(9), kind=kind)
        assert (before == surface()).all()  # the given picture stays as it was
        assert after.dtype == mask.dtype == np.uint8
        assert after.shape == before.shape
        assert set(np.unique(mask)) == {0, 1}
        change = np.abs(after.astype(int) - before).max(axis=2)
        assert change[mask == 1].mean() >= 5  # what cannot be seen is no defect
        assert change[mask == 0].mean() < 0.1 * change[mask == 1].mean() + 1  # soft edges only
        assert mask.mean() < 0.7


def test_defects_follow_from_the_generator_alone() -> None:
    first, second, other = (add_defect(np.random.default_rng(seed), surface()) for seed in (3, 3, 4))
    assert (first[0] == second[0]).all()
    assert (first[1] == second[1]).all()
    assert (first[0] != other[0]).any()


def test_defects_lie_on_the_object_and_not_on_the_backdrop() -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[30:82, 30:82] = surface()[30:82, 30:82]
    region = foreground(picture)
    assert region[40:70, 40:70].all()
    assert not region[:24].any()
    masks = [add_defect(np.random.default_rng(seed), picture, kind="blob")[1] for seed in range(8)]
    assert not np.any([mask[:22] | mask[-22:] for mask in masks])
    assert foreground(surface()).all()  # a surface without backdrop is all object


@pytest.mark.parametrize("kind", TEXTURES)
def test_each_texture_is_a_picture(kind: str) -> None:
    first, again, other = (TEXTURES[kind][0](np.random.default_rng(seed), SIZE) for seed in (1, 1, 2))
    assert first.shape == (SIZE, SIZE)
    assert np.isfinite(first).all()
    assert (first == again).all()
    assert (first != other).any()
    assert first.std() > 0.01


def test_made_textures_differ_and_have_contrast() -> None:
    pictures = [make_texture(np.random.default_rng(seed), SIZE) for seed in range(12)]
    assert all(picture.shape == (SIZE, SIZE, 3) for picture in pictures)
    assert all(picture.dtype == np.uint8 for picture in pictures)
    assert min(float(picture.std()) for picture in pictures) > 1
    assert len({picture.tobytes() for picture in pictures}) == 12


def marked() -> tuple[Bytes, Bytes]:
    """A picture that is white exactly where its mask is set."""
    mask = np.zeros((60, 84), np.uint8)
    mask[5:17, 60:80] = 1
    return np.repeat(mask[..., None] * np.uint8(255), 3, axis=2), mask


@pytest.mark.parametrize("seed", range(6))
def test_turning_and_cropping_move_the_mask_with_the_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for image, mask in (changes.turn(rng, *marked()), changes.crop(rng, *marked())):
        assert ((image[..., 0] == 255) == (mask == 1)).all()
    image, mask = changes.rotate(rng, *marked())
    assert ((image[..., 0] > 127) == (mask == 1)).mean() > 0.99  # the picture is interpolated, the mask is not
    assert (mask != marked()[1]).any()


def test_recolouring_and_degrading_change_pixels_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    different = 0
    for _ in range(20):
        changed = changes.degrade(rng, changes.recolour(rng, surface()))
        assert changed.shape == (SIZE, SIZE, 3)
        assert changed.dtype == np.uint8
        different += bool((changed != surface()).any())
    assert different == 20


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """A category with good pictures, and one with defects only."""
    write_category(tmp_path / "set" / "nut")
    for index in range(3):
        write_defect(tmp_path / "set" / "plate", "hole", f"{index:03}", 180, np.s_[index * 9 : index * 9 + 8, 3:50])
    return load_mvtec(tmp_path / "set", split="train")


def test_batch_is_a_function_of_seed_and_step(samples: list[Sample]) -> None:
    straight = Batches(samples, size=56, batch=3, seed=7, mix=MIX)
    wanted = [straight.batch(step) for step in range(3)]
    resumed = Batches(samples, size=56, batch=3, seed=7, mix=MIX, cache_bytes=0).batch(2)
    assert [np.asarray(part).tolist() for part in resumed] == [np.asarray(part).tolist() for part in wanted[2]]
    assert not np.array_equal(wanted[1][0], wanted[2][0])
    assert not np.array_equal(Batches(samples, size=56, batch=3, seed=8, mix=MIX).batch(2)[0], wanted[2][0])


def test_batch_has_the_promised_shapes_and_labels_follow_masks(samples: list[Sample]) -> None:
    batches = Batches(samples, size=56, batch=16, seed=1, mix=replace(MIX, textures=0.2))
    images, masks, labels, names = batches.batch(0)
    assert (images.shape, masks.shape, labels.shape, len(names)) == ((16, 56, 56, 3), (16, 56, 56), (16,), 16)
    assert (images.dtype, masks.dtype, labels.dtype) == tuple(map(np.dtype, (np.uint8, np.uint8, np.int64)))
    assert (labels == masks.any(axis=(1, 2))).all()
    assert set(names) <= set(batches.categories) == {"nut", "plate", GENERIC}
    assert masks.max() == 1


def test_without_augmentation_pictures_are_read_as_they_are(samples: list[Sample]) -> None:
    batches = Batches(
        samples, size=28, batch=24, seed=2, mix=replace(MIX, synthetic=0, textures=0, generic=0), augment=False
    )
    images, _, labels, names = batches.batch(5)
    known = {(read_sample(sample, 28)[0].tobytes(), sample.category, sample.label) for sample in samples}
    assert {(image.tobytes(), *of) for image, *of in zip(images, names, labels, strict=True)} <= known
    assert 0.25 < labels.mean() < 0.75  # good and defective by an even draw, though six of nine are defective
    assert {"nut", "plate"} == set(names)


@pytest.mark.parametrize("seed", range(12))
def test_a_body_stands_before_an_even_backdrop(seed: int) -> None:
    noise = np.random.default_rng(seed).integers(60, 200, (112, 112, 3), dtype=np.uint8)
    cut = before_backdrop(np.random.default_rng(seed), noise)
    kept = (cut == noise).all(axis=2)
    assert 0.03 < kept.mean() < 0.9
    backdrop = cut[~kept].astype(float)
    assert np.abs(backdrop - np.median(backdrop, axis=0)).mean() < 22  # soft edges count; the noise itself has 35


def test_backdrops_come_as_often_as_asked(samples: list[Sample]) -> None:
    def pictures(backdrop: float) -> npt.NDArray[np.uint8]:
        mix = replace(MIX, synthetic=1, textures=0, spoiled=0, backdrop=backdrop)
        return Batches(samples, size=56, batch=24, seed=3, mix=mix, augment=False).batch(0)[0]

    plain, some, every = pictures(0), pictures(0.5), pictures(1)
    changed = [(plain != other).any(axis=(1, 2, 3)).mean() for other in (some, every)]
    assert 0.2 < changed[0] < 0.8
    assert changed[1] == 1


@pytest.mark.parametrize("synthetic", [0.0, 1.0])
def test_synthetic_share_is_defective(samples: list[Sample], synthetic: float) -> None:
    good = [sample for sample in samples if not sample.label]
    mix = replace(MIX, synthetic=synthetic, textures=0.0)
    assert Batches(good, size=56, batch=8, seed=3, mix=mix).batch(0)[2].mean() == synthetic


def test_refusals(samples: list[Sample]) -> None:
    blind = Sample(image=samples[0].image, mask=None, label=1, category="nut")
    with pytest.raises(DataError, match=f"{blind.image} .* has no mask"):
        Batches([*samples, blind], size=56, batch=2, seed=0, mix=MIX)
    with pytest.raises(DataError, match="no picture to train on"):
        Batches([], size=56, batch=2, seed=0, mix=MIX)
