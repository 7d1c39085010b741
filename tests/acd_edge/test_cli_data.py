"""`acd-edge data check` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.cli import cli
from acd_edge.cli.data import Progress
from tests.picture_trees import write_category
from tests.published_trees import PUBLISHED, mask, picture, write_brain, write_mvtec_ad, write_polyps, write_visa


def check(*words: object) -> Result:
    return CliRunner().invoke(cli, ["data", "check", *map(str, words)])


@pytest.mark.parametrize("folder", PUBLISHED)
def test_a_whole_set_has_nothing_to_mend(folder: str, tmp_path: Path) -> None:
    name, layout, write = PUBLISHED[folder]
    done = check(write(tmp_path / folder), "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["data_set"], found["layout"], found["findings"]) == (name, layout, [])
    assert all("pixel" in row["metrics"] for row in found["categories"].values())


def test_table_shows_what_a_set_holds(tmp_path: Path) -> None:
    done = check(write_brain(tmp_path / "Brain_AD"))
    assert done.exit_code == 0
    title, head, row = done.stdout.splitlines()
    assert title == "BMAD BrainMRI: data set brain_mri, layout bmad, medical"
    assert head.split("  ")[0] == "category"
    assert head.split()[2:] == "train good train bad valid good valid bad test good test bad metrics".split()  # noqa: SIM905
    assert row.split() == ["brain_mri", "brain", "scan", "1", "0", "1", "1", "1", "1", "pixel,", "image"]
    assert "5/5 pictures read" in done.stderr


def test_metrics_are_those_that_apply(tmp_path: Path) -> None:
    """No good pictures: pixel figures only; no masks: image figures only."""
    write_category(tmp_path / "set" / "nut")
    for path in (tmp_path / "set" / "nut" / "ground_truth").rglob("*.png"):
        path.unlink()
    for path in sorted((tmp_path / "set" / "nut" / "ground_truth").rglob("*"), reverse=True):
        path.rmdir()
    (tmp_path / "set" / "nut" / "ground_truth").rmdir()
    for folder, want in ((write_polyps(tmp_path / "Kvasir"), ["pixel"]), (tmp_path / "set", ["image"])):
        rows = json.loads(check(folder, "--json").stdout)["categories"]
        assert [row["metrics"] for row in rows.values()] == [want]


def _gone(path: Path) -> None:
    path.unlink()


def _larger(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((image.width + 1, image.height)).save(path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _blank(path: Path) -> None:
    with Image.open(path) as image:
        Image.new("L", image.size).save(path)


SPOILT = {
    "metal_nut/ground_truth/crack/000_mask.png": (_gone, "missing mask"),
    "bottle/ground_truth/crack/000_mask.png": (_larger, "size mismatch"),
    "zipper/ground_truth/crack/000_mask.png": (_blank, "empty mask"),
    "zipper/train/good/001.png": (_cut, "unreadable"),
    "zipper/test/good/000.png": (_gone, "empty class"),
}


def test_every_finding_is_named_with_its_path(tmp_path: Path) -> None:
    """All of them in one run, in the table and in JSON."""
    folder = write_mvtec_ad(tmp_path / "mvtec")
    for name, (spoil, _) in SPOILT.items():
        spoil(folder / name)
    done = check(folder)
    assert done.exit_code == 1
    assert "Error:" in done.stderr
    assert "5 things to mend" in done.stderr
    found = json.loads(check(folder, "--json").stdout)["findings"]
    assert {each["kind"] for each in found} == {kind for _, kind in SPOILT.values()}
    assert len(found) == len(SPOILT)
    for name, (_, kind) in SPOILT.items():
        place = folder / name if kind != "empty class" else (folder / name).parent
        assert [each["kind"] for each in found if each["path"] == str(place)] == [kind]
        assert [line for line in done.stdout.splitlines() if line.startswith(f"{kind}: ") and str(place) in line]


def _spoil_visa(folder: Path) -> str:
    picture_gone, mask_gone = "candle/Data/Images/Normal/0002.JPG", "pcb1/Data/Masks/Anomaly/000.png"
    (folder / picture_gone).unlink()
    (folder / mask_gone).unlink()
    return f"missing picture|{picture_gone}|missing mask|{mask_gone}|candle of VisA has no good picture"


def _spoil_list(folder: Path) -> str:
    rows = ["{", json.dumps({"image_path": "gone.png", "label": 0, "class_name": "nut"})]
    rows.append(json.dumps({"image_path": "there.png", "label": 1, "class_name": "nut", "mask_path": "no.png"}))
    picture(folder / "there.png")
    (folder / "list.jsonl").write_text("\n".join(rows))
    return "bad list|list.jsonl:1 is not JSON|missing picture|gone.png|missing mask|no.png"


@pytest.mark.parametrize(
    ("write", "spoil", "inner"),
    [
        (write_visa, _spoil_visa, ""),
        (lambda path: path.mkdir() or path, _spoil_list, "list.jsonl"),
    ],
)
def test_lists_name_what_they_miss(
    write: Callable[[Path], Path], spoil: Callable[[Path], str], inner: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "VisA")
    wanted = spoil(folder)
    done = check(folder / inner)
    assert done.exit_code == 1
    for part in wanted.split("|"):
        assert part in done.stdout


def test_a_class_without_pictures_is_named(tmp_path: Path) -> None:
    folder = write_brain(tmp_path / "Brain_AD")
    for path in (folder / "BraTS2021_slice" / "test" / "Ungood" / "img").iterdir():
        path.unlink()
    done = check(folder)
    assert done.exit_code == 1
    assert f"empty class: {folder / 'BraTS2021_slice' / 'test' / 'Ungood' / 'img'} holds no picture" in done.stdout
    assert done.stdout.count("empty class") == 1


def test_what_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "gone"):
        done = check(place)
        assert (done.exit_code, done.stdout) == (1, "")
        assert str(place) in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_layout_and_root_reach_the_loader(tmp_path: Path) -> None:
    folder = write_polyps(tmp_path / "some" / "polyps")
    assert check(folder).exit_code == 1
    assert "cvc_colondb" in check(folder, "--layout", "cvc_colondb").stdout
    (tmp_path / "list.jsonl").write_text(
        json.dumps({"image_path": "images/1.png", "label": 1, "class_name": "x", "mask_path": "masks/1.png"})
    )
    done = check(tmp_path / "list.jsonl", "--root", folder, "--layout", "kvasir")
    assert done.exit_code == 0
    assert "Kvasir: data set kvasir, layout jsonl, medical" in done.stdout


def test_mask_of_class_numbers_is_not_empty(tmp_path: Path) -> None:
    folder = write_polyps(tmp_path / "Kvasir")
    mask(folder / "masks" / "1.png", 1)
    assert check(folder).exit_code == 0


def test_time_left_leaves_out_what_came_before_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([40.0, 41.0, 46.0])  # after 40 seconds in which a model was read
    monkeypatch.setattr("acd_edge.cli.data.time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = Progress("pictures read", at_end=False)
    for done in (1, 2, 7):
        progress(done, 107)
    assert capsys.readouterr().err == "7/107 pictures read, about 100 s left\n"
