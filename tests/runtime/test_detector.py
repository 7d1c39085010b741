from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from acd_edge.errors import BackendError, BundleError, ConfigError, MissingExtra, ShapeError, UnknownProduct
from acd_edge.runtime import Bundle, Detector
from acd_edge.runtime.backends import BACKENDS, GraphFile, TensorSpec, check_feed, open_backend
from acd_edge.runtime.detector import stretch_map
from acd_edge.runtime.preprocess import resize
from tests.tiny_bundle import SIZE, class_score, tiny_manifest, unit_features, write_tiny_bundle

HEAVY = [
    "torch",
    "onnx",
    "open_clip",
    "timm",
    "transformers",
    "onnxscript",
    "scipy",
    "sklearn",
    "skimage",
    "safetensors",
]


def white_square(height: int = 100, width: int = 150) -> NDArray[np.uint8]:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[height // 4 : height // 2, width // 2 : width // 2 + height // 4] = 255
    return rgb


def test_score_and_map_are_those_told_by_hand(bundle: Path) -> None:
    rgb = white_square()
    with Detector.load(bundle) as detector:
        result = detector.predict(rgb)
    small = resize(rgb, SIZE).mean(axis=2) / 255
    np.testing.assert_allclose(result.model_map, small, atol=1e-6)  # float32 rounding of one division
    assert result.score == pytest.approx(0.9 * class_score(unit_features(1)) + 0.1 * small.max(), abs=1e-6)
    assert result.anomaly_map.shape == (100, 150)
    assert result.anomaly_map.dtype == np.float32
    assert result.fusion_weights.shape == (2, 2, 2)
    assert result.latency_ms > 0
    # the hot spot is where the square is: rows first, and not mirrored
    row, column = np.unravel_index(result.anomaly_map.argmax(), (100, 150))
    assert 25 <= row < 50
    assert 75 <= column < 100


def test_products_give_their_own_scores(bundle: Path) -> None:
    rgb = white_square()
    with Detector.load(bundle, product="metal_nut") as detector:
        nut = detector.predict(rgb)
        detector.set_product("object")
        plain = detector.predict(rgb)
    assert nut.product == "metal_nut"
    assert nut.class_score == pytest.approx(class_score(unit_features(2)), abs=1e-6)
    assert plain.class_score == pytest.approx(class_score(unit_features(1)), abs=1e-6)
    assert abs(nut.class_score - plain.class_score) > 1e-2  # the control: the products are unlike


def test_a_file_and_its_pixels_give_the_same(bundle: Path, tmp_path: Path) -> None:
    rgb = white_square()
    Image.fromarray(rgb).save(tmp_path / "a.png")
    with Detector.load(bundle) as detector:
        assert detector.predict(tmp_path / "a.png").score == detector.predict(rgb).score


def test_new_product_just_works_with_a_text_encoder(talking_bundle: Path) -> None:
    rgb = white_square()
    with Detector.load(talking_bundle, product="old_brick") as detector:
        brick = detector.predict(rgb)
        detector.set_product("old_brick=road")
        road = detector.predict(rgb)
        detector.set_product("object=brick")  # other words than the bundle's: made anew
        renamed = detector.predict(rgb)
        detector.set_product("object")
        plain = detector.predict(rgb)
    assert brick.product == road.product == "old_brick"
    assert len({brick.class_score, road.class_score, renamed.class_score, plain.class_score}) == 4
    assert plain.class_score == pytest.approx(class_score(unit_features(1)), abs=1e-6)


def test_new_features_are_unit_length_and_computed_once(talking_bundle: Path) -> None:
    with Detector.load(talking_bundle, product="road") as detector:
        encoder = detector._encoder("road")
        first = encoder.features("road")
        assert encoder.features("road") is first
        normal, _ = detector.bundle.manifest.prompts.sentences("road")
        each = encoder.encode(normal)
    np.testing.assert_allclose(np.linalg.norm(first, axis=-1), 1, atol=1e-6)
    mean = each.mean(axis=0)
    np.testing.assert_allclose(first[:, 0], mean / np.linalg.norm(mean, axis=-1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("product", "hint"),
    [
        ("metal_nutt", "did you mean metal_nut?"),
        ("zzz", "it knows object, metal_nut"),
        ("object=brick", "its object stands for 'object': --product 'object=object'"),  # other words cannot be made
    ],
)
def test_unknown_product_names_the_nearest(bundle: Path, product: str, hint: str) -> None:
    with pytest.raises(UnknownProduct, match="no text encoder") as caught:
        Detector.load(bundle, product=product)
    assert hint in str(caught.value)


def test_graph_and_manifest_must_agree(tmp_path: Path, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    graph = open_backend(opened.model_file)
    opened.manifest = tiny_manifest(size=28, grid=2)
    with pytest.raises(BundleError, match=r"image: want uint8 \(1, 56, 56, 3\), got uint8 \(1, 28, 28, 3\)"):
        Detector(opened, backend=graph)


class FakeBackend:
    """A backend that owes nothing to ours."""

    name = "fake"

    def __init__(self, value: float) -> None:
        self.inputs = {
            "image": TensorSpec(np.dtype(np.uint8), (None, SIZE, SIZE, 3)),
            "text_features": TensorSpec(np.dtype(np.float32), (None, 2, 2, 8)),
        }
        self.value = value

    def run(self, feed: object) -> dict[str, NDArray[np.float32]]:
        return {
            "anomaly_map": np.full((1, SIZE, SIZE), self.value, np.float32),
            "class_score": np.array([self.value], np.float32),
            "fusion_weights": np.zeros((1, 2, 2, 2), np.float32),
        }

    def close(self) -> None: ...


def test_any_backend_of_the_protocol_serves(bundle: Path) -> None:
    detector = Detector(Bundle.open(bundle), backend=FakeBackend(0.5))
    assert detector.predict(white_square()).score == pytest.approx(0.5)


def test_nan_from_a_backend_is_an_error(bundle: Path) -> None:
    detector = Detector(Bundle.open(bundle), backend=FakeBackend(np.nan))
    with pytest.raises(BackendError, match="fake gave NaN"):
        detector.predict(white_square())


def test_score_mix_is_the_manifests(tmp_path: Path) -> None:
    rgb = white_square()
    with Detector.load(write_tiny_bundle(tmp_path / "m", score_mix=(0.5, 0.5))) as detector:
        result = detector.predict(rgb)
    assert result.score == pytest.approx(0.5 * result.class_score + 0.5 * float(result.model_map.max()))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"got uint8 \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "got float32"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_odd_arrays_are_refused(bundle: Path, image: NDArray[np.uint8], message: str) -> None:
    with Detector.load(bundle) as detector, pytest.raises(ShapeError, match=message):
        detector.predict(image)


def test_closed_detector_says_so(bundle: Path) -> None:
    detector = Detector.load(bundle)
    detector.close()
    detector.close()
    with pytest.raises(BackendError, match="closed"):
        detector.predict(white_square())


def test_bf16_and_broken_graphs_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"bf16 .* export --fp32"):
        Detector.load(write_tiny_bundle(tmp_path / "b", precision="bf16"))
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match="cannot load") as caught:
        open_backend(GraphFile(path=tmp_path / "x.onnx"))
    assert "\n" not in str(caught.value)


def test_unknown_backend_names_the_known(bundle: Path) -> None:
    with pytest.raises(ConfigError, match=f"known are auto, {', '.join(BACKENDS)}"):
        Detector.load(bundle, backend="cuda")


def test_check_feed_names_what_is_odd() -> None:
    inputs = {"image": TensorSpec(np.dtype(np.uint8), (1, None))}
    check_feed({"image": np.zeros((1, 9), np.uint8)}, inputs)
    odd: list[tuple[dict[str, NDArray[Any]], str]] = [
        ({}, "odd: image"),
        ({"image": np.zeros((1, 9), np.uint8), "more": np.zeros(1)}, "odd: more"),
        ({"image": np.zeros((2, 9), np.uint8)}, r"want uint8 \(1, any\), got uint8 \(2, 9\)"),
        ({"image": np.zeros((1, 9, 1), np.uint8)}, r"got uint8 \(1, 9, 1\)"),
    ]
    for feed, message in odd:
        with pytest.raises(ShapeError, match=message):
            check_feed(feed, inputs)


@pytest.mark.parametrize("frame_hw", [(SIZE, SIZE), (1, 1), (7, 300), (300, 7)])
def test_map_keeps_its_range_and_mean_at_every_size(frame_hw: tuple[int, int]) -> None:
    small = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1))
    big = stretch_map(small, frame_hw)
    assert big.shape == frame_hw
    assert big.min() >= 0
    assert big.max() <= 1 + 1e-6
    assert big.mean() == pytest.approx(0.5, abs=0.02)
    if frame_hw == (SIZE, SIZE):
        np.testing.assert_array_equal(big, small)


