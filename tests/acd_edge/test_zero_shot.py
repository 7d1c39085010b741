"""What a checkpoint and a bundle remember of their training, and what that says of an evaluation."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from acd_edge.checkpoint import ADAPTERS, BACKBONE, CONFIG, builtin_checkpoint
from acd_edge.config import ModelConfig
from acd_edge.data import load_data
from acd_edge.data.zero_shot import (
    RECORD_FILE,
    TrainingRecord,
    guard,
    picture_digest,
    record_of_bundle,
    record_of_checkpoint,
    training_record,
)
from acd_edge.errors import CheckpointError, DataError
from acd_edge.runtime.bundle import Bundle, builtin_bundle, write_bundle
from tests.picture_trees import write_category
from tests.published_trees import mvtec_category, picture, write_polyps, write_visa
from tests.tiny_bundle import tiny_features, tiny_golden, tiny_graph, tiny_manifest


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A set of one's own that was trained on."""
    write_category(tmp_path / "plates" / "steel_plate")
    write_category(tmp_path / "plates" / "01")
    return tmp_path / "plates"


def record_of(*folders: Path, **words: list[str]) -> TrainingRecord:
    return training_record(load_data(folders, split="train"), words)


def save(path: Path, record: TrainingRecord | None, **training: Any) -> Path:
    """A checkpoint without weights that could be loaded."""
    path.mkdir()
    if record is not None:
        training["trained_on"] = record.summary()
        (path / RECORD_FILE).write_text(record.to_json(), encoding="utf-8")
    content = {"schema": 1, "model": ModelConfig().to_dict(), "training": training}
    (path / CONFIG).write_text(json.dumps(content))
    (path / BACKBONE).write_text(json.dumps({"name": "compact", "sha256": "0" * 64, "found_at": "nowhere"}))
    (path / ADAPTERS).write_bytes(b"")
    return path


def bundle_with(path: Path, record: bytes | None, **manifest: Any) -> Path:
    extra: dict[str, Path | bytes] = {} if record is None else {RECORD_FILE: record}
    write_bundle(
        path,
        tiny_manifest(**manifest),
        files={"model.onnx": tiny_graph().SerializeToString(), **extra},
        text_features=tiny_features(),
        golden=tiny_golden(),
    )
    return path


def test_record_holds_sets_products_and_pictures(trained: Path) -> None:
    samples = load_data([trained], split="train")
    told: list[tuple[int, int]] = []
    record = training_record(samples, {"steel_plate": ["sheet metal"]}, lambda done, total: told.append((done, total)))
    assert record.data_sets == ("plates",)
    assert record.products == ("01", "steel plate", "sheet metal")
    assert record.pictures == frozenset(picture_digest(sample.image) for sample in samples)
    assert told[-1] == (len(samples), len(samples))
    whole = hashlib.sha256(samples[0].image.read_bytes()).digest()
    assert picture_digest(samples[0].image) == whole[:8]


def test_record_comes_back_from_a_checkpoint_and_from_its_bundle(trained: Path, tmp_path: Path) -> None:
    record = record_of(trained)
    checkpoint = save(tmp_path / "ckpt", record)
    assert record_of_checkpoint(checkpoint) == record
    for name in ("bundle", "bundle.acd"):
        with Bundle.open(bundle_with(tmp_path / name, record.to_json().encode())) as bundle:
            assert record_of_bundle(bundle) == record
            assert record_of_bundle(bundle) != TrainingRecord()


def test_twelve_thousand_pictures_stay_small() -> None:
    digests = frozenset(hashlib.sha256(str(number).encode()).digest()[:8] for number in range(12_000))
    record = TrainingRecord(data_sets=("visa",), products=("candle",), pictures=digests)
    assert len(record.to_json()) < 130_000
    assert len(json.dumps(record.summary())) < 200
    assert record.to_json() == TrainingRecord(**{**vars(record), "pictures": frozenset(sorted(digests))}).to_json()


def test_pictures_that_were_trained_on_are_refused(trained: Path, tmp_path: Path) -> None:
    """Under any name, and anywhere on the disk: the bytes tell."""
    record = record_of(trained)
    others = write_visa(tmp_path / "VisA")
    assert guard(load_data([others]), record) == {}
    stolen = others / "pcb1" / "Data" / "Images" / "Normal" / "0002.JPG"
    shutil.copyfile(trained / "steel_plate" / "test" / "dent" / "000.png", stolen)
    with pytest.raises(DataError, match="1 of 6 pictures were trained on, the first is") as caught:
        guard(load_data([others]), record)
    assert str(stolen) in str(caught.value)
    with pytest.raises(DataError, match="6 of 6 pictures"):
        guard(load_data([trained]), record)


def test_other_pictures_of_a_trained_set_are_marked(trained: Path, tmp_path: Path) -> None:
    record = record_of(trained)
    for place in ("elsewhere/plates", "elsewhere/Plates-"):
        mvtec_category(tmp_path / place / "bolt")
        assert guard(load_data([tmp_path / place]), record) == {
            "bolt": f"data set {Path(place).name} was trained on"
        }  # whatever its case
    mvtec_category(tmp_path / "elsewhere" / "sheets" / "bolt")
    assert guard(load_data([tmp_path / "elsewhere" / "sheets"]), record) == {}


