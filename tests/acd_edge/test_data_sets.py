"""The published data sets: each is told by its folder, listed whole, and called by its own words."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from acd_edge.data import Sample, load_data
from acd_edge.data.sets import DATA_SETS, DataSet, canonical_name, domain_of, metrics_of, open_data, words_of
from acd_edge.errors import ConfigError, DataError
from tests.picture_trees import write_category
from tests.published_trees import PUBLISHED, mvtec_category, write_mvtec_ad, write_polyps, write_visa
from tests.tree import ROOT

TITLES = {  # the paper's Table 1
    *("MVTec-AD", "BTAD", "MPDD", "RSDD", "VisA"),
    *("CVC-ColonDB", "CVC-ClinicDB", "Kvasir", "BMAD BrainMRI", "BMAD Liver CT", "BMAD Retina OCT"),
}


@pytest.fixture(params=PUBLISHED)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, str]:
    """The folder of each set, its name and its layout."""
    name, layout, write = PUBLISHED[request.param]
    return write(tmp_path / request.param), name, layout


def counts(samples: list[Sample]) -> dict[tuple[str, str, int], int]:
    return dict(Counter((sample.category, sample.part, sample.label) for sample in samples))


def test_every_set_of_the_papers_table_is_known() -> None:
    assert {known.title for known in DATA_SETS.values()} == TITLES
    assert {name for name, _, _ in PUBLISHED.values()} == set(DATA_SETS)


@pytest.mark.parametrize("known", DATA_SETS.values(), ids=list(DATA_SETS))
def test_the_manual_has_each_set_with_its_words(known: DataSet) -> None:
    row = next(line for line in (ROOT / "docs" / "data.md").read_text().splitlines() if f"| `{known.name}` |" in line)
    assert row.startswith(f"| {known.title}")
    assert f"| {known.domain} |" in row
    ours = {words for category, words in known.words.items() if words != category.replace("_", " ")}
    assert all(f"`{words}`" in row for words in ours)
    assert row.endswith("| pixel |") == (not known.has_good)


def test_folder_tells_set_and_layout(published: tuple[Path, str, str]) -> None:
    folder, name, layout = published
    found = open_data(folder)
    assert (found.name, found.layout) == (name, layout)
    assert {sample.data_set for sample in found.samples} == {name}
    assert found.domain == DATA_SETS[name].domain == domain_of(found.samples)
    assert load_data([folder], split="train") == list(found.samples)


def test_defects_have_their_own_masks(published: tuple[Path, str, str]) -> None:
    folder, name, _ = published
    samples = load_data([folder], split="test")
    assert samples
    assert all((sample.mask is not None) == bool(sample.label) for sample in samples)
    for sample in samples:
        if sample.mask:
            assert sample.mask.stem.removesuffix("_mask") == sample.image.stem
            assert sample.mask != sample.image
            own = folder / sample.category  # every category has files of the same names
            assert own in sample.mask.parents or not own.is_dir()
    good = {sample.label for sample in samples} == {0, 1}
    assert metrics_of(samples) == (["pixel", "image"] if good else ["pixel"])
    if not DATA_SETS[name].has_good:
        assert not good


def test_order_is_of_names_alone(published: tuple[Path, str, str], tmp_path: Path) -> None:
    """The order in which a disk returns names differs between the two trees."""
    folder, _, _ = published
    copy = tmp_path / "copy" / folder.name
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file():
            place = copy / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    names = [[sample.image.relative_to(root) for sample in open_data(root).samples] for root in (folder, copy)]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("folder", "want"),
    [
        ("mvtec_anomaly_detection", {"bottle": "bottle", "metal_nut": "metal nut", "zipper": "zipper"}),
        ("VisA_20220922", {"candle": "candle", "pcb1": "printed circuit board", "chewinggum": "chewing gum"}),
        ("BTech_Dataset_transformed", {"01": "round part", "02": "striped surface", "03": "oval part"}),
        (
            "MPDD",
            {
                "bracket_black": "black bracket",
                "connector": "connector",
                "metal_plate": "metal plate",
                "tubes": "metal tubes",
            },
        ),
        ("RSDDs dataset", {"type_i": "rail surface", "type_ii": "rail surface"}),
        ("RSDD", {"Metal15": "rail surface"}),
        ("Brain_AD", {"brain_mri": "brain scan"}),
        ("Liver_AD", {"liver_ct": "liver scan"}),
        ("Retina_RESC_AD", {"retina_oct": "retina scan"}),
        ("Kvasir-SEG", {"kvasir": "colon"}),
    ],
)
def test_products_are_called_by_words(folder: str, want: dict[str, str], tmp_path: Path) -> None:
    samples = load_data([PUBLISHED[folder][2](tmp_path / folder)], split="train")
    assert words_of(samples) == want


@pytest.mark.parametrize(
    ("folder", "want"),
    [
        ("VisA_20220922", {("train", 0): 6, ("test", 0): 3, ("test", 1): 3}),
        ("BTech_Dataset_transformed", {("train", 0): 3, ("test", 0): 3, ("test", 1): 3}),
        ("Brain_AD", {("train", 0): 1, ("valid", 0): 1, ("valid", 1): 1, ("test", 0): 1, ("test", 1): 1}),
        ("MedAD/Brain_AD", {("train", 0): 1, ("valid", 0): 1, ("valid", 1): 1, ("test", 0): 1, ("test", 1): 1}),
        ("Liver_AD", {("train", 0): 1, ("valid", 0): 1, ("valid", 1): 1, ("test", 0): 1, ("test", 1): 1}),
        ("Retina_RESC_AD", {("train", 0): 1, ("valid", 0): 1, ("valid", 1): 1, ("test", 0): 1, ("test", 1): 1}),
        ("Kvasir-SEG", {("test", 1): 3}),
        ("CVC-ClinicDB", {("test", 1): 2}),  # the PNGs, not both
        ("RSDDs dataset", {("test", 1): 4}),
        ("RSDD200", {("test", 0): 1, ("test", 1): 1}),
    ],
)
def test_parts_are_those_of_the_set(folder: str, want: dict[tuple[str, int], int], tmp_path: Path) -> None:
    place = PUBLISHED[folder][2](tmp_path / folder)
    found: Counter[tuple[str, int]] = Counter()
    for (_, part, label), count in counts(load_data([place], split="train")).items():
        found[part, label] += count
    assert found == want
    tested = load_data([place], split="test")
    assert len(tested) == sum(count for (part, _), count in want.items() if part == "test")


def test_one_object_of_visa_is_a_set_too(tmp_path: Path) -> None:
    whole = write_visa(tmp_path / "VisA")
    samples = load_data([whole / "pcb1"], split="train")
    assert counts(samples) == {("pcb1", "train", 0): 2, ("pcb1", "test", 0): 1, ("pcb1", "test", 1): 1}
    assert samples[0].data_set == "visa"


def test_visa_in_mvtecs_layout_keeps_its_words(tmp_path: Path) -> None:
    """As many loaders convert it."""
    for name in ("cashew", "pcb4"):
        mvtec_category(tmp_path / "visa_pytorch" / name, "bad", ".JPG")
    assert words_of(load_data([tmp_path / "visa_pytorch"])) == {"cashew": "cashew nut", "pcb4": "printed circuit board"}


def test_a_folder_of_ones_own_is_no_published_set(tmp_path: Path) -> None:
    """A category called like one of MVTec-AD's does not make it that set; half of its categories do, or its name."""
    for category in ("tile", "nut_holder"):
        write_category(tmp_path / "magnetic_tile" / category)
    found = open_data(tmp_path / "magnetic_tile")
    assert (found.name, found.title, found.domain) == ("magnetic_tile", "magnetic_tile", "industrial")
    assert words_of(found.samples) == {"tile": "tile", "nut_holder": "nut holder"}
    shutil.rmtree(tmp_path / "magnetic_tile" / "nut_holder")
    assert open_data(tmp_path / "magnetic_tile").name == "magnetic_tile"
    assert open_data(tmp_path / "magnetic_tile" / "tile").name == "magnetic_tile"
    for category in list(DATA_SETS["mvtec_ad"].words)[:8]:
        mvtec_category(tmp_path / "ours" / category)
    assert open_data(tmp_path / "ours").name == "mvtec_ad"


