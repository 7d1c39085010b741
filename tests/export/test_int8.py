"""INT8: exact where it says so, the graph that torch computes, and what NVIDIA's compiler makes of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from acd_edge.errors import AcdEdgeError, ConfigError, ExportError
from acd_edge.export.graph import FoldedAcdClip, Outputs
from acd_edge.export.groups import layer_groups
from acd_edge.export.int8 import LEVELS, Int8Plan, observe_inputs, quantised, quantize_linear, scale_of
from acd_edge.export.onnx import onnx_from_folded
from acd_edge.export.precision import WideProducts, halve
from acd_edge.export.smooth import smoothed, smoothing_factors
from tests.export.rtx import build
from tests.export.test_compiler import DEPTH, small_clip

SIZE, DIM = 56, 128


def made(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folded() -> FoldedAcdClip:
    """With one loud channel before each MLP, as vision transformers have them."""
    model = small_clip()
    for block in model.blocks:
        block.norm2.weight[3] *= 40  # type: ignore[union-attr, operator, index]
    return model


@pytest.fixture(scope="module")
def plan(folded: FoldedAcdClip) -> Int8Plan:
    pictures = [made(seed) for seed in range(4)]
    factors = smoothing_factors(folded, pictures)
    magnitudes = observe_inputs(smoothed(folded, factors), pictures)
    return Int8Plan(magnitudes=magnitudes, smoothing=factors)


@pytest.fixture(scope="module")
def graphs(folded: FoldedAcdClip, plan: Int8Plan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    even = smoothed(folded, plan.smoothing)
    modules = {"fp32": quantised(even, even, plan.ranges()), "fp16": quantised(halve(even), even, plan.ranges())}
    folder = tmp_path_factory.mktemp("int8")
    return {base: (each, onnx_from_folded(each, folder / f"{base}.onnx")) for base, each in modules.items()}


def feed() -> dict[str, np.ndarray]:
    text = np.random.default_rng(8).standard_normal((1, 2, 2, DIM)).astype(np.float32)
    return {"image": made(9)[None], "text_features": text / np.linalg.norm(text, axis=-1, keepdims=True)}


def said_by(module: FoldedAcdClip) -> list[np.ndarray]:
    with torch.no_grad(), WideProducts():
        return [each.numpy() for each in module(*map(torch.from_numpy, feed().values()))]


def apart(mine: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(mine, theirs, strict=True))


def test_smoothing_changes_no_number_and_evens_the_channels(folded: FoldedAcdClip, plan: Int8Plan) -> None:
    even = smoothed(folded, plan.smoothing)
    assert apart(said_by(folded), said_by(even)) < 1e-5  # float32 rounding through four blocks
    plain = observe_inputs(folded, [made(0)])
    for group in ("blocks.0.mlp.fc1", "blocks.3.mlp.fc1"):
        loud, evened = plain[group], observe_inputs(even, [made(0)])[group]
        assert evened.range("minmax") / evened.range("percentile", 50) < 0.5 * (
            loud.range("minmax") / loud.range("percentile", 50)
        )
    wrong = smoothed(folded, plan.smoothing)
    wrong.blocks[1].mlp.evening.data *= 1.1  # type: ignore[union-attr, operator]  # the control: one factor off
    assert apart(said_by(folded), said_by(wrong)) > 1e-4


def test_the_graph_computes_what_torch_computes(folded: FoldedAcdClip, graphs: dict[str, Any]) -> None:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI, sums saturate otherwise
    plain = said_by(folded)
    # A value beside a step's middle falls to either side. ONNX Runtime widens float16 on a CPU and skips its roundings,
    # so that there more of them do.
    for base, tolerance in (("fp32", 1e-4), ("fp16", 1e-2)):
        module, path = graphs[base]
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found, exact = session.run(None, feed()), said_by(module)
        assert apart(found, exact) < tolerance
        assert apart(exact, plain) > 2e-4  # the control: INT8 is not the same as float32
        assert apart(exact, plain) < 0.05


def test_onnx_runtime_multiplies_in_int8(graphs: dict[str, Any], tmp_path: Path) -> None:
    """On float32's base; without the three axes of the bias it would compute in float."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(graphs["fp32"][1]), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 6 * DEPTH
    assert "DequantizeLinear" not in kinds


