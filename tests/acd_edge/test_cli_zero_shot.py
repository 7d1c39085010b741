"""Published sets and the guard of zero-shot, as `acd-edge eval` shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from acd_edge.cli import cli
from acd_edge.data import load_data
from acd_edge.data.zero_shot import RECORD_FILE, TrainingRecord, training_record
from acd_edge.runtime.bundle import write_bundle
from tests.published_trees import mvtec_category, write_kvasir, write_mvtec_ad, write_polyps, write_visa
from tests.tiny_bundle import tiny_features, tiny_golden, tiny_graph, tiny_manifest, tiny_text_encoder, tiny_tokenizer


def bundle(path: Path, record: TrainingRecord, domain: str = "industrial") -> Path:
    """The tiny bundle, any product of which can be asked for, with a record of its training."""
    files: dict[str, Path | bytes] = {
        "model.onnx": tiny_graph().SerializeToString(),
        "text_encoder.onnx": tiny_text_encoder().SerializeToString(),
        "tokenizer.json": tiny_tokenizer().encode(),
        RECORD_FILE: record.to_json().encode(),
    }
    manifest = tiny_manifest(domain=domain)
    write_bundle(path, manifest, files=files, text_features=tiny_features(), golden=tiny_golden())
    return path


def acd_edge(*words: object) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, words)])


def test_sets_bring_their_words_and_their_domain(tmp_path: Path) -> None:
    industrial = bundle(tmp_path / "industrial", TrainingRecord())
    done = acd_edge(industrial, "--data", write_visa(tmp_path / "VisA"), "--product", "candle=wax", "--json")
    assert done.exit_code == 0, done.stderr
    words = {name: row["words"] for name, row in json.loads(done.stdout)["categories"].items()}
    assert words == {"candle": "wax", "pcb1": "printed circuit board", "chewinggum": "chewing gum"}
    polyps = write_kvasir(tmp_path / "Kvasir")
    refused = acd_edge(industrial, "--data", polyps)
    assert (refused.exit_code, "the data are medical" in refused.stderr) == (2, True)
    medical = bundle(tmp_path / "medical", TrainingRecord(), "medical")
    done = acd_edge(medical, "--data", polyps, "--json")
    assert done.exit_code == 0, done.stderr
    row = json.loads(done.stdout)["categories"]["kvasir"]
    assert (row["image_auroc"], row["not_zero_shot"]) == (None, None)
    assert row["pixel_auroc"] is not None


def test_layout_says_what_a_folder_does_not(tmp_path: Path) -> None:
    medical = bundle(tmp_path / "medical", TrainingRecord(), "medical")
    folder = write_polyps(tmp_path / "some" / "pictures")
    assert "give --layout" in acd_edge(medical, "--data", folder).stderr
    done = acd_edge(medical, "--data", folder, "--layout", "cvc_colondb", "--json")
    assert list(json.loads(done.stdout)["categories"]) == ["cvc_colondb"]


def test_trained_pictures_are_refused_and_names_are_marked(tmp_path: Path) -> None:
    trained = write_mvtec_ad(tmp_path / "mvtec")
    record = training_record(load_data([trained], split="train"), {})
    model = bundle(tmp_path / "bundle", record)
    refused = acd_edge(model, "--data", trained)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "6 of 6 pictures were trained on" in refused.stderr
    assert str(trained / "bottle" / "test" / "crack" / "000.png") in refused.stderr
    for category in ("zipper", "bolt"):
        mvtec_category(tmp_path / "own" / category, "dent", ".bmp")
    done = acd_edge(model, "--data", tmp_path / "own", "--json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["categories"]
    assert {name: row["not_zero_shot"] for name, row in rows.items()} == {
        "zipper": "product 'zipper' was trained on",
        "bolt": None,
    }
    done = acd_edge(model, "--data", tmp_path / "own")
    assert "not zero-shot: product 'zipper' was trained on" in done.stdout
    assert done.stdout.count("not zero-shot") == 1


def test_a_bundle_that_remembers_no_picture_says_so(tmp_path: Path) -> None:
    """Of an older model only names are compared, which the reader of its figures should know."""
    mvtec_category(tmp_path / "own" / "bolt")
    for record, told in ((TrainingRecord(data_sets=("plates",)), True), (TrainingRecord(pictures=frozenset()), False)):
        done = acd_edge(bundle(tmp_path / f"bundle-{told}", record), "--data", tmp_path / "own")
        assert done.exit_code == 0, done.stderr
        assert ("does not say which pictures it was trained on" in done.stderr) == told


@pytest.mark.parametrize("name", ["eval", "train"])
def test_help_names_the_manual_of_data_sets(name: str) -> None:
    assert "docs/data.md" in CliRunner().invoke(cli, [name, "--help"]).stdout
