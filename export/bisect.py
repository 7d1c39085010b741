"""Which block of the network is the first to depart from what it should compute.

A copy of the graph gives out what each block makes; run on the golden samples beside a reference, the first block whose
output is further off than the arithmetic explains is the one. The reference is the folded source in torch where the
checkpoint is at hand; else the same graph computed in float32 by ONNX Runtime, which finds a library or a device that
computes wrongly, and cannot find weights that are wrong. Needs `onnx`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acd_edge.errors import BackendError, MissingExtra, UsageError
from acd_edge.export.probes import OUTSIDE, block_ends, read_graph, values_of, with_probes, write_widened
from acd_edge.export.references import load_source
from acd_edge.export.tolerance import Tolerance, tolerance_for
from acd_edge.lazy import require
from acd_edge.runtime.backends import Backend, BackendOptions, GraphFile, check_feed, open_backend
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.bundle_files import Golden

__all__ = ["Bisection", "BlockDrift", "bisect_bundle"]

Arrays = list[npt.NDArray[Any]]
Open = Callable[[GraphFile], Backend]
Probe = Callable[[Sequence[str]], Mapping[str, Arrays]]
"""Blocks to what leaves each of them, all golden samples one after the other."""
JUMP = 5
"""A block that makes the error of those before it so many times larger departs, from a fifth of the limit on."""
_TRUNK = ("embed", "blocks.", "adapters.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BlockDrift:
    """How far what leaves a block is from the reference.

    Attributes:
        block: by its place in the model, such as `blocks.4`.
        error: L2 norm of the difference by that of the reference; None where a value is not finite.
        departs: further than the arithmetic explains.
    """

    block: str
    error: float | None
    departs: bool


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """What was found.

    Attributes:
        reference: in words.
        same_weights: the reference has the bundle's own weights, so that it cannot tell wrong ones.
        way: how it was looked for, in words.
        limit: relative error from which on a block departs.
        blocks: in the order of computation, those that were looked at.
    """

    reference: str
    same_weights: bool
    way: str
    limit: float
    blocks: tuple[BlockDrift, ...]

    @property
    def first(self) -> str | None:
        """The first block that departs, or None."""
        return next((each.block for each in self.blocks if each.departs), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"first": self.first, **asdict(self)}


def bisect_bundle(
    bundle: Bundle,
    backend: str = "auto",
    options: BackendOptions = BackendOptions(),  # noqa: B008  # frozen
    *,
    checkpoint: Path | None = None,
    clip_weights: Path | None = None,
    tolerance: Tolerance | None = None,
    open_graph: Open | None = None,
    is_wrong: bool = False,
    progress: Callable[[str], None] = logger.info,
) -> Bisection:
    """Compare a bundle's graph with a reference, block by block, on the golden samples.

    Args:
        bundle, backend, options: as in `verify_bundle`.
        checkpoint, clip_weights: what the bundle was made from, for a reference with its own weights; needs torch.
        tolerance: `block` is what is used of it.
        open_graph: loads a graph in place of `open_backend`; for an engine it builds one.
        is_wrong: the graph is known to depart. Where it does not with every block's output given out, since that
            changes what a compiler joins, the blocks are given out one at a time.
        progress: is told each step.

    Raises:
        MissingExtra: onnx is not installed, or torch with a checkpoint.
        UsageError: without a checkpoint, ONNX Runtime's CPU cannot run the graph.
        BundleError, CheckpointError: as in `load_source`.
    """
    require("onnx", "export")
    allowed = tolerance or tolerance_for(bundle.manifest.precision, openvino_precision=options.openvino_precision)
    load = open_graph or (lambda graph: open_backend(graph, backend=backend, options=options))
    ends, golden = block_ends(read_graph(bundle.model_path)), bundle.golden
    subject = _graph_probe(bundle, bundle.model_path, ends, golden, load)
    if checkpoint is not None:
        progress(f"blocks of {checkpoint} in torch")
        name, wanted = f"checkpoint {checkpoint}, folded (torch, float32)", _source_values(
            bundle, checkpoint, clip_weights, golden
        )  # fmt: skip
    else:
        progress("blocks of the same graph in float32")
        name, wanted = "the same graph computed in float32 by ONNX Runtime", _widened_values(bundle, ends, golden)
    progress(f"blocks of the graph, {len(ends)} at once")
    way, blocks = "all blocks at once, in order", _walk(subject(list(ends)), wanted, allowed.block)
    if is_wrong and not any(each.departs for each in blocks):
        way = "one block at a time, halving"
        blocks = _one_at_a_time(subject, wanted, list(ends), allowed.block, progress)
    return Bisection(
        reference=name, same_weights=checkpoint is None, way=way, limit=allowed.block, blocks=tuple(blocks)
    )


def _walk(found: Mapping[str, Arrays], wanted: Mapping[str, Arrays], limit: float) -> list[BlockDrift]:
    """Judge every block, given the errors before it."""
    drifts: list[BlockDrift] = []
    largest: float | None = None  # of those before
    for block, arrays in found.items():
        error = relative_error(arrays, wanted[block])
        departs = error is None or error > limit or (largest is not None and error > max(JUMP * largest, limit / JUMP))
        drifts.append(BlockDrift(block=block, error=error, departs=departs))
        largest = max(largest or 0.0, error or 0.0)
    return drifts


def _one_at_a_time(
    subject: Probe, wanted: Mapping[str, Arrays], blocks: Sequence[str], limit: float, progress: Callable[[str], None]
) -> list[BlockDrift]:
    """Halve the trunk, where a fault stays once it is there; where it has none, look at the rest in order."""
    seen: dict[str, BlockDrift] = {}

    def departs(block: str) -> bool:
        progress(f"{block} alone")
        error = relative_error(subject([block])[block], wanted[block])
        seen[block] = BlockDrift(block=block, error=error, departs=error is None or error > limit)
        return seen[block].departs

    trunk = [block for block in blocks if block.startswith(_TRUNK)]
    low, high = 0, len(trunk)  # the first that departs is in [low, high]
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if departs(trunk[middle]) else (middle + 1, high)
    if low == len(trunk):
        for block in blocks:
            if block not in trunk and departs(block):
                break
    return [seen[block] for block in blocks if block in seen]


def relative_error(found: Sequence[npt.NDArray[Any]], wanted: Sequence[npt.NDArray[Any]]) -> float | None:
    """L2 norm of the difference by that of what is wanted, over all arrays; None where a value is not finite.

    Arrays are paired by their shapes: a block's results may come in another order than its module returns them.

    >>> relative_error([np.array([3.0, 4.4])], [np.array([3.0, 4.0])])
    0.08000000000000007
    """
    left = list(wanted)
    apart = size = 0.0
    for mine in found:
        place = next((place for place, each in enumerate(left) if each.shape == mine.shape), None)
        if place is None:
            raise BackendError(f"a block gave shape {mine.shape}, the reference has {[each.shape for each in left]}")
        theirs = left.pop(place).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            apart += float(((mine.astype(np.float64) - theirs) ** 2).sum())
        size += float((theirs**2).sum())
    if not np.isfinite(apart):
        return None
    return float(np.sqrt(apart / size)) if size else float(np.sqrt(apart))


def _graph_probe(bundle: Bundle, path: Path, ends: Mapping[str, Sequence[str]], golden: Golden, load: Open) -> Probe:
    def probe(blocks: Sequence[str]) -> dict[str, Arrays]:
        with tempfile.TemporaryDirectory(prefix="acd-edge-") as folder:
            copy, names = with_probes(path, values_of(ends, blocks), Path(folder))
            backend = load(GraphFile(path=copy, precision=bundle.manifest.precision))
            try:
                found = [backend.run(feed) for feed in _feeds(golden, backend)]
            finally:
                backend.close()
        return {block: [said[names[value]] for said in found for value in ends[block]] for block in blocks}

    return probe


def _widened_values(bundle: Bundle, ends: Mapping[str, Sequence[str]], golden: Golden) -> Mapping[str, Arrays]:
    def load(graph: GraphFile) -> Backend:
        own = "int8" if bundle.manifest.precision == "int8" else "fp32"  # INT8 stays INT8, with its exact kernels
        plain = GraphFile(path=graph.path, precision=own)
        return open_backend(plain, backend="onnxruntime", options=BackendOptions(device="cpu"))

    with tempfile.TemporaryDirectory(prefix="acd-edge-") as folder:
        wide = write_widened(bundle.model_path, Path(folder))
        try:
            return _graph_probe(bundle, wide, ends, golden, load)(list(ends))
        except (MissingExtra, BackendError) as error:
            raise UsageError(
                f"without a checkpoint the blocks are compared with ONNX Runtime's CPU, and that cannot be: {error}; "
                "give --checkpoint CKPT"
            ) from error


def _source_values(bundle: Bundle, checkpoint: Path, clip_weights: Path | None, golden: Golden) -> Mapping[str, Arrays]:
    """What the modules of the folded source return, under the names that the graph's nodes carry."""
    source = load_source(bundle, checkpoint, clip_weights)
    torch = require("torch", "export")
    from acd_edge.export.fold import fold

    folded = fold(source.model)
    values: dict[str, Arrays] = {}
    hooks = [
        module.register_forward_hook(_keeper(values.setdefault(name, [])))
        for name, module in folded.named_modules()
        if _is_block(name)
    ]
    try:
        with torch.inference_mode():
            for pixels, features in zip(golden.image, golden.text_features, strict=True):
                said = folded(torch.from_numpy(pixels[None].copy()), torch.from_numpy(features[None].copy()))
                values.setdefault(OUTSIDE, []).extend(_arrays(said))
    finally:
        for hook in hooks:
            hook.remove()
    return values


def _keeper(into: Arrays) -> Callable[[Any, Any, Any], None]:
    return lambda _, __, out: into.extend(_arrays(out))


def _is_block(name: str) -> bool:
    parts = name.split(".")
    return name in ("embed", "decoder") or (len(parts) == 2 and parts[1].isdigit())


def _arrays(out: Any) -> Arrays:
    each = out if isinstance(out, (tuple, list)) else [out]
    return [tensor.float().numpy() for tensor in each if tensor is not None]


def _feeds(golden: Golden, backend: Backend) -> list[dict[str, npt.NDArray[Any]]]:
    feeds = [
        {"image": np.ascontiguousarray(pixels[None]), "text_features": np.ascontiguousarray(features[None])}
        for pixels, features in zip(golden.image, golden.text_features, strict=True)
    ]
    check_feed(feeds[0], backend.inputs)
    return feeds
