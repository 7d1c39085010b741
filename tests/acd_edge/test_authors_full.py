"""The whole way at full size: seeded ViT-L/14@336 and adapters through `convert`, `export --fp32` and `run`.

Text features, map and score must lie within 1e-5 of the oracle's, at 518 pixels, for N = 2, 3, 4 and both domains, on a
picture of the model's size and on a larger one. Weights of two scales, since rounding grows with them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from acd_edge.checkpoint import load_checkpoint
from acd_edge.cli import cli
from acd_edge.config import DOMAINS
from acd_edge.model import AcdClip
from acd_edge.model.weights import tokenizer_for
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.preprocess import resize
from acd_edge.runtime.prompts import DEFAULT_PROMPTS, product_features
from tests.oracle import VIT_L_14_336, Oracle, Pixels, Regime, seeded_adapter, seeded_clip, seeded_picture, sentences

pytestmark = pytest.mark.heavy

SIZE, TOLERANCE = 518, 1e-5
WORDS = "metal nut which has four notched edges"
CASES: list[tuple[int, Regime]] = [(2, "initial"), (3, "initial"), (4, "initial"), (3, "trained")]


@cache
def pictures() -> dict[str, Pixels]:
    return {"square": seeded_picture(SIZE, SIZE, 3), "larger": seeded_picture(900, 1300, 4)}


@pytest.fixture(scope="module")
def clip_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One file of CLIP weights a regime, 1.7 GB each, made when first asked for and removed at the end."""
    folder = tmp_path_factory.mktemp("clip")

    class Files(dict[str, Path]):
        def __missing__(self, regime: str) -> Path:
            for old in self.values():
                old.unlink(missing_ok=True)
            self.clear()
            torch.save(seeded_clip(VIT_L_14_336, 11, "trained" if regime == "trained" else "initial"), folder / regime)
            self[regime] = folder / regime
            return self[regime]

    yield Files()
    shutil.rmtree(folder)


class Case:
    """A converted checkpoint, and what the oracle says of it."""

    def __init__(self, folder: Path, clip: Path, groups: int) -> None:
        self.folder, self.clip = folder, clip
        adapter = seeded_adapter(VIT_L_14_336, groups, groups)
        torch.save(adapter, folder / "adapter.pth")
        acd_edge("convert", folder / "adapter.pth", "--clip-weights", clip, "-o", folder / "ckpt", "--size", SIZE)
        self.oracle = Oracle(torch.load(clip, weights_only=True, mmap=True), adapter, size=SIZE)
        prompts, states = sentences(WORDS)
        self.text = self.oracle.text_features(open_clip.tokenize(prompts), states)
        self.levels = {name: self.oracle.levels(self.oracle.pixels(image)) for name, image in pictures().items()}

    def expected(self, name: str, domain: str) -> tuple[Tensor, Tensor, Tensor]:
        """Map, class score and score of a picture."""
        self.oracle.medical = domain == "medical"
        return self.oracle.decode(*self.levels[name], self.text)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"N{case[0]}-{case[1]}")
def case(
    request: pytest.FixtureRequest, clip_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    groups, regime = request.param
    folder = tmp_path_factory.mktemp("case")
    yield Case(folder, clip_files[regime], groups)
    shutil.rmtree(folder)


def acd_edge(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def apart(one: Tensor | np.ndarray[Any, Any], other: Tensor) -> float:
    assert tuple(one.shape) == tuple(other.shape)
    return float((torch.as_tensor(one) - other).abs().max())


@torch.no_grad()
def text_features(model: AcdClip) -> Tensor:
    tokenizer = tokenizer_for(model.config)
    states = []
    for prompts in DEFAULT_PROMPTS.sentences(WORDS):
        ids, mask = map(torch.from_numpy, tokenizer(prompts))
        states.append(model.encode_prompts(ids, mask).numpy())
    return torch.from_numpy(product_features(*states))


def test_torch_model(case: Case) -> None:
    model = load_checkpoint(case.folder / "ckpt")
    ours = text_features(model)
    assert apart(ours, case.text.transpose(1, 2)) < TOLERANCE
    assert apart(ours.flip(1), case.text.transpose(1, 2)) > 100 * TOLERANCE  # control: the states swapped
    pixels = torch.from_numpy(resize(pictures()["larger"], SIZE).copy()).unsqueeze(0)
    with torch.no_grad():
        levels = model.encode_image(model.normalise(pixels))
        for domain in DOMAINS:
            model.config = model.config.with_(domain=domain)
            found = model.decode(levels, ours.unsqueeze(0))
            anomaly_map, class_score, _ = case.expected("larger", domain)
            assert apart(found.anomaly_map, anomaly_map) < TOLERANCE
            assert apart(found.class_score, class_score) < TOLERANCE
        assert apart(found.anomaly_map, case.expected("square", domain)[0]) > 100 * TOLERANCE  # control


@pytest.mark.parametrize("domain", DOMAINS)
def test_command_lines(case: Case, domain: str, tmp_path: Path) -> None:
    for name, image in pictures().items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    bundle = tmp_path / "bundle"
    acd_edge("export", case.folder / "ckpt", "--fp32", "--domain", domain, "--product", f"nut={WORDS}", "-o", bundle)
    opened = Bundle.open(bundle)
    assert apart(opened.text_features["nut"], case.text.transpose(1, 2)) < TOLERANCE
    opened.close()
    written = acd_edge(
        *("run", tmp_path / "square.png", tmp_path / "larger.png", "--bundle", bundle, "--product", "nut"),
        *("--json", "--save", tmp_path / "out", "--save-map"),
    )
    frames = {Path(frame["source"]).stem: frame for frame in map(json.loads, written.splitlines())}
    for name, image in pictures().items():
        anomaly_map, _, score = case.expected(name, domain)
        assert abs(frames[name]["score"] - float(score)) < TOLERANCE
        saved = np.load(tmp_path / "out" / f"{name}.npy")
        assert saved.shape == image.shape[:2]
        theirs = np.asarray(
            Image.fromarray(anomaly_map[0].numpy()).resize(saved.shape[::-1], Image.Resampling.BILINEAR)
        )
        assert float(np.abs(saved - theirs).max()) < TOLERANCE
        other = case.expected(name, "industrial" if domain == "medical" else "medical")
        assert abs(frames[name]["score"] - float(other[2])) > 10 * TOLERANCE  # control: the other domain's mix
    shutil.rmtree(bundle)
