"""`acd-edge eval` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from acd_edge.cli import cli
from tests.picture_trees import write_category, write_good
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A data set of one category."""
    write_category(tmp_path / "set" / "metal_nut")
    write_good(tmp_path / "set" / "metal_nut", "test", "001", 220)
    return tmp_path / "set"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that finds white anomalous, industrial."""
    return write_tiny_bundle(tmp_path / "bundle")


def acd_edge(*words: object) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, words)])


def test_table_shows_per_cent_and_progress_goes_to_stderr(bundle: Path, tree: Path) -> None:
    done = acd_edge(bundle, "--data", tree)
    assert done.exit_code == 0, done.stderr
    head, row, size = done.stdout.splitlines()
    assert head.split()[:4] == ["category", "product", "good", "defective"]
    assert row.split() == ["metal_nut", "metal", "nut", "2", "2", *row.split()[-4:]]
    assert row.split()[-2:] == ["75.00", "83.33"]
    assert "56 x 56" in size
    assert "4/4 pictures" in done.stderr


def test_json_is_all_there_is_on_stdout(bundle: Path, tree: Path) -> None:
    write_category(tree / "plate")
    done = acd_edge(
        bundle, "--data", tree / "metal_nut", "--data", tree / "plate", "--product", "plate=object", "--json"
    )
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["categories"]) == ["metal_nut", "plate"]
    assert found["categories"]["plate"]["words"] == "object"
    assert found["categories"]["metal_nut"]["image_auroc"] == 0.75
    assert found["mean"]["image_auroc"] == 0.875
    assert (found["domain"], found["size"], found["model"]) == ("industrial", 56, str(bundle))


def test_list_is_read_relative_to_root(bundle: Path, tree: Path, tmp_path: Path) -> None:
    rows = [
        {"image_path": f"metal_nut/test/{kind}/000.png", "label": int(kind == "dent"), "class_name": "metal_nut"}
        for kind in ("good", "dent")
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = acd_edge(bundle, "--data", tmp_path / "list.jsonl", "--root", tree, "--json")
    figures = json.loads(done.stdout)["categories"]["metal_nut"]
    assert (figures["image_auroc"], figures["pixel_auroc"]) == (1.0, None)
    assert acd_edge(bundle, "--data", tmp_path / "list.jsonl").exit_code == 1


def test_bundle_of_the_other_domain_needs_a_word(tree: Path, tmp_path: Path) -> None:
    medical = write_tiny_bundle(tmp_path / "medical", domain="medical")
    refused = acd_edge(medical, "--data", tree)
    assert refused.exit_code == 2
    assert "exported for medical pictures, the data are industrial" in refused.stderr
    assert refused.stdout == ""
    for words in (("--domain", "medical"), ("--bundle-domain",)):
        done = acd_edge(medical, "--data", tree, "--json", *words)
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["domain"] == "medical"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["{bundle}", "--data", "{tmp}/gone"], 1, "no data set at {tmp}/gone"),
        (["{tmp}/gone", "--data", "{tree}"], 1, "no checkpoint and no bundle at {tmp}/gone"),
        (["{tree}", "--data", "{tree}"], 1, "{tree} is neither a bundle"),
        (["{bundle}", "--data", "{tree}", "--product", "screw=bolt"], 1, "screw is no category"),
        (["{bundle}", "--data", "{tree}", "--product", "metal_nut=pipe"], 1, "no text encoder"),
        (["{bundle}", "--data", "{tree}", "--size", "28"], 2, "--size are for checkpoints"),
        (["{bundle}"], 2, "--data"),
    ],
)
def test_refusals_are_one_line(
    bundle: Path, tree: Path, tmp_path: Path, words: list[str], status: int, message: str
) -> None:
    places = {"bundle": bundle, "tree": tree, "tmp": tmp_path}
    done = acd_edge(*(word.format(**places) for word in words))
    assert done.exit_code == status
    assert message.format(**places) in done.stderr
    assert done.stdout == ""


def test_bundle_is_measured_without_torch(bundle: Path, tree: Path) -> None:
    block = "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'timm', 'open_clip'])); "
    call = f"from acd_edge.cli import cli; cli(['eval', {str(bundle)!r}, '--data', {str(tree)!r}, '--json'])"
    done = subprocess.run([sys.executable, "-c", block + call], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["categories"]["metal_nut"]["image_auroc"] == 0.75


def test_checkpoint_is_measured_in_the_domain_of_the_data(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from acd_edge.config import ModelConfig
    from tests.acd_edge.test_evaluate import LetterTokenizer
    from tests.tiny_model import TINY_SIZE, tiny_model

    def load(path: Path, *, size: int | None, clip_weights: Path | None) -> object:
        assert (path, clip_weights) == (tmp_path / "checkpoint", None)
        torch.manual_seed(0)
        return tiny_model(ModelConfig(preset="reference", size=size or TINY_SIZE, groups=3, domain="medical"))

    monkeypatch.setattr("acd_edge.checkpoint.load_checkpoint", load)
    monkeypatch.setattr("acd_edge.model.weights.tokenizer_for", lambda config: LetterTokenizer())
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    found = []
    for words in ((), ("--domain", "medical"), ("--size", "56")):
        done = acd_edge(tmp_path / "checkpoint", "--data", tree, "--json", *words)
        assert done.exit_code == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert [(each["domain"], each["size"]) for each in found] == [
        ("industrial", TINY_SIZE),
        ("medical", TINY_SIZE),
        ("industrial", 56),
    ]
    assert len({each["mean"]["pixel_auroc"] for each in found}) == 3
    refused = acd_edge(tmp_path / "checkpoint", "--data", tree, "--bundle-domain")
    assert refused.exit_code == 2
    assert "is for bundles" in refused.stderr
