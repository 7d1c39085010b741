"""TensorRT's failures in words that tell what to do. The messages are those of its releases and of issue threads."""

from __future__ import annotations

import pytest

from acd_edge.export.trt_log import explain, is_null_factory

NO_KERNEL = (
    "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node "
    "{ForeignNode[blocks.0.attn.query/MatMul...blocks.11/Add_1]}.)"
)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (NO_KERNEL, "ran out of memory at {ForeignNode[blocks.0.attn.query/MatMul...blocks.11/Add_1]}: close other"),
        ("Requested amount of GPU memory (2147483648 bytes) could not be allocated. OutOfMemory", "lower --workspace"),
        ("CUDA initialization failure with error: 35. Please check your CUDA installation", "driver is absent, or old"),
        ("Error Code 1: Cuda Runtime (In getCurrentCC (cudaError 35: CUDA driver version is insuff", "acd-edge doctor"),
        ("Target GPU SM 53 is not supported by this TensorRT release.", "no kernels for this GPU (SM 53)"),
        (
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion stdVersionRead == "
            "kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current Version: 240, Serialized Engine "
            "Version: 239)",
            "another TensorRT release or device; build it again",
        ),
        ("The engine plan file is not compatible with this version of TensorRT, expecting 10.3", "another TensorRT"),
        (
            "ModelImporter.cpp:914: In function importModel: Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero "
            "zero point is not supported.",
            "quantised asymmetrically",
        ),
        ("Assertion failed: (scale > 0): Scale coefficients must all be positive", "a quantisation scale is zero"),
        ("Invalid Node - Transpose. UInt8 is only supported as a network input", "computes with uint8"),
        (
            "Attention operation was not supported by a dedicated kernel ... setDecomposable",
            "ONNX's Attention",
        ),
        ("In node 3 (importNode): No importer registered for op: RotaryEmbedding", "the operator RotaryEmbedding"),
        (
            'Foo blocks.0/Foo: creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
            "does not take the operator Foo",
        ),
        ("MatMulInteger x/MatMul: false", "does not take the operator MatMulInteger"),
        ("Error Code 7: BuildCanceled (Build canceled by user In next", "the build was cancelled"),
        ("something new", "TensorRT cannot build this graph"),
    ],
)
def test_each_failure_says_what_to_do_and_quotes_tensorrt(message: str, words: str) -> None:
    found = explain([(3, "an earlier line"), (1, message), (0, "a consequence")])
    assert words in found
    assert f"TensorRT: {message}"[:250] in found
    assert "\n" not in found


def test_an_exhausted_memory_tells_how_much_was_wanted() -> None:
    said = [
        (2, "Tactic Device request: 806MB Available: 187MB. Device memory is insufficient to use tactic."),
        (2, "UNSUPPORTED_STATE: Skipping tactic 0 due to insufficient memory on requested size of 1700241408 detected"),
        (1, NO_KERNEL),
    ]
    assert "a kernel wanted 806 MB and 187 MB were free" in explain(said)
    assert "a kernel wanted 1621 MiB" in explain(said[1:])


def test_warnings_alone_explain_nothing() -> None:
    assert explain([(2, "out of memory"), (3, "told")]) == ""
    assert explain([]) == ""


def test_a_long_message_is_cut() -> None:
    assert len(explain([(1, "x" * 9999)])) < 500


def test_a_null_from_the_library() -> None:
    assert is_null_factory(TypeError("pybind11::init(): factory function returned nullptr"))
    assert not is_null_factory(TypeError("missing a required argument"))
