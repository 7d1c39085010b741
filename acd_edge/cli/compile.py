"""`acd-edge compile`: from a bundle to TensorRT engines for this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acd_edge.cli.once import OnceCommand
from acd_edge.errors import DeviceError, EngineError, MissingExtra

if TYPE_CHECKING:
    from acd_edge.runtime.bundle import Bundle
    from acd_edge.runtime.cuda import Binding
    from acd_edge.runtime.engines import Engine

logger = logging.getLogger(__name__)
_tell = partial(click.echo, err=True)


@click.command(cls=OnceCommand)
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--workspace", type=click.IntRange(1, 1 << 20), default=1024, show_default=True, metavar="MIB",
              help="Most memory that one layer may take for itself while it is built and run.")  # fmt: skip
@click.option("--optimization-level", type=click.IntRange(0, 5), default=3, show_default=True,
              help="0 builds fastest, 5 searches longest.")  # fmt: skip
@click.option("--force", is_flag=True, help="Build even where an engine with these options is there.")
@click.option("--no-verify", is_flag=True, help="Do not compare the engine with the bundle's golden samples.")
@click.option(
    "--no-text-encoder",
    is_flag=True,
    help="Leave out the text encoder's engine: a new product's name then goes through ONNX Runtime, or "
    "`run --backend tensorrt` builds it.",
)
@click.option("--cuda", type=click.Choice(["auto", "cuda-python", "pycuda"]), default="auto", show_default=True,
              help="Python binding of CUDA.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a line for each engine.")
def command(
    bundle: Path | None,
    workspace: int,
    optimization_level: int,
    force: bool,
    no_verify: bool,
    no_text_encoder: bool,
    cuda: Binding,
    as_json: bool,
) -> None:
    """Build the TensorRT engines of BUNDLE (the built-in one unless given) for this machine, and verify them.

    It may take minutes, once: engines are kept in ~/.cache/acd-edge, and built again where the graph, TensorRT, the
    GPU, the driver or these options differ. The exit status is 1 where an engine does not compute what the bundle says.

    \b
    acd-edge compile
    acd-edge compile line.acd --workspace 512
    """
    from acd_edge.export.engine import MODEL, TEXT_ENCODER, compile_bundle, failure
    from acd_edge.runtime.bundle import Bundle, builtin_bundle
    from acd_edge.runtime.cuda import open_cuda
    from acd_edge.runtime.engines import BuildOptions
    from acd_edge.runtime.trt_module import load_tensorrt

    trt = load_tensorrt()  # before the bundle's digests are checked: where it is absent, that is what to tell
    options = BuildOptions(workspace_mib=workspace, optimization_level=optimization_level)
    with Bundle.open(builtin_bundle() if bundle is None else bundle) as opened:
        engines = compile_bundle(
            opened, options, force=force, verify=not no_verify,
            parts=[MODEL] if no_text_encoder else [MODEL, TEXT_ENCODER], progress=_tell, cuda=open_cuda(cuda), trt=trt,
        )  # fmt: skip
        click.echo(json.dumps(_values(opened, engines)) if as_json else "\n".join(map(_line, engines)))
        if any(engine.state == "never verified" for engine in engines):
            _tell(f"not verified; do it with: acd-edge verify {opened.path} --backend tensorrt")
        for engine in engines:
            if engine.state == "failed":
                raise EngineError(failure(opened, engine))


def compile_exported(bundle: Path) -> list[Engine]:
    """After `export`: build and verify the bundle's engines where TensorRT and a GPU are, else say what to do.

    Raises:
        EngineError: TensorRT refuses the graph, or an engine failed its verification; the bundle stays.
        DeviceError, OutputError: there is no room to build in, see `compile_bundle`.
    """
    from acd_edge.export.engine import compile_bundle, failure
    from acd_edge.runtime.bundle import Bundle
    from acd_edge.runtime.cuda import open_cuda
    from acd_edge.runtime.trt_module import load_tensorrt

    try:
        trt, cuda = load_tensorrt(), open_cuda()
    except (MissingExtra, DeviceError) as error:
        logger.info("%s", error)
        lacking = "TensorRT" if isinstance(error, MissingExtra) else "GPU"
        _tell(f"no {lacking} to use here, so no engine; on the device that will run it: acd-edge compile {bundle}")
        return []
    with Bundle.open(bundle) as opened:
        engines = compile_bundle(opened, progress=_tell, cuda=cuda, trt=trt)
        for engine in engines:
            if engine.state == "failed":
                raise EngineError(failure(opened, engine))
    return engines


def _line(engine: Engine) -> str:
    record = engine.record
    attentions = f", {record.fused_attentions} fused attentions" if record.fused_attentions else ""
    return (
        f"{record.part}: {engine.state}, {record.precision}, {record.layers} layers{attentions}, "
        f"{record.plan_bytes / 1e6:.1f} MB, {engine.folder}"
    )


def _values(bundle: Bundle, engines: Sequence[Engine]) -> dict[str, Any]:
    return {
        "bundle": str(bundle.path),
        "engines": [
            {"state": each.state, "folder": str(each.folder), **asdict(each.record)}
            | {"verification": None if each.stamp is None else asdict(each.stamp)}
            for each in engines
        ],
    }