def run_without(modules: list[str], code: str) -> subprocess.CompletedProcess[str]:
    block = f"import sys; sys.modules.update(dict.fromkeys({modules}))"  # None makes an import fail
    return subprocess.run([sys.executable, "-c", f"{block}\n{code}"], capture_output=True, text=True, check=False)


def test_runtime_predicts_without_torch_and_onnx(talking_bundle: Path) -> None:
    code = (
        "import numpy as np; from acd_edge.runtime import Detector\n"
        f"d = Detector.load({str(talking_bundle)!r}, product='never_seen')\n"
        "print(d.predict(np.zeros((20, 30, 3), np.uint8)).anomaly_map.shape)"
    )
    done = run_without(HEAVY, code)
    assert done.stdout.strip() == "(20, 30)", done.stderr
    assert run_without([*HEAVY, "numpy"], code).returncode == 1  # the control: blocking works


def test_every_module_of_the_runtime_imports_on_a_bare_device() -> None:
    root = Path(__file__).parents[2] / "runtime"
    names = [
        ".".join(("acd_edge.runtime", *path.relative_to(root).with_suffix("").parts)) for path in root.rglob("*.py")
    ]
    imports = "; ".join(f"import {name.removesuffix('.__init__')}" for name in sorted(names))
    done = run_without([*HEAVY, "cv2", "onnxruntime"], imports)
    assert done.returncode == 0, done.stderr
    assert len(names) > 10


def test_missing_onnxruntime_names_the_extra(bundle: Path) -> None:
    code = f"from acd_edge.runtime import Detector; Detector.load({str(bundle)!r})"
    assert "acd-edge[cpu]" in run_without(["onnxruntime", "openvino"], code).stderr
    assert issubclass(MissingExtra, ImportError)