def test_layout_overrides_what_a_folder_does_not_tell(tmp_path: Path) -> None:
    folder = write_polyps(tmp_path / "one" / "download")
    with pytest.raises(DataError, match="give --layout: cvc_colondb, cvc_clinicdb, kvasir") as caught:
        load_data([folder])
    assert str(folder) in str(caught.value)
    samples = load_data([folder], layout="kvasir")
    assert (domain_of(samples), words_of(samples)) == ("medical", {"kvasir": "colon"})
    with pytest.raises(ConfigError, match=r"--layout nothing is no data set .*: mvtec_ad, visa"):
        load_data([folder], layout="nothing")


def test_the_authors_lists_get_words_and_domain(tmp_path: Path) -> None:
    """Their labels are 0.0 and 1.0, and their lists are called after the set."""
    write_visa(tmp_path / "data")
    rows = [
        {"image_path": "pcb1/Data/Images/Normal/0002.JPG", "label": 0.0, "class_name": "pcb1"},
        {
            "image_path": "pcb1/Data/Images/Anomaly/000.JPG",
            "label": 1.0,
            "class_name": "pcb1",
            "mask_path": "pcb1/Data/Masks/Anomaly/000.png",
        },
    ]
    for name in ("VisA", "Colon_clinicDB", "mine"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [load_data([tmp_path / f"{name}.jsonl"], tmp_path / "data") for name in ("VisA", "Colon_clinicDB", "mine")]
    assert [samples[0].data_set for samples in found] == ["visa", "cvc_clinicdb", "data"]
    assert [words_of(samples)["pcb1"] for samples in found] == ["printed circuit board", "colon", "pcb1"]
    assert [domain_of(samples) for samples in found] == ["industrial", "medical", "industrial"]
    assert {sample.label for sample in found[0]} == {0, 1}


def test_sets_of_both_domains_are_told_apart(tmp_path: Path) -> None:
    samples = load_data([write_mvtec_ad(tmp_path / "mvtec"), write_polyps(tmp_path / "Kvasir")])
    with pytest.raises(DataError, match=r"both domains .*mvtec_ad industrial, kvasir medical"):
        domain_of(samples)


def test_one_category_under_two_names_needs_words(tmp_path: Path) -> None:
    mvtec_category(tmp_path / "VisA" / "cashew")
    mvtec_category(tmp_path / "ours" / "cashew")
    samples = load_data([tmp_path / "VisA", tmp_path / "ours"])
    with pytest.raises(DataError, match=r"'cashew nut' in one .* 'cashew' in ours; give --product cashew='words'"):
        words_of(samples)
    assert words_of(samples, {"cashew": "nut"}) == {}


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    """What another system leaves behind in an archive."""
    folder = write_polyps(tmp_path / "Kvasir")
    (folder / "images" / "._1.png").write_bytes(b"no picture")
    (folder / ".DS_Store").write_bytes(b"")
    assert len(load_data([folder])) == 3


@pytest.mark.parametrize("name", ["CVC-ClinicDB", "cvc_clinicdb", "Colon_clinicDB"])
def test_spellings_of_one_set(name: str) -> None:
    assert canonical_name(name) == "cvc_clinicdb"
    assert canonical_name(name) != canonical_name("CVC-ColonDB")


@pytest.mark.parametrize("folder", PUBLISHED)
def test_missing_mask_stops_loading_with_its_path(folder: str, tmp_path: Path) -> None:
    place = PUBLISHED[folder][2](tmp_path / folder)
    gone = next(sample.mask for sample in load_data([place]) if sample.mask)
    gone.unlink()
    with pytest.raises(DataError, match="has no mask") as caught:
        load_data([place])
    assert str(gone.with_suffix("")) in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("image,label\n", "no column object, split, mask"),
        ("object,split,label,image,mask\ncandle,train,odd,a.JPG,\n", r"1cls.csv:2: want .* got candle, train, odd"),
        ("object,split,label,image,mask\ncandle,test,normal,a.JPG,\n", "lists .*a.JPG, which is not there"),
        ("object,split,label,image,mask\n", "holds no picture for testing"),
    ],
)
def test_bad_split_files_are_named(rows: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "VisA" / "split_csv").mkdir(parents=True)
    (tmp_path / "VisA" / "split_csv" / "1cls.csv").write_text(rows)
    with pytest.raises(DataError, match=message):
        load_data([tmp_path / "VisA"])
