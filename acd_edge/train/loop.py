"""The training loop: every step is a pure function of (weights, optimiser, seed, step), so that resuming is exact."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from acd_edge.data.nouns import NOUNS
from acd_edge.data.sampling import GENERIC, WORDS_STREAM, Item, labels_of
from acd_edge.errors import CheckpointError
from acd_edge.model import AcdClip, Levels
from acd_edge.model.tokenizers import Tokenize
from acd_edge.runtime.prompts import DEFAULT_PROMPTS, PromptEnsemble
from acd_edge.train.config import TrainConfig
from acd_edge.train.engine import Engine, SingleProcess, StoppedTogether, share_of, undivided
from acd_edge.train.losses import class_loss, map_loss
from acd_edge.train.stem import DTYPES, PictureStems, PromptStems, Store

logger = logging.getLogger(__name__)


class Batch(Protocol):
    """Where the pictures come from."""

    @property
    def categories(self) -> list[str]:
        """Every category that an item may name."""

    def items(self, step: int, slots: Iterable[int] | None = None) -> list[Item]:
        """The pictures of a step, or those of its `slots` alone, each a function of (step, slot)."""


class StepLosses(NamedTuple):
    """The losses of one step: `total` is the sum of the two."""

    total: float
    on_map: float
    on_class: float


class PromptFeatures:
    """Text features with gradients; what lies before the first adapter is computed once per product."""

    def __init__(self, model: AcdClip, tokenizer: Tokenize, prompts: PromptEnsemble = DEFAULT_PROMPTS) -> None:
        self.model, self.tokenizer, self.prompts = model, tokenizer, prompts
        self.stems = PromptStems(model, self._tokenise)

    def __call__(self, words: Sequence[str]) -> Tensor:
        """Features of each entry of `words`, (len(words), N, 2, D), every distinct one computed once."""
        distinct = sorted(set(words))
        encoded = self.model.prompts_from(*self.stems(distinct), start=self.stems.blocks)  # (P, N, D)
        states = [len(self.prompts.normal), len(self.prompts.abnormal)]
        pieces = torch.split(encoded, [count * len(self.prompts.templates) for count in states] * len(distinct))
        averaged = [F.normalize(piece.mean(dim=0), dim=-1) for piece in pieces]  # (N, D) each, states alternating
        pairs = [torch.stack(averaged[at : at + 2], dim=1) for at in range(0, len(averaged), 2)]
        return torch.stack([pairs[distinct.index(word)] for word in words])

    def _tokenise(self, words: str) -> tuple[Tensor, Tensor]:
        """Tokens of a product's prompts, normal and then abnormal, cut to the longest."""
        normal, abnormal = self.prompts.sentences(words)
        ids, mask = map(torch.from_numpy, self.tokenizer(normal + abnormal))
        length = int(mask.sum(dim=1).max())
        return ids[:, :length], mask[:, :length]


