"""From a bundle to engines for this machine: built, read back, verified, kept. What is there already is used."""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from acd_edge import __version__
from acd_edge.errors import DeviceError, EngineError, OutputError
from acd_edge.export.build import Built, Inspected, build_engine, inspect_plan, new_monitor
from acd_edge.export.layers import UNKNOWN
from acd_edge.runtime.backends import GraphFile
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.cuda import Cuda, open_cuda
from acd_edge.runtime.engines import (
    BuildOptions,
    Engine,
    EngineKey,
    EngineRecord,
    State,
    cache_root,
    exact_engine,
    gpu_name,
    newest_engine,
    read_timing_cache,
    sole_builder,
    stale_engine,
    write_engine,
    write_stamp,
    write_timing_cache,
)
from acd_edge.runtime.graph_files import external_files, op_types
from acd_edge.runtime.releases import KnownBad, known_bad
from acd_edge.runtime.trt_module import check_release, load_tensorrt, trt_log

__all__ = ["build_engine", "compile_bundle", "ensure_engine", "memory_needed", "parts_of"]

MODEL, TEXT_ENCODER = "model", "text encoder"
_MIB = 1 << 20
_FUSES = frozenset({"fp16", "bf16", "int8"})  # TensorRT has no fused attention in fp32
# Rules of thumb, not measured on a device: on a CPU the compiler's process took 3.6 times the weights.
_COPIES_SHARED = 4  # parsed, built, serialised and loaded, all in one memory
_COPIES_OWN = 2  # built and loaded; the rest lies in the computer's memory
_CONTEXT = 512 * _MIB  # of CUDA and TensorRT themselves

