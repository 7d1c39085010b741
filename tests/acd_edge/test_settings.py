"""Settings files: the recipes in the package, and what a file may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acd_edge.checkpoint import builtin_checkpoint, read_info
from acd_edge.config import ModelConfig
from acd_edge.errors import ConfigError
from acd_edge.train.config import TrainConfig
from acd_edge.train.settings import read_settings, recipe_names


@pytest.mark.parametrize("name", ["builtin", "paper", "reference"])
def test_recipes_of_the_package_are_settings(name: str) -> None:
    assert name in recipe_names()
    settings = read_settings(name)
    assert TrainConfig.from_dict(settings.recipe).for_pictures(1000).length > 0
    assert ModelConfig.from_dict(settings.model).preset in ("paper", "reference")


@pytest.mark.parametrize("name", ["paper", "reference"])
def test_the_authors_recipe(name: str) -> None:
    """What their training script does unless told otherwise, on the preset and input of either reading."""
    settings = read_settings(name)
    model, recipe = ModelConfig.from_dict(settings.model), TrainConfig.from_dict(settings.recipe)
    assert (model.backbone, model.pretrained, model.preset) == ("clip:ViT-L-14-336", "openai", name)
    assert model.size == {"paper": 336, "reference": 518}[name]
    assert (recipe.epochs, recipe.batch, recipe.decay, recipe.schedule) == (20, 6, 0.9, "epochs")
    assert (recipe.vision_rate, recipe.text_rate, recipe.weight_decay) == (1e-3, 5e-4, 0)
    assert (recipe.pictures, recipe.order, recipe.augmentation) == ("test", "shuffled", "authors")
    assert {recipe.synthetic, recipe.textures, recipe.generic, recipe.average} == {0}
    assert recipe.for_pictures(1725).length == 20 * 288  # MVTec-AD's test pictures


def test_builtin_is_what_the_builtin_checkpoint_says() -> None:
    training = read_info(builtin_checkpoint()).training
    settings = read_settings("builtin")
    assert settings.recipe == training["recipe"]
    assert settings.words == training["words"]


def test_a_file_may_hold_a_part(tmp_path: Path) -> None:
    path = tmp_path / "paper"  # a file is a path, even one named like a recipe
    path.write_text(json.dumps({"words": {"pcb": ["circuit board"]}}))
    settings = read_settings(str(path))
    assert (settings.model, settings.recipe, settings.words) == ({}, {}, {"pcb": ["circuit board"]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold one JSON object"),
        ('{"model": {}, "data": {}}', "must hold one JSON object"),
        ('{"words": {"pcb": "board"}}', "words of pcb must be a list of phrases"),
        ('{"words": {"pcb": []}}', "words of pcb must be a list of phrases"),
        ("{", "cannot read"),
        ("[" * 100_000, "cannot read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as refused:
        read_settings(str(path))
    assert str(path) in str(refused.value)


def test_an_unknown_name_lists_the_recipes() -> None:
    with pytest.raises(ConfigError, match="one of the recipes builtin, paper, reference"):
        read_settings("papier")
