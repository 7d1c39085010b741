"""What an engine was built from, what it is, and what verification said of it: the two JSON files beside a plan."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from typing import Any, Literal, Protocol, TypeVar

from acd_edge.errors import ConfigError

SCHEMA = 1  # of the two JSON files; an engine of another one is built again
State = Literal["verified", "failed", "never verified"]
_LEVELS = range(6)
_GIB = 1 << 30
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("plan_sha256", "precision", "made_at", "bundle", "part"), str),
    **dict.fromkeys(("plan_bytes", "layers", "fused_attentions", "int8_products"), int),
}
"""Fields of `engine.json` that are sorted, compared or counted by -> what they are."""
_Record = TypeVar("_Record")


class Device(Protocol):
    """What of `acd_edge.runtime.cuda.DeviceFacts` names an engine."""

    @property
    def name(self) -> str:
        """As CUDA calls the GPU."""

    @property
    def compute_capability(self) -> str:
        """Such as `8.7`."""

    @property
    def driver(self) -> str:
        """Release of the driver."""

    @property
    def total_bytes(self) -> int:
        """Of the GPU's memory."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How TensorRT is asked to build; all of it names the engine.

    Attributes:
        workspace_mib: most memory that a layer may take for itself, in MiB; on a Jetson it is the computer's own.
        optimization_level: 0 builds fastest, 5 searches longest; TensorRT's own default is 3.
        prompts: most sentences at once in the text encoder's engine.
    """

    workspace_mib: int = 1024
    optimization_level: int = 3
    prompts: int = 64

    def __post_init__(self) -> None:
        if self.workspace_mib < 1 or self.prompts < 1:
            raise ConfigError(f"the workspace and the prompts are at least 1, got {self.workspace_mib}, {self.prompts}")
        if self.optimization_level not in _LEVELS:
            raise ConfigError(f"the optimization level is 0 to 5, got {self.optimization_level}")


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything that an engine depends on.

    Attributes:
        graph: digest of the graph and its external data, from the bundle.
        tensorrt: its release, all digits.
        gpu: `gpu_name` of the device.
        driver: its release.
        options: see `BuildOptions`.
    """

    graph: str
    tensorrt: str
    gpu: str
    driver: str
    options: BuildOptions = field(default_factory=BuildOptions)

    @property
    def digest(self) -> str:
        """Of all fields; the name of the engine's folder."""
        return digest_of(asdict(self))

    def differences(self, other: EngineKey) -> list[str]:
        """What of this key is not as in an older one, in words.

        >>> old = EngineKey(graph="1f", tensorrt="10.3.0", gpu="Orin", driver="540.3")
        >>> from dataclasses import replace
        >>> replace(old, driver="540.4", options=BuildOptions(workspace_mib=512)).differences(old)
        ['the driver was 540.3, is 540.4', 'the workspace was 1024 MiB, is 512 MiB']
        """
        found = ["the graph is another"] if self.graph != other.graph else []
        mine, theirs = _words(self), _words(other)
        return found + [f"{name} was {theirs[name]}, is {mine[name]}" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True, kw_only=True)
class TensorRecord:
    """An input or output of an engine; -1 in the shape is free, and `profile` its least, usual and largest shape."""

    dtype: str
    shape: tuple[int, ...]
    profile: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))  # JSON has lists
        object.__setattr__(self, "profile", tuple(tuple(each) for each in self.profile))


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """What an engine is, read from the engine itself; `engine.json`.

    Attributes:
        key: what it was built from.
        plan_sha256, plan_bytes: of the plan.
        precision: in which the matrix products compute, as the layers say: never what was asked for.
        layers, fused_attentions, int8_products: how many of each.
        build_seconds: of the build alone.
        inputs, outputs: by name.
        made_at: UTC, ISO 8601.
        bundle: name of the bundle that it was built for.
        part: `model` or `text encoder`.
        tools: name -> release of what built it.
        notes: what known releases are said to do to such a graph, for the reader.
    """

    key: EngineKey
    plan_sha256: str
    plan_bytes: int
    precision: str
    layers: int
    fused_attentions: int
    build_seconds: float
    inputs: Mapping[str, TensorRecord]
    outputs: Mapping[str, TensorRecord]
    int8_products: int = 0
    made_at: str = field(default_factory=lambda: now())
    bundle: str = ""
    part: str = "model"
    tools: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineRecord:
        """Read what `asdict` wrote.

        Raises:
            TypeError, ValueError, KeyError: it is something else.
        """
        _check_kinds(values, _KINDS)
        key = dict(values["key"])
        _check_kinds(key, dict.fromkeys(("graph", "tensorrt", "gpu", "driver"), str))
        key["options"] = made(BuildOptions, key["options"])
        tensors = {
            side: {name: made(TensorRecord, each) for name, each in values[side].items()}
            for side in ("inputs", "outputs")
        }
        return made(cls, {**values, **tensors, "key": made(EngineKey, key), "notes": tuple(values["notes"])})


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What verification said of one engine; `verify.json`.

    Attributes:
        passed: whether every check held.
        plan_sha256: of the plan that was verified; a stamp of another plan says nothing.
        checks: the report's rows, as JSON has them.
        tolerance: what was allowed, by name.
        verified_at: UTC, ISO 8601.
    """

    passed: bool
    plan_sha256: str
    checks: Sequence[Mapping[str, Any]] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)
    verified_at: str = field(default_factory=lambda: now())

    def __post_init__(self) -> None:
        if not isinstance(self.passed, bool):  # "no" would be true
            raise ValueError(f"passed is true or false, got {self.passed!r}")
        object.__setattr__(self, "checks", tuple(self.checks))
        if self.passed and not all(isinstance(each, Mapping) and each.get("passed") is True for each in self.checks):
            raise ValueError("it says that all passed, and has a line that did not")


def gpu_name(device: Device) -> str:
    """The GPU as a key has it; the modules of a Jetson family share a name, and the memory tells them apart.

    They have 4, 8, 16, 32, 64 or 128 GiB, of which the system sees what the firmware leaves, and that changes with
    settings: an Orin Nano of 8 GiB shows 7.44, and 60 MiB more would be another whole number.
    """
    size = 2 ** round(math.log2(max(device.total_bytes / _GIB, 1)))
    return f"{device.name}, compute capability {device.compute_capability}, about {size} GiB"


def now() -> str:
    """The time as the records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def to_json(value: Any) -> bytes:
    """A record or a stamp as its file has it."""
    return (json.dumps({"schema": SCHEMA, **asdict(value)}, indent=1) + "\n").encode()


def from_json(content: bytes) -> dict[str, Any]:
    """What `to_json` wrote, without the schema.

    Raises:
        ValueError: it is no JSON, or of another schema.
    """
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
        raise ValueError(f"it is not of schema {SCHEMA}")
    return values


def made(kind: type[_Record], values: Mapping[str, Any]) -> _Record:
    """A dataclass of JSON's values, with exactly its fields."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    if odd := sorted(set(values) ^ names):
        raise ValueError(f"odd or missing: {', '.join(odd)}")
    return kind(**values)


def _check_kinds(values: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"{name} is {values[name]!r}")


def _words(key: EngineKey) -> dict[str, str]:
    options = key.options
    return {
        "TensorRT": key.tensorrt,
        "the GPU": key.gpu,
        "the driver": key.driver,
        "the workspace": f"{options.workspace_mib} MiB",
        "the optimization level": str(options.optimization_level),
        "the most prompts at once": str(options.prompts),
    }


def digest_of(values: Mapping[str, Any]) -> str:
    """sha256 over values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