@pytest.mark.parametrize(("base", "kind"), [("fp16", TensorProto.FLOAT16), ("fp32", TensorProto.FLOAT)])
def test_what_is_stored_and_what_is_left_alone(graphs: dict[str, Any], base: str, kind: int) -> None:
    graph = onnx.load(str(graphs[base][1])).graph
    stored = {each.name: each for each in graph.initializer}
    layers = [name for group in layer_groups(small_clip()).values() for name in group]
    for name in layers:
        assert stored[f"{name}.weight"].data_type == TensorProto.INT8
        scales = onnx.numpy_helper.to_array(stored[f"{name}.weight_scale"])
        assert (stored[f"{name}.weight_scale"].data_type, scales.ndim) == (kind, 1)
        assert scales.min() >= 2.0**-14
    quantised_nodes = [node.name.rpartition("/")[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert sorted(quantised_nodes) == sorted(layers)  # nothing else: no attention product, embedding, adapter or head
    zeros = {node.input[2] for node in graph.node if "quantizelinear" in node.op_type.lower()}
    assert not any(onnx.numpy_helper.to_array(stored[name]).any() for name in zeros)


def test_the_compiler_takes_it_with_fused_attention_and_int8_products(graphs: dict[str, Any]) -> None:
    built = build(graphs["fp16"][1])
    assert built.fused_attentions == DEPTH
    assert built.summary.int8_products == 4 * DEPTH  # query, key and value are one


class _Reader:
    """Calibration data in the way of ONNX Runtime's quantiser."""

    def __init__(self) -> None:
        self._left = [feed()]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None

    def __iter__(self) -> Any:
        return iter(self._left)


def test_onnx_runtime_s_quantiser_is_refused_by_default_and_taken_with_care(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    source = onnx_from_folded(halve(small_clip()), tmp_path / "fp16.onnx")
    quantization.quantize_static(str(source), str(tmp_path / "default.onnx"), _Reader())
    with pytest.raises((AssertionError, AcdEdgeError), match="zero point"):
        build(tmp_path / "default.onnx")
    graph = onnx.load(str(source), load_external_data=False).graph
    constants = {each.name for each in graph.initializer}
    quantization.quantize_static(
        str(source), str(tmp_path / "careful.onnx"), _Reader(),
        activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8, per_channel=True,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=[n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in constants],
        extra_options={
            "ActivationSymmetric": True, "WeightSymmetric": True, "DedicatedQDQPair": True, "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
        },
    )  # fmt: skip
    built = build(tmp_path / "careful.onnx")
    assert built.fused_attentions == DEPTH
    assert built.summary.int8_products >= 4 * DEPTH


def test_rounding_is_onnx_s() -> None:
    """Half to even, saturated."""
    found = quantize_linear(torch.tensor([0.25, 0.75, -0.25, 1e9, -1e9, 31.6]), torch.tensor(0.5))
    assert found.tolist() == [0, 2, 0, 127, -128, 63]


@pytest.mark.parametrize("magnitude", [0.0, 1e-9, 1e-5])
def test_scales_of_float16_are_never_subnormal(magnitude: float) -> None:
    assert float(scale_of(torch.tensor(magnitude), torch.float16)) == 2.0**-14
    assert float(scale_of(torch.tensor(LEVELS * 0.5), torch.float16)) == 0.5


def test_groups_can_be_left_out(folded: FoldedAcdClip, plan: Int8Plan) -> None:
    left = frozenset({"blocks.2.mlp.fc2"})
    part = Int8Plan(magnitudes=plan.magnitudes, leave_out=left)
    assert set(plan.ranges()) - set(part.ranges()) == left
    assert part.record()["left_out"] == ["blocks.2.mlp.fc2"]
    kinds = {name: type(module).__name__ for name, module in quantised(folded, folded, part.ranges()).named_modules()}
    assert (kinds["blocks.2.mlp.fc2"], kinds["blocks.2.mlp.fc1"]) == ("Affine", "QuantAffine")
    with pytest.raises(ConfigError, match=r"blocks\.9"):
        Int8Plan(magnitudes=plan.magnitudes, leave_out=frozenset({"blocks.9.mlp.fc1"}))


def test_a_block_that_normalises_after_its_sums_cannot_be_evened(folded: FoldedAcdClip, plan: Int8Plan) -> None:
    """Its LayerNorm's output is the stream itself: dividing it would change the model."""
    after = copy.deepcopy(folded)
    after.blocks[1].post_norm = True  # type: ignore[assignment]
    with pytest.raises(ExportError, match=r"blocks\.1 normalises after its sums"):
        smoothed(after, plan.smoothing)


@pytest.mark.parametrize("ranges", [{"blocks.0.attn.qkv": 0.0}, {"blocks.0.attn.qkv": float("nan")}, {"nothing": 1.0}])
def test_ranges_that_cannot_serve(folded: FoldedAcdClip, ranges: dict[str, float]) -> None:
    with pytest.raises(ExportError, match="no INT8 range"):
        quantised(folded, folded, ranges)


def test_outputs_keep_their_names(graphs: dict[str, Any]) -> None:
    for _, path in graphs.values():
        assert [each.name for each in onnx.load(str(path)).graph.output] == list(Outputs._fields)
