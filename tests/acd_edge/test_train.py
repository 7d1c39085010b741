"""Training: the loop's promises, on a model that fits in a blink."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acd_edge.config import ModelConfig
from acd_edge.errors import ConfigError
from acd_edge.model.acd import AcdClip
from acd_edge.train.config import TrainConfig
from acd_edge.train.loop import PromptFeatures, Trainer, rate_factor
from tests.tiny_model import TINY_SIZE, tiny_model


def tokenise(lines: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ids = np.zeros((len(lines), 16), np.int64)
    mask = np.zeros_like(ids)
    for row, line in enumerate(lines):
        words = [1 + sum(map(ord, word)) % 40 for word in line.split()][:16]
        ids[row, : len(words)] = words
        mask[row, : len(words)] = 1
    return ids, mask


Bytes = NDArray[np.uint8]


class Squares:
    """A bright square on noise is the defect."""

    def batch(self, step: int) -> tuple[Bytes, Bytes, NDArray[np.int64], list[str]]:
        rng = np.random.default_rng(step)
        images = rng.integers(60, 100, (4, TINY_SIZE, TINY_SIZE, 3), np.uint8)
        masks = np.zeros((4, TINY_SIZE, TINY_SIZE), np.uint8)
        for index in range(0, 4, 2):
            top, left = rng.integers(0, TINY_SIZE - 28, 2)
            masks[index, top : top + 28, left : left + 28] = 1
        images[masks == 1] = 250
        labels = np.asarray([1, 0, 1, 0], np.int64)
        return images, masks, labels, ["cup", "cap", "cup", "cap"]


def trainer(steps: int = 6, **recipe: float) -> Trainer:
    torch.manual_seed(0)
    model = tiny_model(ModelConfig(preset="reference", size=TINY_SIZE, groups=2))
    return Trainer(model, tokenise, Squares(), TrainConfig(steps=steps, average=0.9, **recipe))  # type: ignore[arg-type]


def state_of(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.state().items()}


def test_learns_squares() -> None:
    run = trainer(60)
    losses: list[float] = []
    run.run(lambda _, loss: losses.append(loss.total))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.1


def test_towers_stay_and_every_adapter_moves() -> None:
    run = trainer()
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.run(lambda done, losses: None)
    after = run.model.state_dict()
    for name, tensor in before.items():
        frozen = name.startswith(("vision.", "text."))
        assert torch.equal(tensor, after[name]) == frozen, name


def test_resumed_run_is_the_uninterrupted_run(tmp_path: Path) -> None:
    whole = trainer()
    whole.run(lambda done, losses: None)

    first = trainer()
    with pytest.raises(KeyboardInterrupt):
        first.run(_interrupt_at(3))
    torch.manual_seed(99)  # a resumed process has other random numbers
    second = trainer()
    second.load_state(state_of(first))
    second.run(lambda done, losses: None)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, second.state()[name]), name
    assert any(not torch.equal(t, first.state()[n]) for n, t in whole.state().items())  # three more steps did something


def test_prompt_features_ignore_padding_and_know_the_words() -> None:
    model = tiny_model(ModelConfig(preset="reference", size=TINY_SIZE, groups=2))
    features = PromptFeatures(model, tokenise)(["cup", "cap", "cup"])
    assert features.shape == (3, 2, 2, model.feature_dim)
    assert torch.equal(features[0], features[2])
    assert not torch.allclose(features[0], features[1], atol=1e-3)
    alone = PromptFeatures(model, tokenise)(["cap"])
    torch.testing.assert_close(features[1], alone[0], rtol=0, atol=2e-6)  # fp32, other batch shapes
    norms = features.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_levels_of_training_equal_levels_of_inference() -> None:
    run = trainer()
    images = torch.from_numpy(Squares().batch(0)[0])
    trained = run._levels(images)
    inferred = run.model.encode_image(run.model.normalise(images))
    for ours, theirs in zip(trained, inferred, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_rates_fall() -> None:
    cosine = [rate_factor(TrainConfig(steps=100, schedule="cosine"), step) for step in range(100)]
    assert cosine[0] < cosine[4]
    assert cosine[4:] == sorted(cosine[4:], reverse=True)
    assert cosine[-1] < 0.02
    epochs = [rate_factor(TrainConfig(steps=100), step) for step in range(100)]
    assert epochs[4] == 1
    assert epochs[5] == 0.9
    assert epochs[-1] == pytest.approx(0.9**19)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"synthetic": 1.5}, {"schedule": "linear"}, {"rate": 1}])
def test_recipe_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig.from_dict(wrong)


def test_groups_must_divide_both_towers() -> None:
    with pytest.raises(ConfigError, match="4 groups do not divide the 6 blocks"):
        tiny_model(ModelConfig(size=TINY_SIZE, groups=4))
    assert isinstance(tiny_model(ModelConfig(size=TINY_SIZE, groups=6)), AcdClip)


def _interrupt_at(step: int):  # type: ignore[no-untyped-def]
    def report(done: int, losses: object) -> None:
        if done == step:
            raise KeyboardInterrupt

    return report
