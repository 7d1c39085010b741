"""The full-size models: the built-in one on real pictures, ViT-L/14 at 518 x 518 with seeded weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from acd_edge.checkpoint import builtin_checkpoint, load_checkpoint
from acd_edge.convert import authors_config, convert, read_authors
from acd_edge.data.samples import Sample, load_data
from acd_edge.evaluate import evaluate
from acd_edge.export.bundle import encode_product
from acd_edge.export.count import fold_counts
from acd_edge.export.fold import fold
from acd_edge.export.golden import made_pictures
from acd_edge.export.graph import FoldedAcdClip
from acd_edge.export.onnx import onnx_from_folded
from acd_edge.export.precision import WideProducts, audit_ranges, check_ranges, halve
from acd_edge.model import AcdClip
from acd_edge.model.weights import tokenizer_for
from tests.export.rtx import build
from tests.oracle import VIT_L_14_336, seeded_adapter, seeded_clip, seeded_picture

pytestmark = pytest.mark.heavy

TRAINING_SETS = ("magnetic_tile", "neu_seg", "deeppcb")
PICTURES = 100
FloatArray = npt.NDArray[np.float32]


class Drift(NamedTuple):
    """Differences over all pictures, and the AUROC of both."""

    mean: float
    largest: float
    score: float
    auroc: float


@pytest.fixture(scope="module")
def builtin() -> AcdClip:
    if not builtin_checkpoint().is_dir():
        pytest.skip("this checkout carries no built-in checkpoint")
    return load_checkpoint(builtin_checkpoint())


@pytest.fixture(scope="module")
def pictures(shared_data: Path) -> list[Sample]:
    """A hundred labelled pictures of the training sets, spread evenly over each."""
    samples = load_data([shared_data / name for name in TRAINING_SETS], None, split="test")
    return [samples[index] for index in np.linspace(0, len(samples) - 1, PICTURES).astype(int)]


def text_of(model: AcdClip, words: str) -> Tensor:
    return torch.from_numpy(encode_product(model, tokenizer_for(model.config), words))[None]


def run(path: Path, image: Tensor, text: Tensor) -> list[FloatArray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy(), "text_features": text.numpy()})


def largest(mine: Any, theirs: Any) -> float:
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(mine, theirs, strict=True))


@torch.no_grad()
def test_builtin_unfolded_folded_and_onnx(builtin: AcdClip, tmp_path: Path) -> None:
    folded, text = fold(builtin), text_of(builtin, "object")
    path = onnx_from_folded(folded, tmp_path / "model.onnx")
    for picture in made_pictures(folded.size):
        image = torch.from_numpy(picture)[None]
        unfolded, ours = builtin(builtin.normalise(image), text), folded(image, text)
        assert largest(unfolded, ours) < 5e-5
        assert largest(run(path, image, text), ours) < 1e-4
        assert largest(folded(image, text.flip(2)), ours) > 1e-2  # the control: normal and abnormal exchanged


def test_builtin_fp16_drift(builtin: AcdClip, pictures: list[Sample]) -> None:
    drift = measure_drift(builtin, pictures)
    assert drift.mean <= 1e-3
    assert drift.largest <= 3e-2
    assert drift.score <= 5e-3
    assert drift.auroc <= 5e-4  # 0.05 points
    assert drift.largest > 0


@torch.no_grad()
def measure_drift(model: AcdClip, samples: list[Sample]) -> Drift:
    """float16 against float32 torch on real pictures, with the category's name as words."""
    folded = fold(model)
    half, size = halve(folded), folded.size
    words = {sample.category: sample.category.replace("_", " ") for sample in samples}
    texts = {phrase: text_of(model, phrase) for phrase in words.values()}
    maps: dict[str, list[FloatArray]] = {"fp32": [], "fp16": []}
    scores: dict[str, list[float]] = {"fp32": [], "fp16": []}
    weight = model.config.score_mix

    def predict(
        kind: str, module: FoldedAcdClip, image: npt.NDArray[np.uint8], phrase: str
    ) -> tuple[FloatArray, float]:
        said = module(torch.tensor(image)[None], texts[phrase])
        found: FloatArray = said.anomaly_map[0].numpy()
        score = weight[0] * float(said.class_score) + weight[1] * float(found.max())
        maps[kind].append(found)
        scores[kind].append(score)
        return found, score

    full = evaluate(lambda image, phrase: predict("fp32", folded, image, phrase), samples, size=size, words=words)
    with WideProducts():
        typed = evaluate(lambda image, phrase: predict("fp16", half, image, phrase), samples, size=size, words=words)
    apart = [np.abs(a - b) for a, b in zip(maps["fp32"], maps["fp16"], strict=True)]
    return Drift(
        mean=float(np.mean([each.mean() for each in apart])),
        largest=float(max(each.max() for each in apart)),
        score=float(np.abs(np.subtract(scores["fp32"], scores["fp16"])).max()),
        auroc=abs(float(full.mean.pixel_auroc or 0) - float(typed.mean.pixel_auroc or 0)),
    )


def test_builtin_fp16_compiles_with_one_fused_attention_per_block(builtin: AcdClip, tmp_path: Path) -> None:
    built = build(onnx_from_folded(halve(fold(builtin)), tmp_path / "model.onnx"))
    assert built.fused_attentions == builtin.vision.depth == 12


@pytest.fixture(scope="module")
def vit_l(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AcdClip]:
    """ViT-L/14 at 518 x 518, N = 3, with weights as rough as trained ones."""
    folder = tmp_path_factory.mktemp("vit_l")
    state = seeded_clip(VIT_L_14_336, 7, "trained")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "clip.safetensors")
    torch.save(seeded_adapter(VIT_L_14_336, 3, 7), folder / "adapter.pth")
    authors = read_authors(folder / "adapter.pth")
    config = authors_config(authors.tensors, backbone="clip:ViT-L-14-336", size=518, domain="industrial")
    yield convert(authors, config, clip_weights=folder / "clip.safetensors", source="adapter.pth")
    (folder / "clip.safetensors").unlink()


@torch.no_grad()
def test_vit_l_parity_and_ranges(vit_l: AcdClip, tmp_path: Path) -> None:
    folded, text = fold(vit_l), text_of(vit_l, "object")
    counts = fold_counts(vit_l, folded)
    assert counts["adapter_macs_before"] / counts["adapter_macs_after"] > 29
    image = torch.from_numpy(seeded_picture(518, 518, 1))[None]
    ranges, ours = audit_ranges(folded, image, text)
    check_ranges(ranges)
    path = onnx_from_folded(folded, tmp_path / "model.onnx")
    assert largest(vit_l(vit_l.normalise(image), text), ours) < 1e-5
    assert largest(run(path, image, text), ours) < 1e-5
    assert largest(run(path, image.flip(1), text), ours) > 1e-3  # the control


def test_vit_l_fp16_compiles_with_one_fused_attention_per_block(vit_l: AcdClip, tmp_path: Path) -> None:
    built = build(onnx_from_folded(halve(fold(vit_l)), tmp_path / "model.onnx"))
    assert built.fused_attentions == vit_l.vision.depth == 24
