"""Conversion and model against the oracle: a checkpoint in the authors' format gives the authors' numbers.

Small towers with the real ones' every part run here in seconds, for each N and both domains; the full ViT-L/14 at 518
pixels is in `test_authors_full.py`. The tolerance is the 1e-5 that is promised for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from acd_edge.checkpoint import load_checkpoint, read_info
from acd_edge.cli import cli
from acd_edge.config import DOMAINS, Domain
from acd_edge.model import AcdClip
from acd_edge.model.weights import tokenizer_for
from acd_edge.runtime.preprocess import resize
from acd_edge.runtime.prompts import DEFAULT_PROMPTS, product_features
from tests.oracle import SMALL, Oracle, Weights, seeded_adapter, seeded_clip, seeded_picture, sentences

SIZE, WORDS, TOLERANCE = 126, "metal nut which has four notched edges", 1e-5
NAME = "acd-edge-small"


@cache
def clip() -> Weights:
    return seeded_clip(SMALL, 0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of small CLIP weights, whose architecture open_clip knows during the test."""
    folder = tmp_path_factory.mktemp("clip")
    config = folder / f"{NAME}.json"
    config.write_text(json.dumps(SMALL.open_clip_config()))
    open_clip.add_model_config(config)
    torch.save(clip(), folder / "clip.pt")
    yield folder / "clip.pt"
    config.unlink()
    open_clip.factory._rescan_model_configs()


