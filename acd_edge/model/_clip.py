"""CLIP backbones of open_clip: the towers' specs, the names in its state dicts, and where its weights lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor

from acd_edge.config import ModelConfig
from acd_edge.errors import ConfigError, WeightsError
from acd_edge.lazy import require
from acd_edge.model.towers import Activation, BlockSpec, TextSpec, VisionSpec

OPENAI_DIGESTS = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B-32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B-16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L-14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L-14-336",
}
"""sha256 of the ViT archives that OpenAI published, as it put them into their addresses."""

# Settings that are read here, and those of what stands behind the towers or serves training alone. Any other setting
# changes what a tower computes, and a model that has it is refused.
_BLOCK = {"width", "layers", "mlp_ratio", "ls_init_value"}
_BEHIND = {"patch_dropout", "output_tokens", "final_ln_after_pool", "proj_bias", "proj_type"}
_VISION = _BLOCK | _BEHIND | {"image_size", "patch_size", "head_width", "no_ln_pre"}
_TEXT = _BLOCK | _BEHIND | {"context_length", "vocab_size", "heads"}

_IGNORED = ("input_resolution", "context_length", "vocab_size", "logit_scale", "logit_bias", "attn_mask")
_BLOCK_NAMES = {
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj.weight": "attn.out_proj.weight",
    "attn.proj.bias": "attn.out_proj.bias",
    "mlp.fc1.weight": "mlp.c_fc.weight",
    "mlp.fc1.bias": "mlp.c_fc.bias",
    "mlp.fc2.weight": "mlp.c_proj.weight",
    "mlp.fc2.bias": "mlp.c_proj.bias",
    "norm1.weight": "ln_1.weight",
    "norm1.bias": "ln_1.bias",
    "norm2.weight": "ln_2.weight",
    "norm2.bias": "ln_2.bias",
    "scale1": "ls_1.gamma",
    "scale2": "ls_2.gamma",
}
_VISION_NAMES = {
    "patch_embed.weight": "visual.conv1.weight",
    "class_token": "visual.class_embedding",
    "positions": "visual.positional_embedding",
    "norm_pre.weight": "visual.ln_pre.weight",
    "norm_pre.bias": "visual.ln_pre.bias",
}
_TEXT_NAMES = {"tokens.weight": "token_embedding.weight", "positions": "positional_embedding"}


def clip_specs(config: ModelConfig) -> tuple[VisionSpec, TextSpec]:
    """Specs of the two towers of `clip:<name>`.

    Raises:
        ConfigError: open_clip does not know the name, or its towers are not a plain ViT and CLIP's text transformer.
    """
    settings = clip_settings(config.backbone)
    vision, text = settings["vision_cfg"], settings["text_cfg"]
    listed, constants = _listed(config), require("open_clip.constants", "train")
    activation = _activation(config, settings, listed)
    vision_spec = VisionSpec(
        block=_block_spec(vision, vision["width"] // vision.get("head_width", 64), activation),
        depth=vision["layers"],
        patch=vision["patch_size"],
        table=vision["image_size"] // vision["patch_size"],
        patch_bias=False,
        pre_norm=not vision.get("no_ln_pre", False),
        mean=listed.get("mean") or constants.OPENAI_DATASET_MEAN,
        std=listed.get("std") or constants.OPENAI_DATASET_STD,
    )
    text_spec = TextSpec(
        block=_block_spec(text, text["heads"], activation),
        depth=text["layers"],
        vocabulary=text["vocab_size"],
        positions=text["context_length"],
        context_length=text["context_length"],
        causal=True,
        embed_norm=False,
        pooling="end",
    )
    return vision_spec, text_spec


def clip_settings(backbone: str) -> dict[str, Any]:
    """open_clip's configuration of `clip:<name>`, where both towers are of the kind that `towers` builds."""
    name = backbone.removeprefix("clip:")
    open_clip = require("open_clip", "train")
    settings: dict[str, Any] | None = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if settings is None:
        near = get_close_matches(name, open_clip.list_models(), 3, 0.4) or ["ViT-L-14-336", "ViT-B-16", "ViT-B-32"]
        raise ConfigError(f"open_clip has no model {name!r}; near it: {', '.join(near)}")
    if reason := _why_not(settings):
        raise ConfigError(
            f"{backbone} has {reason}; a clip: backbone is a plain ViT with CLIP's own text tower and tokenizer, "
            "such as ViT-L-14-336, ViT-B-16 or ViT-H-14"
        )
    return settings


