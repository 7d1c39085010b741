"""Listing and reading labelled pictures."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acd_edge.data import Sample, load_data, load_jsonl, load_mvtec, read_sample
from acd_edge.data.samples import nearest
from acd_edge.errors import DataError
from tests.picture_trees import SIDE, fill_12_bits, write_category, write_defect, write_good, write_png


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A data set with one category."""
    write_category(tmp_path / "set" / "metal_nut")
    return tmp_path / "set"


def counts(samples: list[Sample]) -> dict[tuple[str, int], int]:
    return dict(Counter((sample.category, sample.label) for sample in samples))


def test_test_split_reads_test_only_with_its_masks(tree: Path) -> None:
    samples = load_mvtec(tree, split="test")
    assert counts(samples) == {("metal_nut", 0): 1, ("metal_nut", 1): 2}
    assert [sample.mask for sample in samples if sample.label == 0] == [None]
    for sample in samples:
        if sample.label:
            assert sample.mask == tree / "metal_nut/ground_truth" / sample.image.parent.name / "000_mask.png"


def test_train_split_reads_everything_that_is_labelled(tree: Path) -> None:
    extra = tree / "metal_nut" / "train_split"
    write_defect(extra, "dent", "900", 210, np.s_[0:5, 0:5])
    write_good(extra, "test", "901")
    assert counts(load_mvtec(tree, split="train")) == {("metal_nut", 0): 4, ("metal_nut", 1): 3}
    assert counts(load_mvtec(tree, split="test")) == {("metal_nut", 0): 1, ("metal_nut", 1): 2}


def test_category_folder_equals_its_set(tree: Path) -> None:
    assert load_mvtec(tree / "metal_nut") == load_mvtec(tree)


def test_the_bit_depth_is_the_pictures_and_not_the_masks(tree: Path) -> None:
    (whole,) = (sample for sample in load_data([tree]) if sample.image.parent.name == "dent")
    picture, mask = read_sample(whole, SIDE)
    fill_12_bits(tree)
    assert whole.mask is not None
    Image.fromarray(np.asarray(Image.open(whole.mask), np.uint16) * 257).save(whole.mask)  # fills its 16 bits
    dark, told = (
        read_sample(sample, SIDE)
        for bits in (16, 12)
        for sample in load_data([tree], bit_depth=bits)
        if sample.image == whole.image
    )
    np.testing.assert_array_equal(told[0], picture)
    assert dark[0].max() < 16  # the control
    for each in (dark, told):
        np.testing.assert_array_equal(each[1], mask)


def test_other_folders_and_files_are_not_pictures(tree: Path) -> None:
    write_png(tree / "metal_nut" / "unannotated" / "x.png", np.zeros((4, 4), np.uint8))
    (tree / "metal_nut" / "test" / "good" / "notes.txt").write_text("no picture")
    assert len(load_mvtec(tree)) == 3


def test_missing_mask_is_named(tree: Path) -> None:
    gone = tree / "metal_nut/ground_truth/dent/000_mask.png"
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone}"):
        load_mvtec(tree)


def test_category_without_any_masks_is_listed_without(tree: Path) -> None:
    shutil.rmtree(tree / "metal_nut/ground_truth")
    samples = load_mvtec(tree)
    assert [sample.has_mask for sample in samples if sample.label] == [False, False]
    assert all(sample.has_mask for sample in samples if not sample.label)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no data set at"),
        (lambda path: path.mkdir(), "holds no category"),
        (lambda path: (path / "nut" / "test" / "good").mkdir(parents=True), "holds no picture for test"),
        (lambda path: path.write_text(""), "is empty"),
    ],
)
def test_nothing_there_is_said_with_its_path(tmp_path: Path, make: object, message: str) -> None:
    place = tmp_path / "place"
    make(place)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as caught:
        load_data([place])
    assert str(place) in str(caught.value)


def test_sample_is_stretched_and_its_mask_follows(tmp_path: Path) -> None:
    picture, mask = np.zeros((40, 80, 3), np.uint8), np.zeros((40, 80), np.uint8)
    picture[:, 40:], mask[:, 40:] = 255, 255
    sample = Sample(
        image=write_png(tmp_path / "a.png", picture), mask=write_png(tmp_path / "m.png", mask), label=1, category="x"
    )
    pixels, marks = read_sample(sample, 20)
    assert pixels.shape == (20, 20, 3)
    assert (pixels.dtype, marks.dtype) == (np.dtype(np.uint8), np.dtype(np.uint8))
    assert marks.tolist() == [[0] * 10 + [1] * 10] * 20
    assert (pixels[:, :8] < 8).all()
    assert (pixels[:, 12:] > 247).all()


def test_nearest_is_pillows() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (40, 81), np.uint8)
    pillows = np.asarray(Image.fromarray(mask).resize((23, 57), Image.Resampling.NEAREST))
    assert np.array_equal(nearest(mask, (57, 23)), pillows)
    assert not np.array_equal(nearest(mask[:, ::-1], (57, 23)), pillows)