@pytest.fixture(scope="module")
def model_of_two(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> AcdClip:
    return load_checkpoint(convert(tmp_path_factory.mktemp("two"), weights, 2))


def convert(folder: Path, weights: Path, groups: int, *more: str) -> Path:
    """Run the command on a seeded adapter; the checkpoint that it wrote."""
    torch.save(seeded_adapter(SMALL, groups, groups), folder / "adapter.pth")
    arguments = [str(folder / "adapter.pth"), "--clip-weights", str(weights), "-o", str(folder / "ckpt")]
    arguments += ["--backbone", f"clip:{NAME}", "--size", str(SIZE), *more]
    result = CliRunner().invoke(cli, ["convert", *arguments])
    assert result.exit_code == 0, result.output
    return folder / "ckpt"


def text_features(model: AcdClip) -> torch.Tensor:
    """(N, 2, D) of the product, by our prompts, tokenizer and towers."""
    tokenizer = tokenizer_for(model.config)
    states = []
    for prompts in DEFAULT_PROMPTS.sentences(WORDS):
        ids, mask = map(torch.from_numpy, tokenizer(prompts))
        states.append(model.encode_prompts(ids, mask).numpy())
    return torch.from_numpy(product_features(*states))


def theirs(oracle: Oracle, picture: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Text features (N, 2, D), map and class score of the oracle."""
    prompts, states = sentences(WORDS)
    text = oracle.text_features(open_clip.tokenize(prompts), states)
    anomaly_map, class_score, score = oracle.predict(picture, text)
    return text.transpose(1, 2), anomaly_map, class_score, score


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


@pytest.mark.parametrize(
    ("groups", "domain"),
    [*product((2, 3, 4), DOMAINS), (1, "industrial"), (6, "industrial"), (12, "medical")],
)
def test_equals_oracle(tmp_path: Path, weights: Path, groups: int, domain: Domain) -> None:
    model = load_checkpoint(convert(tmp_path, weights, groups, "--domain", domain))
    picture = seeded_picture(150, 211, 1)
    oracle = Oracle(clip(), seeded_adapter(SMALL, groups, groups), size=SIZE, medical=domain == "medical")
    text, anomaly_map, class_score, score = theirs(oracle, picture)

    with torch.no_grad():
        ours = text_features(model)
        pixels = torch.from_numpy(resize(picture, SIZE).copy()).unsqueeze(0)
        prediction = model(model.normalise(pixels), ours.unsqueeze(0))
    assert apart(ours, text) < TOLERANCE
    assert apart(prediction.anomaly_map, anomaly_map) < TOLERANCE
    assert apart(prediction.class_score, class_score) < TOLERANCE
    a, b = model.config.score_mix
    assert apart(a * prediction.class_score + b * prediction.anomaly_map.amax((1, 2)), score) < TOLERANCE
    # controls: the map is no flat field, and another domain's smoothing is seen
    assert float(anomaly_map.max() - anomaly_map.min()) > 100 * TOLERANCE
    oracle.medical = not oracle.medical
    assert apart(prediction.anomaly_map, theirs(oracle, picture)[1]) > 10 * TOLERANCE


@pytest.mark.parametrize(
    "part",
    [
        "image_adapter/lora_adapters.1.conv_lora_blocks.1.conv_lora_B.weight",
        "image_adapter/lora_adapters.0.fusion_conv.weight",
        "image_adapter/m_i_w.1.i_w",
        "image_adapter/vision_text_gate.0.2.bias",
        "image_adapter/det_layer_norms.1.weight",
        "text_adapter/lora_adapters.0.lora_A",
        "text_adapter/layer_norms.1.bias",
    ],
)
def test_every_adapter_part_counts(model_of_two: AcdClip, part: str) -> None:
    """Another tensor in the oracle is seen, so that none of the checkpoint is dropped or taken for another."""
    model, adapter = model_of_two, seeded_adapter(SMALL, 2, 2)
    half, name = part.split("/")
    noise = torch.randn(adapter[half][name].shape, generator=torch.Generator().manual_seed(5))
    adapter[half][name] = adapter[half][name] + noise * (adapter[half][name].std() + 0.3)
    picture = seeded_picture(SIZE, SIZE, 2)
    text, anomaly_map, class_score, _ = theirs(Oracle(clip(), adapter, size=SIZE), picture)
    with torch.no_grad():
        ours = text_features(model)
        prediction = model(model.normalise(torch.from_numpy(picture).unsqueeze(0)), ours.unsqueeze(0))
    differences = (
        apart(ours, text),
        apart(prediction.anomaly_map, anomaly_map),
        apart(prediction.class_score, class_score),
    )
    assert max(differences) > 3 * TOLERANCE


def test_settings_come_from_the_shapes(tmp_path: Path, weights: Path) -> None:
    torch.save(seeded_adapter(SMALL, 4, 0, rank=6, conv_rank=5, hidden=48), tmp_path / "other.pth")
    arguments = ["convert", str(tmp_path / "other.pth"), "--clip-weights", str(weights), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*arguments, "--backbone", f"clip:{NAME}", "--size", "70", "--domain", "medical"])
    assert result.exit_code == 0, result.output
    info = read_info(tmp_path / "out")
    config = info.config
    assert (config.groups, config.rank, config.conv_rank, config.kernels) == (4, 6, 5, (3, 5))
    assert (config.head_hidden, config.gate_hidden, config.alpha, config.conv_alpha) == (48, 48, 2.0, 2.0)
    assert (config.preset, config.domain, config.size, config.backbone) == ("reference", "medical", 70, f"clip:{NAME}")
    assert info.training["epoch"] == 7
    assert not info.embedded


def test_embedded_weights_need_no_file(tmp_path: Path, weights: Path) -> None:
    mine = tmp_path / "clip.safetensors"
    save_file({name: tensor.half() for name, tensor in torch.load(weights, weights_only=True).items()}, mine)
    checkpoint = convert(tmp_path, mine, 2, "--embed")
    with_file = load_checkpoint(checkpoint, clip_weights=None)
    mine.unlink()
    again = load_checkpoint(checkpoint, size=70)
    assert read_info(checkpoint).embedded
    weight = "vision.blocks.3.mlp.fc1.weight"
    assert torch.equal(again.get_parameter(weight), with_file.get_parameter(weight))
    assert again.vision.grid == 5
    assert with_file.vision.grid == 9  # both resized from the table as trained
    assert torch.equal(again.vision.positions, clip()["visual.positional_embedding"].half().float())


class Call:
    """Unpickled by a careless reader, it would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never be printed",)


ADAPTER_FAULTS = [
    ("missing", "lacks image_adapter.seg_proj.1.fc.2.bias"),
    ("unknown", "holds text_adapter.extra, which"),
    ("shape", "text_adapter.lora_adapters.0.lora_A has shape (64, 15), expected (64, 16)"),
    ("nan", "image_adapter.m_i_w.0.i_w holds NaN or infinity"),
    ("level", "holds image_adapter.m_i_w.7.i_w, which"),
    ("half", "an authors' checkpoint holds epoch, image_adapter and text_adapter"),
    ("more", "holds optimizer besides epoch"),
    ("pickle", "never unpickled here"),
    ("empty", "cannot be read as torch weights"),
    ("gone", "no authors' checkpoint at"),
]


@pytest.mark.parametrize(("fault", "message"), ADAPTER_FAULTS)
def test_bad_adapter_is_refused_by_name(tmp_path: Path, weights: Path, fault: str, message: str) -> None:
    content = seeded_adapter(SMALL, 2, 0)
    image, text = content["image_adapter"], content["text_adapter"]
    if fault == "missing":
        del image["seg_proj.1.fc.2.bias"]
    elif fault == "unknown":
        text["extra"] = torch.zeros(1)
    elif fault == "shape":
        text["lora_adapters.0.lora_A"] = text["lora_adapters.0.lora_A"][:, :15]
    elif fault == "nan":
        image["m_i_w.0.i_w"][0, 0, 3] = float("nan")
    elif fault == "level":
        image["m_i_w.7.i_w"] = torch.zeros(1, 1, SMALL.width)
    elif fault == "half":
        del content["text_adapter"]
    elif fault == "more":
        content["optimizer"] = {"lr": 1.0}
    elif fault == "pickle":
        content["epoch"] = Call()
    path = tmp_path / "bad.pth"
    if fault == "empty":
        path.write_bytes(b"")
    elif fault != "gone":
        torch.save(content, path)
    arguments = [str(path), "--clip-weights", str(weights), "-o", str(tmp_path / "out"), "--backbone", f"clip:{NAME}"]
    result = CliRunner().invoke(cli, ["convert", *arguments, "--size", str(SIZE)])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "never be printed" not in result.output
    assert not (tmp_path / "out").exists()
