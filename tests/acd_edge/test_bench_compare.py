"""Two results side by side, and files that are none."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from acd_edge.bench.results import KIND, SCHEMA, read_result, write_json
from acd_edge.cli import cli
from acd_edge.errors import BenchError


def result(path: Path, *, seed: int = 1, slower: float = 1.0, frames: int = 120, **changes: Any) -> Path:
    """A result of so many frames around 10 ms, of which 6 are inference."""
    rng = np.random.default_rng(seed)
    infer, decode = 6 * slower * rng.lognormal(0, 0.02, frames), 4 * rng.lognormal(0, 0.02, frames)
    samples = {"decode": decode, "infer": infer, "other": decode * 0, "end_to_end": infer + decode}
    values: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "subject": {"graph_sha256": "1f", "size": 420, "precision": "fp16", "backend": "onnxruntime", "threads": 2},
        "machine": {"cpu": "made", "usable_cores": 2, "gpu": None, "jetson": None},
        "state_after": {"power_mode": None, "clocks_locked": None},
        "versions": {"onnxruntime": "1.20"},
        "source": "made pictures",
        "ending": "complete",
        "throttled": [],
        "samples_ms": {name: [round(float(value), 4) for value in column] for name, column in samples.items()},
    }
    path.write_text(json.dumps(values | changes))
    return path


def compare(*args: object) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, args)])


def test_a_slower_inference_is_found_in_its_row_and_in_the_whole(tmp_path: Path) -> None:
    a, b = result(tmp_path / "a.json"), result(tmp_path / "b.json", seed=2, slower=1.1)
    found = compare(a, b, "--json")
    assert (found.exit_code, found.stderr) == (0, "")
    values = json.loads(found.stdout)
    assert values["warnings"] == []
    rows = values["rows"]
    assert set(rows) == {"decode", "infer", "end_to_end"}  # the rest is nothing that one would change
    assert rows["infer"]["ratio"]["low"] < 1.1 < rows["infer"]["ratio"]["high"]
    assert rows["infer"]["verdict"].endswith("% slower")
    assert rows["end_to_end"]["ratio"]["value"] == pytest.approx(1.06, abs=0.01)
    assert (rows["decode"]["differs"], rows["decode"]["verdict"]) == (False, "no difference")
    shown = compare(a, b).stdout
    assert "B is " in shown
    assert "test: Mann-Whitney" in shown
    assert "warning" not in shown


def test_the_other_way_round_is_faster(tmp_path: Path) -> None:
    a, b = result(tmp_path / "a.json", slower=1.1), result(tmp_path / "b.json", seed=2)
    assert json.loads(compare(a, b, "--json").stdout)["rows"]["infer"]["verdict"].endswith("% faster")


def test_a_against_a_is_no_difference(tmp_path: Path) -> None:
    a = result(tmp_path / "a.json")
    found = compare(a, a)
    assert found.exit_code == 0
    assert found.stdout.count("no difference") == 3
    assert "warning: A and B are the same measurement" in found.stdout


def test_two_runs_of_one_thing_are_no_difference(tmp_path: Path) -> None:
    found = compare(result(tmp_path / "a.json"), result(tmp_path / "b.json", seed=3))
    assert found.stdout.count("no difference") == 3
    assert "warning" not in found.stdout


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    a = result(tmp_path / "a.json")
    b = result(
        tmp_path / "b.json", seed=2, frames=12,
        machine={"cpu": "another", "usable_cores": 2, "gpu": None, "jetson": {"model": "Orin", "l4t": "36.4.3"}},
        subject={"graph_sha256": "2e", "size": 420, "precision": "fp32", "backend": "tensorrt (fp16)", "threads": None},
        state_after={"power_mode": {"name": "15W"}, "clocks_locked": None}, versions={"onnxruntime": "1.21"},
        throttled=["5 events of oc3"], ending="interrupted",
    )  # fmt: skip
    warnings = json.loads(compare(a, b, "--json").stdout)["warnings"]
    assert warnings == [
        "the processor differs: made and another",
        "the Jetson differs: none and Orin",
        "the release of Jetson Linux differs: none and 36.4.3",
        "the power mode differs: none and 15W",
        "the graph differs: 1f and 2e",
        "the precision differs: fp16 and fp32",
        "the backend differs: onnxruntime and tensorrt (fp16)",
        "the number of threads differs: 2 and none",
        "the version of onnxruntime differs: 1.20 and 1.21",
        "B is not complete: interrupted",
        "B was throttled: 5 events of oc3",
        "B has only 12 frames",
    ]


def test_a_stage_that_should_not_change_and_does_is_told(tmp_path: Path) -> None:
    """Decoding knows nothing of what runs the graph: where it differs too, the machine was not the same."""
    a, b = result(tmp_path / "a.json"), result(tmp_path / "b.json", seed=2)
    values = json.loads(b.read_text())
    values["samples_ms"]["decode"] = [1.3 * value for value in values["samples_ms"]["decode"]]
    values["machine"]["load_before"] = 9.5
    b.write_text(json.dumps(values))
    warnings = json.loads(compare(a, b, "--json").stdout)["warnings"]
    assert warnings[0] == "B was measured beside other programs (load 9.5 on 2 cores)"
    assert warnings[1].startswith("decode should cost the same in both and differs: the machine itself changed")
    b.write_text(json.dumps(values | {"source": "another"}))
    assert not any("should cost the same" in each for each in json.loads(compare(a, b, "--json").stdout)["warnings"])


@pytest.mark.parametrize(("frames", "told"), [(3, True), (40, False)])
def test_too_few_frames_for_any_difference_are_told(tmp_path: Path, frames: int, told: bool) -> None:
    """Of three and three the most extreme choice is one of twenty, on either side: p is never below 0.1."""
    a = result(tmp_path / "a.json", frames=frames)
    b = result(tmp_path / "b.json", seed=2, frames=frames, slower=9)
    values = json.loads(compare(a, b, "--json").stdout)
    words = "A has 3 and B 3 independent blocks (of 1): too few for any difference to show"
    assert any(each.startswith(words) for each in values["warnings"]) is told
    assert values["rows"]["end_to_end"]["differs"] is not told
    assert (values["rows"]["end_to_end"]["verdict"] == "too few frames") is told


def test_the_comparison_can_be_kept(tmp_path: Path) -> None:
    a, b = result(tmp_path / "a.json"), result(tmp_path / "b.json", seed=2)
    found = compare(a, b, "--json", tmp_path / "c.json")
    assert found.exit_code == 0
    assert "B / A" in found.stdout
    assert "rows" in json.loads((tmp_path / "c.json").read_text())
    assert "add --force" in compare(a, b, "--json", tmp_path / "c.json").stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        ("", "is no JSON"),
        ("[1]", "is no result of acd-edge bench"),
        ('{"kind": "another"}', "is no result of acd-edge bench"),
        ('{"kind": "acd-edge bench", "schema": 9}', "has schema 9, this acd-edge reads 1"),
        ('{"kind": "acd-edge bench", "schema": 1}', "holds no times of single frames"),
        ('{"kind": "acd-edge bench", "schema": 1, "samples_ms": {"end_to_end": [1, 2], "x": [1, 2]}}', "or unknown"),
        ('{"kind": "acd-edge bench", "schema": 1, "samples_ms": {"end_to_end": [1, "2"]}}', "a time that is no number"),
        ('{"kind": "acd-edge bench", "schema": 1, "samples_ms": {"end_to_end": [1, NaN]}}', "a time that is no number"),
        (
            f'{{"kind": "acd-edge bench", "schema": 1, "samples_ms": {{"end_to_end": [1, 1{"0" * 400}]}}}}',
            "a time that is no number",
        ),
        ('{"kind": "acd-edge bench", "schema": 1, "samples_ms": {"end_to_end": [1]}}', "too few frames"),
        ('{"kind": "acd-edge bench", "schema": 1, "samples_ms": {"end_to_end": [0, 1]}}', "too few frames"),
        (
            '{"kind": "acd-edge bench", "schema": 1, "samples_ms": {"end_to_end": [1, 2], "infer": [1]}}',
            "do not fit together",
        ),
    ],
)
def test_a_file_that_is_no_result(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BenchError, match=words):
        read_result(path)
    found = compare(result(tmp_path / "a.json"), path)
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (1, "", 1)


def test_long_facts_are_cut_and_can_be_told_apart(tmp_path: Path) -> None:
    """Of a digest its beginning serves; words are cut where they are many."""
    words, digest = "8 made pictures, 1920 x 1080 JPEG (quality 90), decoded from memory each time", "1f" * 32
    a = result(tmp_path / "a.json", source=words, subject={"graph_sha256": digest})
    b = result(tmp_path / "b.json", seed=2, source="shots " * 40, subject={"graph_sha256": "2e" * 32})
    told = compare(a, b).stdout
    assert f"warning: the source differs: {words} and {('shots ' * 40)[:97].rstrip()}...\n" in told
    assert "warning: the graph differs: 1f1f1f1f1f1f... and 2e2e2e2e2e2e...\n" in told


def test_facts_of_a_strange_kind_are_told_on_one_line_each(tmp_path: Path) -> None:
    """A result may come from elsewhere: what it says neither breaks the program nor steers the terminal."""
    odd: dict[str, Any] = {
        "throttled": 5,
        "ending": "\x1b[31mred\nError: b",
        "machine": [1],
        "versions": {"\x1b[2J": {"a": 1}},
    }
    found = compare(result(tmp_path / "a.json"), result(tmp_path / "b.json", seed=2, **odd))
    assert found.exit_code == 0
    assert "\x1b" not in found.stdout
    assert "warning: B is not complete: ?[31mred Error: b\n" in found.stdout
    assert "warning: B was throttled: 5\n" in found.stdout


def test_two_write_one_place_at_once_and_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """Each writes beside the place under a name of its own, and nothing of that stays."""
    path, other = tmp_path / "a.json", tmp_path / "other"
    other.write_text("mine")
    (tmp_path / ".a.json.part").symlink_to(other)
    writers = [threading.Thread(target=write_json, args=(path, {"x": [n] * 50_000})) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    values = json.loads(path.read_text())["x"]
    assert (len(values), len(set(values))) == (50_000, 1)
    assert {each.name for each in tmp_path.iterdir()} == {"a.json", "other", ".a.json.part"}
    assert other.read_text() == "mine"


def test_deep_json_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(BenchError):
        read_result(tmp_path / "x.json")


def test_results_are_compared_in_twos_and_without_flags_of_measuring(tmp_path: Path) -> None:
    a = result(tmp_path / "a.json")
    for args, words in (
        ([a], "two results are compared, both .json; got"),
        ([a, a, a], "two results are compared"),
        ([a, tmp_path], "two results are compared"),
        ([a, a, "--frames", 3], "--frames has no use in comparing two results"),
        ([a, a, "--backend", "onnxruntime"], "--backend has no use in comparing two results"),
        ([a, a, "--plot", "x.svg"], "--plot has no use in comparing two results"),
    ):
        found = compare(*args)
        assert (found.exit_code, words in found.stderr) == (2, True), found.stderr