logger = logging.getLogger(__name__)
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Machine:
    """What builds: the library, the device, and who is told."""

    trt: Any
    cuda: Cuda
    progress: Progress

    @property
    def tensorrt(self) -> str:
        return str(self.trt.__version__)

    def wait(self) -> None:
        self.progress("another acd-edge builds an engine into this cache; waiting for it")


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One graph of a bundle: the model, or its text encoder."""

    name: str
    graph: GraphFile

    @property
    def weights(self) -> int:
        """Bytes of the graph and of what it reads."""
        path = self.graph.path
        return sum((path.parent / name).stat().st_size for name in {path.name, *external_files(path)})


def compile_bundle(
    bundle: Bundle,
    options: BuildOptions = BuildOptions(),  # noqa: B008  # frozen
    *,
    force: bool = False,
    verify: bool = True,
    parts: Collection[str] = (MODEL, TEXT_ENCODER),
    progress: Progress = logger.info,
    cuda: Cuda | None = None,
    trt: Any = None,
) -> list[Engine]:
    """Build the engines of a bundle for this machine with exactly these options, unless they are there.

    Args:
        bundle: opened, so that its digests were checked.
        options: how to build.
        force: build even where an engine of exactly these options is there.
        verify: compare each engine with the bundle's golden samples, and keep the result beside it.
        parts: which of its engines, `model`, `text encoder` or both; a bundle may have no text encoder.
        progress: is told each step.
        cuda, trt: the device and the library; this machine's own unless given.

    Returns:
        The engines of the parts. One that failed its verification is among them, with that state.

    Raises:
        MissingExtra: TensorRT or CUDA's Python binding is not installed.
        EngineError: the release is known to fail on this graph, TensorRT refuses it, or the engine computes in
            another precision than the bundle says.
        DeviceError: there is no device or driver to use, or too little memory.
        OutputError: the cache cannot be written; nothing half written stays.
    """
    machine = _machine(trt, cuda, progress)
    unsure: set[State] = {"failed", "never verified"} if verify else set()

    def ready(part: _Part) -> Engine:
        key = _key(machine, part, _with_prompts(bundle, options))

        def find() -> Engine | None:
            return None if force else _whole(exact_engine(key), progress)

        def tell(engine: Engine) -> None:
            progress(f"{part.name}: the engine is there already, {engine.state}")

        return _ready(machine, bundle, part, key, find, unsure, force=force, tell=tell)

    return [ready(part) for part in parts_of(bundle, parts)]


def ensure_engine(
    bundle: Bundle,
    *,
    parts: Collection[str] = (MODEL, TEXT_ENCODER),
    cuda: Cuda | None = None,
    progress: Progress = logger.info,
    trt: Any = None,
) -> list[Engine]:
    """The engines that a run of this bundle uses here: those that are there, and what is missing built and verified.

    A text encoder's engine that fails its verification is told and left out where the model's is asked for too: the
    products that the bundle carries do without it, and for others the backend refuses it.

    Args:
        bundle: see `compile_bundle`.
        parts: what is used, `model`, `text encoder` or both.
        cuda, progress, trt: see `compile_bundle`.

    Raises:
        EngineError: an engine failed its verification; and as `compile_bundle`.
        MissingExtra, DeviceError, OutputError: as `compile_bundle`.
    """
    machine = _machine(trt, cuda, progress)
    engines = []
    for part in parts_of(bundle, parts):
        key = _key(machine, part, _with_prompts(bundle, BuildOptions()))
        find = partial(newest_engine, part.graph.digest, machine.tensorrt, machine.cuda.facts)
        engine = _ready(machine, bundle, part, key, find, {"never verified"})
        if engine.state != "failed":
            engines.append(engine)
        elif part.name == TEXT_ENCODER and MODEL in parts:
            progress(f"{failure(bundle, engine)}. Products of the bundle do not need it")
        else:
            raise EngineError(failure(bundle, engine))
    return engines


def _whole(engine: Engine | None, progress: Progress) -> Engine | None:
    """The engine, or None where its plan is not what its record says: then it is built anew."""
    if engine is None:
        return None
    try:
        engine.plan_bytes()
    except EngineError as error:
        progress(f"{engine.record.part}: {str(error).partition(';')[0]}")
        return None
    return engine


def _ready(
    machine: _Machine,
    bundle: Bundle,
    part: _Part,
    key: EngineKey,
    find: Callable[[], Engine | None],
    unsure: Collection[State],
    *,
    force: bool = False,
    tell: Callable[[Engine], None] = lambda _: None,
) -> Engine:
    """The engine that `find` finds, which `tell` gets, or else a new one; verified where its state is `unsure`."""
    engine = find()
    if engine is not None:
        tell(engine)
    if engine is not None and engine.state not in unsure:
        return engine
    with sole_builder(machine.wait):
        engine = find() or _built(machine, bundle, part, key, force=force)  # another process may have built it by now
        return _verified(machine, bundle, engine) if engine.state in unsure else engine


def failure(bundle: Bundle, engine: Engine) -> str:
    """What to tell of an engine that failed its verification."""
    return (
        f"the {engine.record.part}'s engine failed its verification: it does not compute what the bundle says; do not "
        f"trust it, and see where it departs with: acd-edge verify {bundle.path} --backend tensorrt"
    )


def parts_of(bundle: Bundle, parts: Collection[str] = (MODEL, TEXT_ENCODER)) -> list[_Part]:
    """The graphs of a bundle that become engines, those of them that are called so."""
    graphs = {MODEL: bundle.model_file, TEXT_ENCODER: bundle.text_encoder_file}
    return [_Part(name=name, graph=graph) for name, graph in graphs.items() if graph is not None and name in parts]


def memory_needed(weights: int, workspace_mib: int, *, shared: bool) -> int:
    """Bytes that a build may take of the device's memory; a rule of thumb.

    Args:
        weights: bytes of the graph and its data.
        workspace_mib: see `BuildOptions`.
        shared: the device has no memory of its own.

    >>> memory_needed(600 << 20, 1024, shared=True) >> 20
    3936
    """
    return weights * (_COPIES_SHARED if shared else _COPIES_OWN) + workspace_mib * _MIB + _CONTEXT


def _machine(trt: Any, cuda: Cuda | None, progress: Progress) -> _Machine:
    module = load_tensorrt() if trt is None else trt
    check_release(module)
    return _Machine(trt=module, cuda=open_cuda() if cuda is None else cuda, progress=progress)


def _key(machine: _Machine, part: _Part, options: BuildOptions) -> EngineKey:
    facts = machine.cuda.facts
    return EngineKey(
        graph=part.graph.digest, tensorrt=machine.tensorrt, gpu=gpu_name(facts), driver=facts.driver, options=options
    )


def _with_prompts(bundle: Bundle, options: BuildOptions) -> BuildOptions:
    """Room for all sentences of one product, however many the bundle's prompts have."""
    sentences = sum(len(each) for each in bundle.manifest.prompts.sentences("product"))
    return replace(options, prompts=max(options.prompts, sentences))


def _built(machine: _Machine, bundle: Bundle, part: _Part, key: EngineKey, *, force: bool = False) -> Engine:
    """Check, build, read back and keep one engine."""
    notes = _check_release_for(machine, part)
    machine.progress(_why(part, key, force=force))
    _check_room(machine, part, key.options)
    log = trt_log(machine.trt)
    built = build_engine(
        machine.trt,
        part.graph.path,
        key.options,
        log=log,
        monitor=new_monitor(machine.trt, machine.progress),
        timing_cache=read_timing_cache(machine.tensorrt, machine.cuda.facts),
        within=machine.cuda.active,
        progress=machine.progress,
    )
    with machine.cuda.active():
        found = inspect_plan(machine.trt, built.plan, log)
    _check_precision(part, found, machine)
    engine = write_engine(key, built.plan, _record(machine, bundle, part, key, built, found, notes))
    write_timing_cache(machine.tensorrt, machine.cuda.facts, built.timing_cache)
    said = found.summary
    machine.progress(
        f"{part.name}: {said.precision}, {said.layers} layers, {said.fused_attentions} fused attentions, "
        f"{built.plan.nbytes / 1e6:.1f} MB, built in {built.seconds:.0f} s"
    )
    if said.fused_attentions == 0 and said.precision in _FUSES and "Softmax" in op_types(part.graph.path):
        machine.progress(f"{part.name}: no attention became one kernel, so it is slower than it could be")
    return engine