def _spoil_size(sample: Sample) -> None:
    assert sample.mask
    Image.new("L", (SIDE + 1, SIDE), 255).save(sample.mask)


def _spoil_content(sample: Sample) -> None:
    assert sample.mask
    Image.new("L", (SIDE, SIDE), 0).save(sample.mask)


def _truncate_mask(sample: Sample) -> None:
    assert sample.mask
    sample.mask.write_bytes(sample.mask.read_bytes()[:40])


def _empty_picture(sample: Sample) -> None:
    sample.image.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "where", "message"),
    [
        (_spoil_size, "mask", f"is {SIDE + 1}x{SIDE}, its picture"),
        (_spoil_content, "mask", "is empty, but"),
        (_truncate_mask, "mask", "cannot read"),
        (_empty_picture, "image", "cannot read"),
    ],
)
def test_pairs_that_do_not_fit_are_named(tree: Path, spoil: object, where: str, message: str) -> None:
    sample = next(sample for sample in load_mvtec(tree) if sample.label)
    spoil(sample)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as caught:
        read_sample(sample, 28)
    assert str(getattr(sample, where)) in str(caught.value)


def write_list(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_jsonl_is_relative_to_root_or_to_itself(tree: Path) -> None:
    rows = [
        {"image_path": "metal_nut/test/good/000.png", "label": 0, "class_name": "nut", "mask_path": ""},
        {
            "image_path": "metal_nut/test/dent/000.png",
            "label": 1,
            "class_name": "nut",
            "mask_path": "metal_nut/ground_truth/dent/000_mask.png",
            "more": 3,
        },
        {"image_path": "metal_nut/test/spot/000.png", "label": 1, "class_name": "nut"},
    ]
    beside = load_jsonl(write_list(tree / "list.jsonl", *rows))
    apart = load_data([write_list(tree.parent / "list.jsonl", rows[0], "", *rows[1:])], tree)
    assert beside == apart
    assert [(sample.label, sample.has_mask) for sample in beside] == [(0, True), (1, True), (1, False)]
    assert np.array_equal(read_sample(beside[1], 28)[1], read_sample(load_mvtec(tree)[0], 28)[1])


def test_jsonl_written_elsewhere(tree: Path) -> None:
    """A mark of UTF-8 at its start, line ends of Windows, and a text that holds a break which ends no line."""
    row = {"image_path": "metal_nut/test/good/000.png", "label": 0, "class_name": "a\u2028b"}
    text = json.dumps(row, ensure_ascii=False)
    (tree / "list.jsonl").write_bytes(f"\ufeff{text}\r\n{text}\r\n".encode())
    assert [sample.category for sample in load_jsonl(tree / "list.jsonl")] == ["a\u2028b"] * 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON|not a JSON object"),  # Python 3.10 before its patch of 2022 reads it
        ([1], "not a JSON object but list"),
        ({"image_path": "a.png", "label": 2, "class_name": "x"}, "label must be 0 .* got 2"),
        ({"image_path": "a.png", "label": True, "class_name": "x"}, "label must be 0 .* got True"),
        ({"image_path": "a.png", "class_name": "x"}, "label must be 0 .* got None"),
        ({"label": 0, "class_name": "x"}, "image_path must be a text, got None"),
        ({"image_path": "gone.png", "label": 0, "class_name": "x"}, "gone.png is not there"),
        ({"image_path": "a.png", "label": 0}, "class_name must be a text"),
        ({"image_path": "a.png", "label": 1, "class_name": "x", "mask_path": "no.png"}, "mask_path .*no.png is not"),
    ],
)
def test_bad_lines_are_named_by_number(tmp_path: Path, row: object, message: str) -> None:
    write_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    good = {"image_path": "a.png", "label": 0, "class_name": "x"}
    with pytest.raises(DataError, match=message) as caught:
        load_jsonl(write_list(tmp_path / "list.jsonl", good, row))
    assert f"{tmp_path / 'list.jsonl'}:2" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "split", "good", "defective"),
    [
        ("magnetic_tile", "train", 952, 386),
        ("magnetic_tile", "test", 507, 386),
        ("neu_seg", "train", 0, 4470),
        ("neu_seg", "test", 0, 840),
        ("deeppcb", "test", 300, 300),
        ("crackforest", "test", 0, 118),
        ("hsst_fabric", "test", 1, 25),
        ("lgg_brain_mri", "test", 915, 547),
    ],
)
def test_real_sets_hold_what_their_pages_say(
    shared_data: Path, name: str, split: str, good: int, defective: int
) -> None:
    samples = load_data([shared_data / name], split=split)  # type: ignore[arg-type]
    assert Counter(sample.label for sample in samples) == Counter({0: good, 1: defective})
    assert all(sample.has_mask for sample in samples)
    pixels, mask = read_sample(samples[len(samples) // 2], 70)
    assert pixels.std() > 0
    assert mask.max() <= 1
