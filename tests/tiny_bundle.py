"""A real bundle of a few kilobytes, whose numbers can be told by hand.

The map is the picture's brightness in 0 to 1, so white is anomalous; the class score is the sigmoid of
the difference of the summed abnormal and normal text features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from acd_edge.runtime.bundle import Bundle, Golden, write_bundle
from acd_edge.runtime.manifest import Manifest
from acd_edge.runtime.text import TextEncoder

SIZE, PATCH, GROUPS, DIM, LENGTH = 56, 14, 2, 8, 12
WORDS = "[PAD] [UNK] a the damaged broken with flaw defect damage photo of object brick . road metal nut".split()  # noqa: SIM905
OPSET = 20


def unit_features(seed: int) -> NDArray[np.float32]:
    """Made text features, (N, 2, D) of unit length."""
    features = np.random.default_rng(seed).normal(size=(GROUPS, 2, DIM)).astype(np.float32)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def class_score(features: NDArray[np.float32]) -> float:
    """What the tiny graph gives for a product."""
    return float(1 / (1 + np.exp(-(features[:, 1].sum(dtype=np.float64) - features[:, 0].sum(dtype=np.float64)))))


def tiny_graph() -> onnx.ModelProto:
    """The graph of the design's section 6, with nothing to learn in it."""
    constants = {
        "full": np.float32(255),
        "channels": np.array([3], np.int64),
        "signs": np.array([-1, 1], np.float32).reshape(1, 1, 2, 1),
        "text_axes": np.array([1, 2, 3], np.int64),
        "even": np.full((1, GROUPS, 2, GROUPS), 1 / GROUPS, np.float32),
        "weights_shape": np.array([-1, 1, 1, 1], np.int64),
        "zero": np.float32(0),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "channels"], ["gray"], keepdims=0),
        helper.make_node("Div", ["gray", "full"], ["anomaly_map"]),
        helper.make_node("Mul", ["text_features", "signs"], ["signed"]),
        helper.make_node("ReduceSum", ["signed", "text_axes"], ["odds"], keepdims=0),
        helper.make_node("Sigmoid", ["odds"], ["class_score"]),
        helper.make_node("Reshape", ["odds", "weights_shape"], ["odds_4d"]),
        helper.make_node("Mul", ["odds_4d", "zero"], ["nothing"]),
        helper.make_node("Add", ["even", "nothing"], ["fusion_weights"]),
    ]
    inputs = {
        "image": (TensorProto.UINT8, [1, SIZE, SIZE, 3]),
        "text_features": (TensorProto.FLOAT, [1, GROUPS, 2, DIM]),
    }
    outputs = {
        "anomaly_map": (TensorProto.FLOAT, [1, SIZE, SIZE]),
        "class_score": (TensorProto.FLOAT, [1]),
        "fusion_weights": (TensorProto.FLOAT, [1, GROUPS, 2, GROUPS]),
    }
    return _model("tiny", nodes, inputs, outputs, constants)


def tiny_text_encoder() -> onnx.ModelProto:
    """Mean of word vectors, (P, L) to (P, N, D), each level L2-normalised."""
    table = np.random.default_rng(5).normal(size=(len(WORDS), GROUPS * DIM)).astype(np.float32)
    constants = {
        "table": table,
        "last": np.array([2], np.int64),
        "tokens": np.array([1], np.int64),
        "levels": np.array([0, GROUPS, DIM], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_3d"]),
        helper.make_node("Mul", ["vectors", "mask_3d"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["summed"], keepdims=0),
        helper.make_node("Reshape", ["summed", "levels"], ["by_level"]),
        helper.make_node("ReduceL2", ["by_level", "last"], ["norms"], keepdims=1),
        helper.make_node("Div", ["by_level", "norms"], ["prompt_features"]),
    ]
    ids = (TensorProto.INT64, ["P", LENGTH])
    outputs = {"prompt_features": (TensorProto.FLOAT, ["P", GROUPS, DIM])}
    return _model("tiny_text", nodes, {"input_ids": ids, "attention_mask": ids}, outputs, constants)


def tiny_tokenizer() -> str:
    """One token for each known word."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return str(tokenizer.to_str())


def tiny_manifest(**changes: Any) -> Manifest:
    """The manifest that fits the tiny graph."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"backbone": "none"},
        "preset": "reference",
        "domain": "industrial",
        "size": SIZE,
        "patch": PATCH,
        "grid": SIZE // PATCH,
        "groups": GROUPS,
        "feature_dim": DIM,
        "score_mix": (0.9, 0.1),
        "precision": "fp32",
        "opset": OPSET,
        "products": {"object": "object", "metal_nut": "metal nut"},
        "context_length": LENGTH,
    }
    return Manifest(**{**values, **changes})


def tiny_features() -> dict[str, NDArray[np.float32]]:
    """Features of the two products, unlike each other."""
    return {"object": unit_features(1), "metal_nut": unit_features(2)}


def tiny_golden() -> Golden:
    """Two pictures and what the tiny graph says of them."""
    image = np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    features = np.stack([unit_features(1), unit_features(1)])
    return Golden(
        image=image,
        text_features=features,
        anomaly_map=(image.mean(axis=3) / 255).astype(np.float32),
        class_score=np.array([class_score(row) for row in features], np.float32),
        fusion_weights=np.full((2, GROUPS, 2, GROUPS), 1 / GROUPS, np.float32),
    )


def write_tiny_bundle(path: Path, *, text_encoder: bool = False, force: bool = False, **changes: Any) -> Path:
    """Write the tiny bundle; `changes` go into its manifest."""
    files: dict[str, Path | bytes] = {"model.onnx": tiny_graph().SerializeToString()}
    if text_encoder:
        files["text_encoder.onnx"] = tiny_text_encoder().SerializeToString()
        files["tokenizer.json"] = tiny_tokenizer().encode()
    write_bundle(
        path,
        tiny_manifest(**changes),
        files=files,
        text_features=tiny_features(),
        golden=tiny_golden(),
        force=force,
    )
    return path


def write_true_bundle(path: Path) -> Path:
    """The tiny bundle with a text encoder, whose text features are the encoder's own."""
    with Bundle.open(write_tiny_bundle(path.with_name(f"{path.name}-made"), text_encoder=True)) as made:
        assert made.text_encoder_file is not None
        encoder = TextEncoder(made.text_encoder_file, made.tokenizer_path, made.manifest, backend="onnxruntime")
        features = {name: encoder.features(words) for name, words in made.manifest.products.items()}
        encoder.close()
        files: dict[str, Path | bytes] = {
            name: (made.root / name).read_bytes() for name in ("model.onnx", "text_encoder.onnx", "tokenizer.json")
        }
    write_bundle(path, tiny_manifest(), files=files, text_features=features, golden=tiny_golden())
    return path


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, tuple[int, Sequence[Any]]],
    constants: dict[str, Any],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, *spec) for key, spec in inputs.items()],
        [helper.make_tensor_value_info(key, *spec) for key, spec in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
