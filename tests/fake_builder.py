"""A TensorRT that records how it is asked to build, and whose engines compute by ONNX Runtime on the fake GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime

from acd_edge.runtime.trt_module import trt_log
from tests.fake_gpu import Array, DataType, FakeEngine, FakeTensorRT, IoTensor, Plan, Severity

KINDS = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.UINT8: DataType.UINT8,
    onnx.TensorProto.INT64: DataType.INT64,
}
FP32 = {"Layers": [{"Name": "x/MatMul", "LayerType": "gemm", "Inputs": [{"Name": "x", "Format/Datatype": "Float"}]}]}
PHASES = {"Building engine": 2, "Tactic timing": 4}


def layers(precision: str) -> str:
    """What the inspector says of an engine whose only product has inputs of this type."""
    return json.dumps(FP32).replace("Float", precision)


@dataclass(eq=False)
class FakeBuilderRT(FakeTensorRT):
    """Besides what the backend uses, everything that building uses.

    `fail` also knows `builder` (a null factory), `parse`, `empty` (a network of nothing), `profile` (minus one),
    `build` (no plan) and `cache` (a timing cache of another device); `says` is what is logged then.

    Attributes:
        inspector: what an engine tells of its layers.
        on_step: called at each step of the build, in the thread that builds.
        asked: what was asked of the builder, in order.
        drift: added to what every engine computes.
    """

    inspector: str = layers("Float")
    on_step: Callable[[str], None] = lambda _: None
    asked: list[str] = field(default_factory=list)
    drift: float = 0.0
    built: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        strong = 1 if self.__version__.startswith("10.") else 0
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=strong)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
        self.BuilderFlag = SimpleNamespace(TF32="tf32")
        self.LayerInformationFormat = SimpleNamespace(JSON="json")
        self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda _: None})
        self.Builder = lambda logger: FakeBuilder(self, logger)
        self.OnnxParser = lambda network, logger: FakeParser(self, network, logger)
        inspecting, runtime = self, self.Runtime

        class Runtime(runtime):  # type: ignore[misc, valid-type]
            def deserialize_cuda_engine(self, plan: Any) -> Any:
                found = super().deserialize_cuda_engine(plan)
                return None if found is None else InspectedEngine(inspecting, found.plan)

        self.Runtime = Runtime

    def said(self, logger: Any) -> None:
        if self.says:
            logger.log(Severity.ERROR, self.says)


class InspectedEngine(FakeEngine):
    num_layers = 2

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: self.trt.inspector)  # type: ignore[attr-defined]


class FakeBuilder:
    def __init__(self, trt: FakeBuilderRT, logger: Any) -> None:
        if "builder" in trt.fail:
            trt.said(logger)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.trt, self.logger = trt, logger

    def create_network(self, flags: int) -> Any:
        self.trt.asked.append(f"network {flags}")
        return FakeNetwork()

    def create_builder_config(self) -> Any:
        return FakeConfig(self.trt)

    def create_optimization_profile(self) -> Any:
        return FakeProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        trt = self.trt
        trt.asked.append(f"build {sorted(config.settings.items())}")
        if not self._steps(config.progress_monitor):
            self.logger.log(Severity.ERROR, "Error Code 7: BuildCanceled (Build canceled by user)")
            return None
        if "build" in trt.fail:
            trt.said(self.logger)
            return None
        trt.built += 1
        plan = f"plan {trt.built} of {network.path.read_bytes()[:400]!r}".encode()
        trt.plans[plan] = plan_of(network.path, config.profiles, trt)
        return bytearray(plan)

    def _steps(self, monitor: Any) -> bool:
        if monitor is None:
            return True
        parent: str | None = None
        for phase, count in PHASES.items():
            monitor.phase_start(phase, parent, count)
            parent = phase
            for step in range(count):
                self.trt.on_step(phase)
                if not monitor.step_complete(phase, step):
                    return False
            monitor.phase_finish(phase)
        return True


class FakeNetwork:
    def __init__(self) -> None:
        self.path = Path()
        self.inputs: list[Any] = []
        self.num_outputs = 0

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> Any:
        return self.inputs[index]


class FakeParser:
    def __init__(self, trt: FakeBuilderRT, network: FakeNetwork, logger: Any) -> None:
        self.trt, self.network, self.logger = trt, network, logger
        self.num_errors = 0

    def parse_from_file(self, model: str) -> bool:
        self.trt.asked.append("parse_from_file")
        if "parse" in self.trt.fail:
            self.num_errors = 1
            return False
        if "empty" in self.trt.fail:
            return True
        graph = onnx.load(model, load_external_data=False).graph
        self.network.path = Path(model)
        self.network.inputs = [SimpleNamespace(name=each.name, shape=shape_of(each)) for each in graph.input]
        self.network.num_outputs = len(graph.output)
        return True

    def get_error(self, index: int) -> Any:
        said = self.trt.says
        return SimpleNamespace(desc=lambda: said, node_name=lambda: "blocks.0/MatMul", node_operator=lambda: "MatMul")


class FakeConfig:
    trt: FakeBuilderRT
    settings: dict[str, Any]
    profiles: list[Any]

    def __init__(self, trt: FakeBuilderRT) -> None:
        object.__setattr__(self, "trt", trt)
        object.__setattr__(self, "settings", {})
        object.__setattr__(self, "profiles", [])
        object.__setattr__(self, "progress_monitor", None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "progress_monitor":
            self.settings[name] = value
        object.__setattr__(self, name, value)

    def set_memory_pool_limit(self, pool: str, pool_size: int) -> None:
        self.settings[pool] = pool_size

    def clear_flag(self, flag: str) -> None:
        self.settings[flag] = False

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return -1 if "profile" in self.trt.fail else 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        content = bytes(serialized_timing_cache)
        self.trt.asked.append(f"timing cache {content!r}")
        return SimpleNamespace(content=content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content and "cache" in self.trt.fail:
            trt_log(self.trt).log(Severity.ERROR, "Version tag does not match")  # type: ignore[attr-defined]
            return False
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: bytearray(b"measured"))


class FakeProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # TensorRT's names
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))


def shape_of(value: Any) -> tuple[int, ...]:
    return tuple(side.dim_value if side.HasField("dim_value") else -1 for side in value.type.tensor_type.shape.dim)


def plan_of(path: Path, profiles: list[Any], trt: FakeBuilderRT) -> Plan:
    """An engine that computes what ONNX Runtime computes, and drifts as it is told."""
    graph = onnx.load(path, load_external_data=False).graph
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shapes = profiles[0].shapes if profiles else {}

    def tensor(value: Any, *, is_input: bool) -> IoTensor:
        kind = KINDS[value.type.tensor_type.elem_type]
        return IoTensor(kind, shape_of(value), is_input, shapes.get(value.name, ()))

    def compute(given: Mapping[str, Array]) -> Mapping[str, Array]:
        wanted = {each.name for each in session.get_inputs()}
        names = [each.name for each in graph.output]
        feed = {name: array.copy() for name, array in given.items() if name in wanted}
        return {name: array + trt.drift for name, array in zip(names, session.run(names, feed), strict=True)}

    def infer(given: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
        count = next(iter(given.values()))[0] if given else 0
        return {each.name: tuple(count if side < 0 else side for side in shape_of(each)) for each in graph.output}

    tensors = {each.name: tensor(each, is_input=True) for each in graph.input}
    tensors |= {each.name: tensor(each, is_input=False) for each in graph.output}
    return Plan(tensors, compute, infer if shapes else None)
