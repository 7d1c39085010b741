"""`acd-edge eval` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from acd_edge.cli import cli
from tests.picture_trees import fill_12_bits, write_category, write_good
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
    groups, head, row, note = done.stdout.splitlines()
    pixel = ["AUROC", "AP", "AUPRO", "F1-max"]
    assert groups.split()[1::3] == ["pixel", "image"]
    assert head.split() == [
        "category",
        "product",
        "good",
        "defective",
        *pixel,
        *(title for title in pixel if title != "AUPRO"),
    ]
    assert row.split()[:5] == ["metal_nut", "metal", "nut", "2", "2"]
    assert row.split()[-3:] == ["75.00", "83.33", "80.00"]
    assert note == "per cent, at 56 x 56 pixels"
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
    assert (found["backend"], found["at"], found["patch"], found["failed"]) == ("onnxruntime", "model", None, [])
    assert set(found["bounds"].values()) == {0}


def test_pictures_of_a_camera_with_12_bits_are_read_as_run_reads_them(bundle: Path, tree: Path) -> None:
    write_good(tree / "metal_nut", "test", "001", 198)  # next to the dent's 200: sixteen times darker they are one

    def found(*words: object) -> dict[str, Any]:
        done = acd_edge(bundle, "--data", tree, "--json", *words)
        assert done.exit_code == 0, done.stderr
        values: dict[str, Any] = json.loads(done.stdout)
        return values

    whole = found()
    assert (whole["bit_depth"], whole["mean"]["image_auroc"]) == (16, 1)
    fill_12_bits(tree)
    told = found("--bit-depth", 12)
    assert told["bit_depth"] == 12
    assert told["mean"] == whole["mean"]
    assert found()["mean"]["image_auroc"] < 1  # the control
    fewer = acd_edge(bundle, "--data", tree, "--bit-depth", 10)
    assert fewer.exit_code == 1
    assert "more than 10 bits" in fewer.stderr


def test_ceiling_and_native_are_asked_for(bundle: Path, tree: Path) -> None:
    plain = json.loads(acd_edge(bundle, "--data", tree, "--json").stdout)
    found = json.loads(acd_edge(bundle, "--data", tree, "--json", "--at", "native", "--ceiling").stdout)
    assert (found["at"], found["patch"]) == ("native", 14)
    assert plain["mean"]["pixel_ap_ceiling"] is None
    assert 0 < found["mean"]["pixel_ap_ceiling"] < 1
    shown = acd_edge(bundle, "--data", tree, "--at", "native", "--ceiling").stdout
    assert shown.splitlines()[2].split()[-1] == f"{100 * found['mean']['pixel_ap_ceiling']:.2f}"
    assert "enlarged to each picture's own size" in shown
    assert "the truth averaged over patches of 14 pixels" in shown


def test_a_broken_picture_is_listed_and_the_status_is_1(bundle: Path, tree: Path, tmp_path: Path) -> None:
    whole = acd_edge(bundle, "--data", tree).stdout
    write_good(tree / "metal_nut", "test", "002")
    broken = tree / "metal_nut/test/good/002.png"
    broken.write_bytes(broken.read_bytes()[:50])
    done = acd_edge(bundle, "--data", tree, "--html", tmp_path / "page.html")
    assert done.exit_code == 1
    assert done.stdout == f"{whole}not measured: {broken}\n"
    assert done.stderr.count("Error: ") == 1
    assert f"Error: cannot read {broken}" in done.stderr
    assert str(broken) in (tmp_path / "page.html").read_text()
    found = json.loads(acd_edge(bundle, "--data", tree, "--json").stdout)
    assert [failure["picture"] for failure in found["failed"]] == [str(broken)]


def test_nothing_that_can_be_read_is_one_line(bundle: Path, tree: Path) -> None:
    for broken in (tree / "metal_nut/test").rglob("*.png"):
        broken.write_bytes(b"")
    done = acd_edge(bundle, "--data", tree)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "none of the 4 pictures could be measured" in done.stderr.splitlines()[-1]


def test_ctrl_c_says_what_was_done(bundle: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from acd_edge.runtime.detector import Detector

    write_category(tree / "plate")
    infer, calls = Detector.infer, iter(range(100))

    def interrupted(self: Detector, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return infer(self, pixels)

    monkeypatch.setattr(Detector, "infer", interrupted)
    done = acd_edge(
        *(bundle, "--data", tree, "--product", "plate=object"), *("--json", "--html", tmp_path / "page.html")
    )
    assert (done.exit_code, done.stdout) == (130, "")
    assert "stopped after 5 of 7 pictures, in plate; no report was written" in done.stderr
    assert "metal_nut was complete: pixel AUROC 7" in done.stderr
    assert done.stderr.splitlines()[-1] == "Interrupted"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_page_is_written_beside_the_table_and_not_replaced_unasked(bundle: Path, tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "page.html"
    done = acd_edge(bundle, "--data", tree, "--html", place)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == acd_edge(bundle, "--data", tree).stdout
    assert [path.name for path in place.parent.iterdir()] == ["page.html"]
    text = place.read_text()
    assert "bundle on set" in text
    assert text.count("<img ") == 2 * 4  # two defects, and both good pictures
    refused = acd_edge(bundle, "--data", tree, "--html", place)
    assert refused.exit_code == 1
    assert "exists already; add --force" in refused.stderr
    assert "pictures" not in refused.stderr  # told before the work
    assert acd_edge(bundle, "--data", tree, "--html", place, "--force").exit_code == 0


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
        (["{bundle}", "--data", "{tree}", "--domain", "medical", "--bundle-domain"], 2, "give one of them"),
        (["{bundle}", "--data", "{tree}", "--product", "screw=bolt"], 1, "screw is no category"),
        (["{bundle}", "--data", "{tree}", "--product", "metal_nut=pipe"], 1, "no text encoder"),
        (["{bundle}", "--data", "{tree}", "--size", "28"], 2, "--size are for checkpoints"),
        (["{bundle}"], 2, "--data"),
        (["{bundle}", "--data", "{tree}", "--force"], 2, "--force replaces a page"),
        (["{bundle}", "--data", "{tree}", "--html", "{tmp}"], 1, "{tmp} is a folder"),
        (["{bundle}", "--data", "{tree}", "--backend", "magic"], 2, "'magic' is not one of"),
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
    from acd_edge.data.zero_shot import TrainingRecord
    from tests.acd_edge.test_evaluate import LetterTokenizer
    from tests.tiny_model import TINY_SIZE, tiny_model

    def load(path: Path, *, size: int | None, clip_weights: Path | None) -> object:
        assert (path, clip_weights) == (tmp_path / "checkpoint", None)
        torch.manual_seed(0)
        return tiny_model(ModelConfig(preset="reference", size=size or TINY_SIZE, groups=3, domain="medical"))

    monkeypatch.setattr("acd_edge.checkpoint.load_checkpoint", load)
    monkeypatch.setattr("acd_edge.model.weights.tokenizer_for", lambda config: LetterTokenizer())
    monkeypatch.setattr("acd_edge.data.zero_shot.record_of_checkpoint", lambda path: TrainingRecord())
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
    for flags, message in (("--bundle-domain",), "is for bundles"), (("--backend", "onnxruntime"), "is a checkpoint"):
        refused = acd_edge(tmp_path / "checkpoint", "--data", tree, *flags)
        assert refused.exit_code == 2
        assert message in refused.stderr