class Trainer:
    """One training run, or one process of it.

    Args:
        model: its adapters are trained in place; it is moved to the engine's device.
        tokenizer: of its text tower.
        batches: the pictures.
        config: the recipe, its steps known.
        words: category -> phrases for the prompts, one drawn per picture; others are their name with spaces.
        engine: device and processes; the CPU and one process unless given.
        store: keeps stems of pictures that come again; None keeps none.

    Raises:
        ConfigError: the number of steps is not known, or there are more processes than pictures in a batch.
    """

    def __init__(
        self,
        model: AcdClip,
        tokenizer: Tokenize,
        batches: Batch,
        config: TrainConfig,
        words: Mapping[str, Sequence[str]] | None = None,
        *,
        engine: Engine | None = None,
        store: Store | None = None,
    ) -> None:
        self.engine = engine or SingleProcess(torch.device("cpu"))
        self.model, self.batches, self.config = model.to(self.engine.device), batches, config
        self.length = config.length
        self.slots = share_of(config.batch, self.engine.rank, self.engine.count)
        self.words = dict(words or {})
        self.text, self.pictures = PromptFeatures(model, tokenizer), PictureStems(model, store)
        self.parameters = model.trainable()
        self.engine.share(parameter.data for parameter in self.parameters.values())
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()} if config.average else {}
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, parameter in self.parameters.items():
            sides[name.startswith("text_")].append(parameter)
        self.optimiser = torch.optim.AdamW(
            [{"params": sides[0], "lr": config.vision_rate}, {"params": sides[1], "lr": config.text_rate}],
            weight_decay=config.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(self.engine.device.type, enabled=config.precision == "fp16")
        self.done = 0

    def run(self, report: Callable[[int, StepLosses], None]) -> None:
        """Train to the recipe's last step, calling `report` after each; an exception leaves the last whole step.

        Raises:
            KeyboardInterrupt: Ctrl-C; of several processes all raise `StoppedTogether` after the same step.
        """
        while self.done < self.length:
            _, stop = self.step(self.done, report)
            if stop and self.done < self.length:
                raise StoppedTogether

    def step(
        self, index: int, report: Callable[[int, StepLosses], None] = lambda done, losses: None
    ) -> tuple[StepLosses, bool]:
        """One optimiser step on the batch of that index: its losses, and whether a process was asked to stop.

        A signal to end comes before the update or after `report`: whoever writes a saved step has written its row.
        """
        items = self.batches.items(index, self.slots)
        self.optimiser.zero_grad(set_to_none=True)
        figures = self._gradients(items, self._words(index, items))
        *summed, stop = self._summed(torch.cat([figures, figures.new_tensor([self.engine.interrupted])])).tolist()
        losses = StepLosses(*summed)
        with undivided():
            self._update(index)
            self.done = index + 1
            report(self.done, losses)
        return losses, stop > 0

    def finish(self) -> None:
        """Put the averaged weights into the model, where the recipe averages."""
        for name, average in self.averages.items():
            self.parameters[name].data.copy_(average)

    def state(self) -> dict[str, Tensor]:
        """All that resuming needs, as named tensors: weights, averages, moments, the gradients' scale and the step."""
        state = {f"weight.{n}": p.detach() for n, p in self.parameters.items()}
        state |= {f"average.{n}": a for n, a in self.averages.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                state[f"{key}.{name}"] = torch.as_tensor(value)
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            state |= {f"scaler.{key}": torch.tensor(scaler[key], dtype=torch.float64) for key in _SCALER}
        return state | {"done": torch.tensor(self.done)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`.

        Raises:
            CheckpointError: the state is of another model or recipe.
        """
        expected = {f"weight.{n}" for n in self.parameters} | {f"average.{n}" for n in self.averages} | {"done"}
        expected |= {f"scaler.{key}" for key in _SCALER if self.scaler.is_enabled()}
        missing = sorted(expected - set(state))
        if missing:
            raise CheckpointError(f"the saved training state has no {missing[0]}; it is of another model or recipe")
        self.done = int(state["done"])
        for name, parameter in self.parameters.items():
            parameter.data.copy_(state[f"weight.{name}"])
            if name in self.averages:
                self.averages[name].copy_(state[f"average.{name}"])
            moments = {key: state[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq") if f"{key}.{name}" in state}
            if moments:
                here = {key: moment.to(parameter.device, copy=True) for key, moment in moments.items()}
                self.optimiser.state[parameter] = {"step": state[f"step.{name}"].clone(), **here}
        if self.scaler.is_enabled():
            scale, growth = (state[f"scaler.{key}"].item() for key in _SCALER)
            self.scaler.load_state_dict(
                {**self.scaler.state_dict(), "scale": float(scale), "_growth_tracker": int(growth)}
            )

    def _gradients(self, items: Sequence[Item], words: Sequence[str]) -> Tensor:
        """Add this process's part of the gradients; its part of the three losses (3,).

        Every loss is a mean over pictures, so that a part of a batch weighs as many pictures as it has. The text is
        encoded once: its gradients are collected at its features over all parts, and then go through it once.
        """
        with self._autocast():
            features = self.text(words).float()
        parts = list(_parts(len(items), self.config.accumulate))
        given = features if len(parts) == 1 else features.detach().requires_grad_()
        losses = torch.zeros(3, device=self.engine.device)
        for part in parts:
            on_map, on_class = self._losses(items[part], given[part])
            total, share = on_map + on_class, len(items[part]) / self.config.batch
            self.scaler.scale(total * share).backward()  # type: ignore[no-untyped-call]
            losses += share * torch.stack([total, on_map, on_class]).detach()
        if given is not features:
            features.backward(given.grad)  # type: ignore[no-untyped-call]
        return losses

    def _losses(self, items: Sequence[Item], features: Tensor) -> tuple[Tensor, Tensor]:
        """Losses on map and classification, means over `items`, with their text features (B, N, 2, D)."""
        levels = self._levels(items)  # first: a picture that is decoded here leaves its mask behind
        masks = np.stack([item.mask() for item in items])
        logits = self.model.map_logits(levels.segment, features, self.model.fusion_weights(levels.segment))
        wanted, labels = (self._here(torch.from_numpy(array)) for array in (masks, labels_of(items, masks)))
        on_map = map_loss(self.model.anomaly_map(logits, smooth=False), wanted.float())
        return on_map, class_loss(self.model.class_logits(levels.detect, features), labels)

    def _levels(self, items: Sequence[Item]) -> Levels:
        """Levels of pictures, fp32; blocks before the first adapter keep nothing for a gradient."""
        with self._autocast():
            levels = self.model.levels_from(self.pictures(items), start=self.pictures.blocks)
        return Levels(*(level.float() for level in levels))

    def _autocast(self) -> torch.autocast:
        kind = DTYPES[self.config.precision]
        return torch.autocast(self.engine.device.type, dtype=kind, enabled=kind != torch.float32)

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.engine.device, non_blocking=True)

    def _summed(self, figures: Tensor) -> Tensor:
        """Add up gradients and `figures` over the processes, in one exchange; the figures' sum."""
        if self.engine.count == 1:
            return figures
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        summed = self.engine.sum(torch.cat([*(gradient.flatten() for gradient in gradients), figures]))
        *flat, figures = torch.split(summed, [*(gradient.numel() for gradient in gradients), len(figures)])
        for gradient, values in zip(gradients, flat, strict=True):
            gradient.copy_(values.view_as(gradient))
        return figures

    def _update(self, index: int) -> None:
        """Step the optimiser with the gradients that are there; scaled ones that overflowed are left out by it."""
        self.scaler.unscale_(self.optimiser)
        self._clip_blends()
        rates = (self.config.vision_rate, self.config.text_rate)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * rate_factor(self.config, index)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._average(index)

    def _words(self, index: int, items: Sequence[Item]) -> list[str]:
        """What the prompts call this process's pictures."""
        return self._describe(index, self._categories(items))[self.slots.start : self.slots.stop]

    def _categories(self, items: Sequence[Item]) -> list[str]:
        """Categories of the whole batch: the words of a picture are drawn after those of the pictures before it."""
        own = [item.category for item in items]
        if self.engine.count == 1:
            return own
        known = self.batches.categories
        numbers = torch.zeros(self.config.batch, dtype=torch.int64)
        numbers[self.slots.start : self.slots.stop] = torch.tensor([known.index(category) for category in own])
        return [known[number] for number in self.engine.sum(self._here(numbers)).tolist()]

    def _describe(self, index: int, categories: Iterable[str]) -> list[str]:
        generator = np.random.default_rng([self.config.seed, index, WORDS_STREAM])
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


_SCALER = ("scale", "_growth_tracker")  # of GradScaler's state, what changes during a run


def rate_factor(config: TrainConfig, index: int) -> float:
    """Multiplier of the learning rates at step `index`.

    >>> rate_factor(TrainConfig(steps=20), 0), round(rate_factor(TrainConfig(steps=20), 2), 2)
    (1.0, 0.81)
    """
    if config.schedule == "epochs":
        return config.decay ** (index * config.epochs // config.length)
    warm = max(1, config.length // 20)
    if index < warm:
        return (index + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (index - warm) / max(1, config.length - warm)))


def _parts(count: int, parts: int) -> Iterator[slice]:
    """`count` things in at most `parts` parts, none empty, as equal as can be."""
    parts = min(parts, count)
    for part in range(parts):
        yield slice(part * count // parts, (part + 1) * count // parts)
