"""Settings files of trainings: the recipes that the package carries, and anybody's own JSON; nothing imports torch.

A file holds the objects `model` (`ModelConfig`), `recipe` (`TrainConfig`) and `words` (category -> phrases for the
prompts), each of which may be absent and need not name every setting. Every training writes one beside its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acd_edge.checkpoint import builtin_checkpoint, read_info
from acd_edge.errors import ConfigError

SECTIONS = ("model", "recipe", "words")
BUILTIN = "builtin"
_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a settings file says, unchecked but for its form: `model` and `recipe` are checked by their classes."""

    model: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, list[str]] = field(default_factory=dict)


def recipe_names() -> list[str]:
    """Names of the recipes that the package carries."""
    return [BUILTIN, *sorted(path.stem for path in _FOLDER.glob("*.json"))]


def read_settings(name: str) -> Settings:
    """The recipe of that name, or the settings in that file.

    `builtin` is what the checkpoint in the package says of its own training.

    Raises:
        ConfigError: there is neither, or the file is not such a JSON object.
    """
    if name == BUILTIN:
        return _of_builtin()
    return _read(_FOLDER / f"{name}.json" if name in recipe_names() else Path(name))


def _of_builtin() -> Settings:
    info = read_info(builtin_checkpoint())
    training = info.training
    model = info.config.with_(size=training.get("trained_at_size", info.config.size))  # a recipe may enlarge afterwards
    return Settings(model=model.to_dict(), recipe=training["recipe"], words=training["words"])


def _read(path: Path) -> Settings:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        names = ", ".join(recipe_names())
        raise ConfigError(f"no settings at {path}; give a JSON file, or one of the recipes {names}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    fits = isinstance(content, dict) and set(content) <= set(SECTIONS)
    if not fits or not all(isinstance(section, dict) for section in content.values()):
        raise ConfigError(f"{path} must hold one JSON object with the objects {', '.join(SECTIONS)}, nothing else")
    for category, phrases in content.get("words", {}).items():
        if not isinstance(phrases, list) or not phrases or not all(isinstance(words, str) for words in phrases):
            raise ConfigError(f"{path}: words of {category} must be a list of phrases, got {phrases!r}")
    return Settings(**content)