def _check_release_for(machine: _Machine, part: _Part) -> list[KnownBad]:
    """What is said about this release and this graph, told; a report that refuses ends it."""
    reports = known_bad(machine.tensorrt, op_types(part.graph.path))
    for each in reports:
        if each.severity == "refuse":
            raise EngineError(f"{each}; use another release of TensorRT, or another backend")
        logger.info("%s", each)
    if reports:
        machine.progress(f"{part.name}: TensorRT {machine.tensorrt} is used after verification only: {reports[0]}")
    return reports


def _why(part: _Part, key: EngineKey, *, force: bool) -> str:
    stale = stale_engine(key)
    if force:
        return f"{part.name}: build the engine anew"
    if stale is None:
        return f"{part.name}: build the engine; this may take minutes"
    return f"{part.name}: build the engine anew, since {'; '.join(stale[1])}"


def _check_room(machine: _Machine, part: _Part, options: BuildOptions) -> None:
    """Refuse before the build what would end it after minutes: too little memory or disk."""
    facts, weights = machine.cuda.facts, part.weights
    with machine.cuda.active():
        free = machine.cuda.free_bytes()
    if facts.integrated:
        free = max(free, _available())  # CUDA counts what the system holds as a cache, and would give back, as used
    need = memory_needed(weights, options.workspace_mib, shared=facts.integrated)
    if need > free:
        raise DeviceError(
            f"building the {part.name}'s engine may take {need // _MIB:,} MiB and {free // _MIB:,} MiB are free; lower "
            f"--workspace (now {options.workspace_mib} MiB), close other programs, or work without a desktop"
        )
    root = cache_root()
    if (left := shutil.disk_usage(root).free) < 2 * weights:
        raise OutputError(
            f"{root} has {left // _MIB:,} MiB left and an engine of {weights // _MIB:,} MiB of weights needs twice "
            "that; free some space, or set ACD_EDGE_CACHE"
        )


def _available() -> int:
    """Memory that Linux could give to a program now, in bytes; 0 where it does not tell."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10
    return 0


def _check_precision(part: _Part, found: Inspected, machine: _Machine) -> None:
    """The engine must compute in what the bundle says; what was asked of the builder is no proof of it."""
    wanted, got = part.graph.precision, found.summary.precision
    if got == UNKNOWN:
        machine.progress(f"{part.name}: TensorRT {machine.tensorrt} does not tell what the engine computes in")
    elif got != wanted:
        raise EngineError(
            f"the bundle's {part.name} is {wanted} and the engine computes in {got}: TensorRT {machine.tensorrt} did "
            "not keep the graph's types; the engine was dropped. Export the bundle again, or use another release"
        )


def _record(
    machine: _Machine,
    bundle: Bundle,
    part: _Part,
    key: EngineKey,
    built: Built,
    found: Inspected,
    notes: list[KnownBad],
) -> EngineRecord:
    return EngineRecord(
        key=key,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=built.plan.nbytes,
        precision=found.summary.precision,
        layers=found.summary.layers,
        fused_attentions=found.summary.fused_attentions,
        int8_products=found.summary.int8_products,
        build_seconds=round(built.seconds, 1),
        inputs=found.inputs,
        outputs=found.outputs,
        bundle=bundle.manifest.name,
        part=part.name,
        tools=dict(_tools(machine)),
        notes=tuple(str(each) for each in notes),
    )


def _tools(machine: _Machine) -> Iterator[tuple[str, str]]:
    yield "acd-edge", __version__
    yield "tensorrt", machine.tensorrt
    yield "python", platform.python_version()
    yield "cuda", machine.cuda.name


def _verified(machine: _Machine, bundle: Bundle, engine: Engine) -> Engine:
    """Compare an engine with what its bundle carries, and stamp it."""
    from acd_edge.export.verify import stamp_of, verify_engine

    machine.progress(f"{engine.record.part}: verify the engine")
    report = verify_engine(bundle, engine, cuda=machine.cuda, trt=machine.trt, progress=machine.progress)
    stamped = write_stamp(engine, stamp_of(report, engine))
    machine.progress(f"{engine.record.part}: {stamped.state}")
    return stamped
