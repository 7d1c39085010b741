"""The training loop: every step is a pure function of (weights, optimiser, seed, step), so that resuming is exact."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from acd_edge.data.nouns import NOUNS
from acd_edge.data.sampling import GENERIC
from acd_edge.errors import CheckpointError
from acd_edge.model import AcdClip, Levels
from acd_edge.model.tokenizers import Tokenize
from acd_edge.runtime.prompts import DEFAULT_PROMPTS, PromptEnsemble
from acd_edge.train.config import TrainConfig
from acd_edge.train.losses import class_loss, map_loss

logger = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


class Batch(Protocol):
    """Where the pictures come from."""

    def batch(self, step: int) -> tuple[Bytes, Bytes, Ints, list[str]]:
        """Pictures (B, S, S, 3), masks (B, S, S) of 0 and 1, labels (B,), categories, a function of `step` alone."""


class StepLosses(NamedTuple):
    """The losses of one step: `total` is the sum of the two."""

    total: float
    on_map: float
    on_class: float


class PromptFeatures:
    """Text features with gradients; prompts are tokenised once and cut to the longest of a batch."""

    def __init__(self, model: AcdClip, tokenizer: Tokenize, prompts: PromptEnsemble = DEFAULT_PROMPTS) -> None:
        self.model, self.tokenizer, self.prompts = model, tokenizer, prompts
        self._tokens: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, words: Sequence[str]) -> Tensor:
        """Features of each entry of `words`, (len(words), N, 2, D), every distinct one computed once."""
        distinct = sorted(set(words))
        ids, mask = (torch.cat(parts) for parts in zip(*map(self._tokenise, distinct), strict=True))
        length = int(mask.sum(dim=1).max())
        encoded = self.model.encode_prompts(ids[:, :length], mask[:, :length])  # (P, N, D)
        states = [len(self.prompts.normal), len(self.prompts.abnormal)]
        pieces = torch.split(encoded, [count * len(self.prompts.templates) for count in states] * len(distinct))
        averaged = [F.normalize(piece.mean(dim=0), dim=-1) for piece in pieces]  # (N, D) each, states alternating
        pairs = [torch.stack(averaged[at : at + 2], dim=1) for at in range(0, len(averaged), 2)]
        return torch.stack([pairs[distinct.index(word)] for word in words])

    def _tokenise(self, words: str) -> tuple[Tensor, Tensor]:
        if words not in self._tokens:
            normal, abnormal = self.prompts.sentences(words)
            ids, mask = self.tokenizer(normal + abnormal)
            self._tokens[words] = (torch.from_numpy(ids), torch.from_numpy(mask))
        return self._tokens[words]


class Trainer:
    """One training run.

    Args:
        model: its adapters are trained in place.
        tokenizer: of its text tower.
        batches: the pictures.
        config: the recipe.
        words: category -> phrases for the prompts, one drawn per picture; others are their name with spaces.
    """

    def __init__(
        self,
        model: AcdClip,
        tokenizer: Tokenize,
        batches: Batch,
        config: TrainConfig,
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.model, self.batches, self.config = model, batches, config
        self.words = dict(words or {})
        self.text = PromptFeatures(model, tokenizer)
        self.parameters = model.trainable()
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()} if config.average else {}
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, parameter in self.parameters.items():
            sides[name.startswith("text_")].append(parameter)
        self.optimiser = torch.optim.AdamW(
            [{"params": sides[0], "lr": config.vision_rate}, {"params": sides[1], "lr": config.text_rate}],
            weight_decay=config.weight_decay,
        )
        self.done = 0

    def run(self, report: Callable[[int, StepLosses], None]) -> None:
        """Train to the recipe's last step, calling `report` after each; an exception leaves the last whole step."""
        while self.done < self.config.steps:
            losses = self.step(self.done)
            self.done += 1
            report(self.done, losses)

    def step(self, index: int) -> StepLosses:
        """One optimiser step on the batch of that index."""
        images, masks, labels, categories = self.batches.batch(index)
        features = self.text(self._describe(index, categories))
        levels = self._levels(torch.from_numpy(images))
        on_map = map_loss(
            self.model.anomaly_map(
                self.model.map_logits(levels.segment, features, self.model.fusion_weights(levels.segment)), smooth=False
            ),
            torch.from_numpy(masks).float(),
        )
        on_class = class_loss(self.model.class_logits(levels.detect, features), torch.from_numpy(labels))
        total = on_map + on_class
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self._clip_blends()
        rates = (self.config.vision_rate, self.config.text_rate)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * rate_factor(self.config, index)
        self.optimiser.step()
        self._average(index)
        return StepLosses(total.item(), on_map.item(), on_class.item())

    def finish(self) -> None:
        """Put the averaged weights into the model, where the recipe averages."""
        for name, average in self.averages.items():
            self.parameters[name].data.copy_(average)

    def state(self) -> dict[str, Tensor]:
        """All that resuming needs, as named tensors: weights, averages, the optimiser's moments and the step."""
        state = {f"weight.{n}": p.detach() for n, p in self.parameters.items()}
        state |= {f"average.{n}": a for n, a in self.averages.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                state[f"{key}.{name}"] = torch.as_tensor(value)
        return state | {"done": torch.tensor(self.done)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`.

        Raises:
            CheckpointError: the state is of another model or recipe.
        """
        expected = {f"weight.{n}" for n in self.parameters} | {f"average.{n}" for n in self.averages} | {"done"}
        missing = sorted(expected - set(state))
        if missing:
            raise CheckpointError(f"the saved training state has no {missing[0]}; it is of another model or recipe")
        self.done = int(state["done"])
        for name, parameter in self.parameters.items():
            parameter.data.copy_(state[f"weight.{name}"])
            if name in self.averages:
                self.averages[name].copy_(state[f"average.{name}"])
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in state]
            if keys:
                self.optimiser.state[parameter] = {key: state[f"{key}.{name}"].clone() for key in keys}

    def _levels(self, images: Tensor) -> Levels:
        """Levels of uint8 pictures; blocks before the first adapter keep nothing for a gradient."""
        model = self.model
        first = model.vision.depth // model.config.groups - 1
        with torch.no_grad():
            tokens = model.vision.embed(model.normalise(images))
            for block in model.vision.blocks[:first]:
                tokens = block(tokens)
        return model.levels_from(tokens, start=first)

    def _describe(self, index: int, categories: Iterable[str]) -> list[str]:
        generator = np.random.default_rng((self.config.seed, index))
        return [self._phrase(generator, category) for category in categories]

    def _phrase(self, generator: np.random.Generator, category: str) -> str:
        if category == GENERIC and category not in self.words:
            choices: Sequence[str] = NOUNS if generator.random() < 0.75 else (GENERIC,)
        else:
            choices = self.words.get(category) or [category.replace("_", " ")]
        return choices[int(generator.integers(len(choices)))]

    def _clip_blends(self) -> None:
        for name, parameter in self.parameters.items():
            if name.endswith("entry.weight"):
                clip_grad_norm_([parameter], self.config.blend_clip)

    @torch.no_grad()
    def _average(self, index: int) -> None:
        decay = min(self.config.average, (1 + index) / (10 + index))  # the first steps count little
        for name, average in self.averages.items():
            average.lerp_(self.parameters[name], 1 - decay)


def rate_factor(config: TrainConfig, index: int) -> float:
    """Multiplier of the learning rates at step `index`.

    >>> rate_factor(TrainConfig(steps=20), 0), round(rate_factor(TrainConfig(steps=20), 2), 2)
    (1.0, 0.81)
    """
    if config.schedule == "epochs":
        return config.decay ** (index * config.epochs // config.steps)
    warm = max(1, config.steps // 20)
    if index < warm:
        return (index + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (index - warm) / max(1, config.steps - warm)))