def test_a_published_set_is_known_by_any_name(tmp_path: Path) -> None:
    record = record_of(write_polyps(tmp_path / "CVC-ClinicDB"))
    other = write_polyps(tmp_path / "cvc_clinicdb_again")
    for path in (other / "images").iterdir():
        picture(path, 7)
    assert guard(load_data([other]), record) == {"cvc_clinicdb": "data set cvc_clinicdb was trained on"}
    third = write_polyps(tmp_path / "Kvasir")
    assert guard(load_data([third]), record) == {"kvasir": "product 'colon' was trained on"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({}, None),
        ({"bolt": "steel plate"}, "product 'steel plate' was trained on"),
        ({"bolt": "The Steel-Plate"}, "product 'The Steel-Plate' was trained on"),
        ({"bolt": "stainless steel plate"}, None),
        ({"bolt": "object"}, None),
    ],
)
def test_a_trained_product_is_marked(words: dict[str, str], reason: str | None, trained: Path, tmp_path: Path) -> None:
    mvtec_category(tmp_path / "new" / "bolt")
    marked = guard(load_data([tmp_path / "new"]), record_of(trained), words)
    assert marked == ({} if reason is None else {"bolt": reason})


def test_a_number_is_no_product(trained: Path, tmp_path: Path) -> None:
    """Two sets that number their categories have nothing in common by that."""
    mvtec_category(tmp_path / "new" / "01")
    assert guard(load_data([tmp_path / "new"]), record_of(trained)) == {}


def test_a_category_is_a_product_whatever_it_was_called(trained: Path, tmp_path: Path) -> None:
    mvtec_category(tmp_path / "new" / "steel_plate")
    record = record_of(trained, steel_plate=["sheet metal"])
    want = {"steel_plate": "product 'steel plate' was trained on"}
    assert guard(load_data([tmp_path / "new"]), record, {"steel_plate": "tin"}) == want


def test_older_models_are_compared_by_names(tmp_path: Path) -> None:
    """Neither the checkpoint nor the bundle has digests; pictures cannot be refused, names are marked."""
    old = save(tmp_path / "old", None, data=["plates"], words={"steel": ["hot-rolled steel"]})
    record = record_of_checkpoint(old)
    assert (record.data_sets, record.products, record.pictures) == (("plates",), ("steel", "hot-rolled steel"), None)
    mvtec_category(tmp_path / "plates" / "bolt")
    mvtec_category(tmp_path / "new" / "hot-rolled_steel")
    assert guard(load_data([tmp_path / "plates"]), record) == {"bolt": "data set plates was trained on"}
    assert list(guard(load_data([tmp_path / "new"]), record)) == ["hot-rolled_steel"]
    with Bundle.open(bundle_with(tmp_path / "bundle", None, source={"data_sets": ["plates"]})) as bundle:
        assert record_of_bundle(bundle) == TrainingRecord(data_sets=("plates",))
    assert record_of_checkpoint(save(tmp_path / "converted", None)) == TrainingRecord()


def test_the_built_in_model_says_what_it_was_trained_on() -> None:
    with Bundle.open(builtin_bundle()) as bundle:
        for record in (record_of_checkpoint(builtin_checkpoint()), record_of_bundle(bundle)):
            assert {"magnetic_tile", "neu_seg", "deeppcb"} <= set(record.data_sets)


def _lost(file: Path) -> None:
    file.unlink()


def _shortened(file: Path) -> None:
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "pictures": values["pictures"][:-12]}))


@pytest.mark.parametrize(("spoil", "message"), [(_lost, "cannot be read"), (_shortened, "was altered")])
def test_a_lost_or_altered_record_is_noticed(spoil: Any, message: str, trained: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "ckpt", record_of(trained))
    spoil(checkpoint / RECORD_FILE)
    with pytest.raises(CheckpointError, match=message) as caught:
        record_of_checkpoint(checkpoint)
    assert str(checkpoint / RECORD_FILE) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not say what"),
        ("[]", "does not say what"),
        ('{"schema": 2, "digest": ""}', "has schema 2"),
        ('{"schema": 1, "digest": "", "data_sets": []}', "must hold data_sets, products, pictures"),
        ('{"schema": 1, "digest": "", "data_sets": 3, "products": [], "pictures": null}', "a list of names"),
        ('{"schema": 1, "digest": "", "data_sets": [], "products": [], "pictures": "AAAA"}', "3 bytes are no whole"),
        ('{"schema": 1, "digest": "", "data_sets": [], "products": [], "pictures": "A*"}', "does not say what"),
    ],
)
def test_a_record_that_does_not_fit_is_named(text: str, message: str, tmp_path: Path) -> None:
    with (
        Bundle.open(bundle_with(tmp_path / "bundle", text.encode())) as bundle,
        pytest.raises(CheckpointError, match=message) as caught,
    ):
        record_of_bundle(bundle)
    assert RECORD_FILE in str(caught.value)


def test_an_unreadable_picture_is_left_to_the_evaluation(trained: Path, tmp_path: Path) -> None:
    samples = load_data([write_visa(tmp_path / "VisA")])
    samples[0].image.unlink()
    assert guard(samples, record_of(trained)) == {}
    with pytest.raises(DataError, match="cannot read"):
        training_record(samples)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone.png"):
        picture_digest(tmp_path / "gone.png")