def clip_shapes(
    backbone: str, vision: Mapping[str, tuple[int, ...]], text: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the whole CLIP model, under the names of its state dict.

    Args:
        backbone: `clip:<name>`.
        vision, text: shapes of the towers' tensors under our names, the position table as trained.

    Returns:
        Name to shape, with what stands behind the towers: a file without it is no complete CLIP model.
    """
    dim = clip_settings(backbone)["embed_dim"]
    shapes = {_VISION_NAMES.get(ours) or _block_name(ours, "visual."): shape for ours, shape in vision.items()}
    shapes |= {_TEXT_NAMES.get(ours) or _block_name(ours, ""): shape for ours, shape in text.items()}
    for prefix, width, norm, projection in (
        ("visual.", vision["class_token"][0], "ln_post", "proj"),
        ("", text["positions"][1], "ln_final", "text_projection"),
    ):
        shapes |= {f"{prefix}{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        shapes[prefix + projection] = (width, dim)
    return shapes


def clip_state(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP state dict without what no tower needs: the scalars of the loss and of OpenAI's archives, and masks.

    OpenAI's names and open_clip's are the same; a model with a separate text tower has `text.` before its half.
    """
    short = {name.removeprefix("text."): tensor for name, tensor in source.items()}
    return {name: tensor for name, tensor in short.items() if name.split(".")[-1] not in _IGNORED}


def tower_tensors(state: Mapping[str, Tensor], names: Mapping[str, object], *, visual: bool) -> dict[str, Tensor]:
    """Tensors of one tower under our `names`, in fp32, from a checked state dict."""
    table, prefix = (_VISION_NAMES, "visual.") if visual else (_TEXT_NAMES, "")
    return {ours: state[table.get(ours) or _block_name(ours, prefix)].float() for ours in names}


def hub_file(config: ModelConfig) -> Path:
    """The weight file in the cache that open_clip fills; nothing is fetched here.

    Raises:
        WeightsError: open_clip lists no such weights, or they are not in the cache.
    """
    open_clip = require("open_clip", "train")
    name = config.backbone.removeprefix("clip:")
    listed = _listed(config)
    if not listed:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise WeightsError(
            f"open_clip lists no weights {config.pretrained!r} for {name}, only {', '.join(tags) or 'none'}; "
            "choose one of them, or give a file with --clip-weights FILE"
        )
    found = next((path for path in _cached(listed) if path.is_file()), None)
    if found is None:
        fetch = f"import open_clip; open_clip.create_model({name!r}, {config.pretrained!r})"
        raise WeightsError(
            f"the {config.pretrained} weights of {name} are not in open_clip's cache; "
            f'give a file with --clip-weights FILE, or fetch them: python -c "{fetch}"'
        )
    return found


def _cached(listed: Mapping[str, Any]) -> Iterator[Path]:
    """Where open_clip would have put the weights of one entry of its list: the hub's cache, or its own folder."""
    if hub := listed.get("hf_hub"):
        repository, _, file = hub.rpartition("/")
        safe = file.rpartition(".")[0] + ".safetensors" if file else "open_clip_model.safetensors"
        for candidate in (safe, file or "open_clip_pytorch_model.bin"):
            cached = require("huggingface_hub", "train").try_to_load_from_cache(repository, candidate)
            if isinstance(cached, str):
                yield Path(cached)
    if url := listed.get("url"):
        yield Path("~/.cache/clip").expanduser() / url.rpartition("/")[2]


def _why_not(settings: Mapping[str, Any]) -> str:
    """What makes a model one that `towers` cannot build, or nothing."""
    vision, text = settings["vision_cfg"], settings["text_cfg"]
    if "timm_model_name" in vision:
        return f"a vision tower of timm ({vision['timm_model_name']})"
    if not isinstance(vision["layers"], int):
        return "a ResNet as vision tower"
    if "multimodal_cfg" in settings or vision.get("attentional_pool"):
        return "CoCa's attentional pooling"
    if "hf_model_name" in text:
        return f"a Hugging Face text tower ({text['hf_model_name']})"
    if "hf_tokenizer_name" in text:
        return f"the tokenizer of {text['hf_tokenizer_name']}"
    odd = [f"vision_cfg.{name}" for name in sorted(set(vision) - _VISION) if vision[name]]
    odd += [f"text_cfg.{name}" for name in sorted(set(text) - _TEXT) if text[name]]
    return f"the setting {odd[0]}, which is not supported" if odd else ""


def _listed(config: ModelConfig) -> Mapping[str, Any]:
    """open_clip's entry of the weights: where they lie, their activation, mean and std; empty for a tag of no entry."""
    name = config.backbone.removeprefix("clip:")
    return require("open_clip", "train").get_pretrained_cfg(name, config.pretrained) or {}


def _activation(config: ModelConfig, settings: Mapping[str, Any], listed: Mapping[str, Any]) -> Activation:
    """The preset's for OpenAI's weights; open_clip's for the tag, or for the model where the tag is not listed."""
    if config.pretrained == "openai":
        return config.rules.openai_activation
    quick = listed.get("quick_gelu", False) or settings.get("quick_gelu", False)
    return "quick_gelu" if quick else "gelu"


def _block_spec(tower: Mapping[str, Any], heads: int, activation: Activation) -> BlockSpec:
    return BlockSpec(
        width=tower["width"],
        heads=heads,
        hidden=int(tower["width"] * tower.get("mlp_ratio", 4.0)),
        activation=activation,
        layer_scale=tower.get("ls_init_value") is not None,
    )


def _block_name(ours: str, prefix: str) -> str:
    """`blocks.3.attn.qkv.weight` -> `visual.transformer.resblocks.3.attn.in_proj_weight`."""
    _, index, part = ours.split(".", 2)
    return f"{prefix}transformer.resblocks.{index}.{_BLOCK_NAMES[part]}"
