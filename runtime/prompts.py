"""From a product's name to the sentences that describe it, and from their features to one pair of vectors a level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acd_edge.errors import ConfigError, ShapeError, UsageError

FloatArray = NDArray[np.floating[Any]]
SLOT = "{}"
DEFAULT_PRODUCT = "object"


@dataclass(frozen=True, kw_only=True)
class PromptEnsemble:
    """The sentences of a product: every state, put into every template.

    Attributes:
        normal, abnormal: states; `{}` stands for the product's words.
        templates: sentences; `{}` stands for the state.
    """

    normal: tuple[str, ...] = ("{}", "a {}", "the {}")
    abnormal: tuple[str, ...] = (
        "a damaged {}",
        "a broken {}",
        "a {} with flaw",
        "a {} with defect",
        "a {} with damage",
    )
    templates: tuple[str, ...] = ("{}.", "a photo of {}.")

    def __post_init__(self) -> None:
        for name in ("normal", "abnormal", "templates"):
            lines = tuple(getattr(self, name))
            object.__setattr__(self, name, lines)
            if not lines or any(not isinstance(line, str) or line.count(SLOT) != 1 for line in lines):
                raise ConfigError(f"prompts: each line of {name} must hold {SLOT} once, got {list(lines)}")

    def sentences(self, words: str) -> tuple[list[str], list[str]]:
        """The sentences of both states, state by state.

        >>> PromptEnsemble(normal=("the {}",), abnormal=("a broken {}",)).sentences("cup")
        (['the cup.', 'a photo of the cup.'], ['a broken cup.', 'a photo of a broken cup.'])
        """
        return self._fill(self.normal, words), self._fill(self.abnormal, words)

    def _fill(self, states: Sequence[str], words: str) -> list[str]:
        named = [state.replace(SLOT, words) for state in states]
        return [template.replace(SLOT, state) for state in named for template in self.templates]


DEFAULT_PROMPTS = PromptEnsemble()


def average(features: FloatArray) -> FloatArray:
    """Join the prompts of one state: their mean, L2-normalised again.

    Args:
        features: unit-norm features, (P, N, D).

    Returns:
        (N, D), unit norm, of the input's type; summed in float64.
    """
    if features.ndim != 3 or not len(features):
        raise ShapeError(f"prompt features: want (P, N, D) with P > 0, got {features.shape}")
    mean = features.mean(axis=0, dtype=np.float64)
    joined: FloatArray = (mean / np.linalg.norm(mean, axis=-1, keepdims=True)).astype(features.dtype)
    return joined


def product_features(normal: FloatArray, abnormal: FloatArray) -> FloatArray:
    """One product's text features, (N, 2, D): normal, abnormal.

    Args:
        normal, abnormal: unit-norm features of each state's prompts, (P, N, D); the two P may differ.
    """
    return np.stack([average(normal), average(abnormal)], axis=1)


def parse_product(text: str) -> tuple[str, str]:
    """Split `NAME` or `NAME=words for the prompt`.

    >>> parse_product("metal_nut")
    ('metal_nut', 'metal nut')
    >>> parse_product("A7=steel bracket")
    ('A7', 'steel bracket')
    """
    name, equals, words = (" ".join(part.split()) for part in text.partition("="))
    words = words if equals else name.replace("_", " ")
    if not (name + words).isprintable():  # control characters, and what was not text in the shell's encoding
        raise ConfigError(f"a product's name and words are printable text, got {text!r}")
    if not name or not words:
        raise ConfigError(f"a product is NAME or NAME='words for the prompt', got {text!r}")
    return name, words


def parse_products(texts: Iterable[str]) -> dict[str, str]:
    """Name to words, see `parse_product`.

    Raises:
        UsageError: a name is given twice.

    >>> parse_products(["metal_nut", "A7=steel bracket"])
    {'metal_nut': 'metal nut', 'A7': 'steel bracket'}
    """
    words: dict[str, str] = {}
    for name, called in map(parse_product, texts):
        if name in words:
            raise UsageError(f"the product {name} is given twice, as '{words[name]}' and as '{called}'; give it once")
        words[name] = called
    return words
