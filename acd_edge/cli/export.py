"""`acd-edge export`: from a checkpoint to the bundle that a device needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acd_edge.cli.backend import BACKEND_NAMES
from acd_edge.cli.export_precision import CALIB_COUNT, METHOD_NAMES, Wanted, described, pictures_of, with_precision
from acd_edge.cli.once import OnceCommand
from acd_edge.config import DOMAINS, Domain
from acd_edge.errors import CheckpointError

if TYPE_CHECKING:
    from acd_edge.checkpoint import CheckpointInfo
    from acd_edge.export.bundle import ExportReport
    from acd_edge.runtime.manifest import Manifest

LICENCE_FILE = "LICENSE-WEIGHTS"
BUILTIN_NAME = "compact"
BUILTIN_LICENCE = f"research use only, see {LICENCE_FILE}"


@click.command(cls=OnceCommand)
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--fp16", is_flag=True, help="Half precision with float32 islands, for TensorRT; the default.")
@click.option("--fp32", is_flag=True, help="Single precision, for a CPU.")
@click.option("--bf16", is_flag=True, help="bfloat16, for TensorRT, where a model comes near float16's end.")
@click.option("--int8", is_flag=True, help="INT8 linear layers; with --fp32 for a CPU, else for TensorRT.")
@click.option("--calib", type=click.Path(path_type=Path), metavar="DIR",
              help="Pictures that INT8's ranges are measured on, of any product.")  # fmt: skip
@click.option("--calib-method", type=click.Choice(METHOD_NAMES), help="How; percentile unless given.")
@click.option("--calib-count", type=click.IntRange(min=1), metavar="N",
              help=f"Pictures at most, {CALIB_COUNT} unless given.")  # fmt: skip
@click.option("--bit-depth", type=click.IntRange(9, 16), metavar="BITS",
              help="Bits that 16-bit files of --calib and --data use, as `run` is given; 16 unless given.")  # fmt: skip
@click.option("--max-drop", type=click.FloatRange(0, 100), metavar="POINTS",
              help="Choose the precision: the fastest that loses no more pixel AUROC on --data.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), multiple=True, metavar="DIR",
              help="Labelled pictures that --max-drop is judged on; none may lie in --calib.")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path), help="What paths in a .jsonl list of --data are relative to.")
@click.option("--layout", metavar="NAME", help="The data set's name, where the folder of --data does not tell it.")
@click.option("--backend", type=click.Choice(BACKEND_NAMES), help="What --max-drop measures on.")
@click.option("--size", type=click.IntRange(min=1), help="Input side in pixels; the checkpoint's own unless given.")
@click.option("--domain", type=click.Choice(DOMAINS), help="Use that smoothing and score mix are for.")
@click.option("--product", "products", multiple=True, metavar="NAME[='words']",
              help="Product to put in, with the words of its prompts; repeatable. `object` is always in.")  # fmt: skip
@click.option("--with-text-encoder", is_flag=True, help="Let the device make text features of new product names.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="BUNDLE",
              help="Folder, or zip with .acd; ./<name>-<size>-<precision> unless given.")  # fmt: skip
@click.option("--clip-weights", type=click.Path(path_type=Path), help="CLIP weights, where they have moved.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--no-compile", is_flag=True, help="Build no TensorRT engine afterwards, where TensorRT is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the report.")
def command(
    checkpoint: Path | None,
    fp16: bool,
    fp32: bool,
    bf16: bool,
    int8: bool,
    calib: Path | None,
    calib_method: str | None,
    calib_count: int | None,
    bit_depth: int | None,
    max_drop: float | None,
    data: tuple[Path, ...],
    root: Path | None,
    layout: str | None,
    backend: str | None,
    size: int | None,
    domain: Domain | None,
    products: tuple[str, ...],
    with_text_encoder: bool,
    output: Path | None,
    clip_weights: Path | None,
    force: bool,
    no_compile: bool,
    as_json: bool,
) -> None:
    """Fold CHECKPOINT (the built-in one unless given) and write a bundle.

    The fold changes no number; its report shows parameters and multiply-adds before and after, the largest difference
    on made pictures, and how far a narrower precision drifts. Where TensorRT and a GPU are, it goes on as `compile`
    does, but for graphs that are meant for a CPU.
    """
    wanted = Wanted(
        fp16=fp16, fp32=fp32, bf16=bf16, int8=int8, calib=calib, calib_method=calib_method, calib_count=calib_count,
        bit_depth=bit_depth, max_drop=max_drop, data=data, root=root, layout=layout, backend=backend,
    )  # fmt: skip
    from acd_edge.checkpoint import builtin_checkpoint, load_checkpoint, read_info
    from acd_edge.cli.export_search import judges_of, search_precision
    from acd_edge.lazy import require
    from acd_edge.runtime.bundle_write import check_target
    from acd_edge.runtime.prompts import parse_products

    path = builtin_checkpoint() if checkpoint is None else checkpoint
    if checkpoint is None and not path.is_dir():
        raise CheckpointError("this installation carries no built-in checkpoint; name one: acd-edge export CKPT")
    words = parse_products(products)
    info = read_info(path)
    name = BUILTIN_NAME if checkpoint is None else path.resolve().name
    target = output or Path(f"{name}-{size or info.config.size}-{wanted.label}")
    progress = partial(click.echo, err=True)
    check_target(target, force)  # before the work, and before torch; so are the pictures
    pictures = pictures_of(wanted, progress)
    judges = None if wanted.max_drop is None else judges_of(wanted)
    for module in ("torch", "onnx"):
        require(module, "export")
    from acd_edge.export.bundle import ExportOptions, export_bundle
    from acd_edge.model.weights import tokenizer_for, tokenizer_json

    progress(f"read {path}")
    model = load_checkpoint(path, size=size, clip_weights=clip_weights)
    if domain is not None:
        model.config = model.config.with_(domain=domain)
    options = ExportOptions(
        name=name,
        products=words,
        tokenizer_json=tokenizer_json(model.config) if with_text_encoder else None,
        source=_source(path, info),
        **_beside(path, info.training),
    )
    found = None
    if judges is None:
        options = with_precision(model, options, wanted, pictures, progress)
    else:
        found = search_precision(model, options, wanted, pictures, judges, target, progress)
        options = found.options
    report = export_bundle(model, target, tokenizer_for(model.config), options, force=force, progress=progress)
    if as_json:
        click.echo(json.dumps(_values(report) | ({} if found is None else {"search": found.to_dict()})))
    else:
        click.echo(_report(report) if found is None else f"{found.table()}\n\n{_report(report)}")
    if not no_compile and _is_for_tensorrt(report.manifest):
        from acd_edge.cli.compile import compile_exported

        compile_exported(target)


def _is_for_tensorrt(manifest: Manifest) -> bool:
    """Whether the graph is one that TensorRT runs well: float32, and INT8 around float32, are for a CPU."""
    int8 = manifest.source.get("int8") or {}
    return bool(int8.get("base", manifest.precision) != "fp32")


def _source(path: Path, info: CheckpointInfo) -> dict[str, Any]:
    """What the bundle was made from; of a path only the name, which tells nothing of the machine."""
    from acd_edge.checkpoint import checkpoint_digest

    return {
        "checkpoint_sha256": checkpoint_digest(path),
        "backbone": info.backbone.to_dict() | {"found_at": Path(info.backbone.found_at).name},
        "data_sets": list(info.training.get("data", [])),
    }


def weights_licence(path: Path, training: Mapping[str, Any]) -> str | None:
    """The licence of a checkpoint's weights in words; None where it is not recorded."""
    from acd_edge.checkpoint import has_builtin_weights

    return BUILTIN_LICENCE if has_builtin_weights(path) else training.get("license")


def _beside(path: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    """The weights' licence, its text where a file has it, and what they were trained on; the bundle carries all."""
    from acd_edge.checkpoint import builtin_checkpoint, has_builtin_weights
    from acd_edge.data.zero_shot import RECORD_FILE, TrainingRecord, record_of_checkpoint

    file = (builtin_checkpoint().parent if has_builtin_weights(path) else path) / LICENCE_FILE
    named = weights_licence(path, training)
    extra: dict[str, Path | bytes] = {}
    if file.is_file():
        named, extra[LICENCE_FILE] = named or f"see {LICENCE_FILE}", file
    if (record := record_of_checkpoint(path)) != TrainingRecord():
        extra[RECORD_FILE] = record.to_json().encode()
    return {"weights_license": named, "extra_files": extra}


def _values(report: ExportReport) -> dict[str, Any]:
    manifest = report.manifest
    return {
        "bundle": str(report.path),
        "bytes": report.total_bytes,
        "precision": manifest.precision,
        "size": manifest.size,
        "domain": manifest.domain,
        "products": dict(manifest.products),
        "fold": dict(manifest.fold),
        "largest_float16": max(report.ranges.values(), default=None),
        "int8": manifest.source.get("int8"),
    }


def _report(report: ExportReport) -> str:
    manifest, fold = report.manifest, report.manifest.fold
    rows = [("parameters", "parameters"), ("multiply-adds", "macs"), ("  of the adapters", "adapter_macs")]
    lines = [
        f"{report.path}: {manifest.precision}, {manifest.size} x {manifest.size}, {manifest.domain}, "
        f"{report.total_bytes / 1e6:.1f} MB, products {', '.join(manifest.products)}",
        f"{'fold':<18}{'before':>16}{'after':>16}",
    ]
    for title, key in rows:
        before, after = fold[f"{key}_before"], fold[f"{key}_after"]
        lines.append(f"{title:<18}{before:>16,}{after:>16,}{before / after:>9.2f} times fewer")
    lines.append(f"largest difference on made pictures: {fold['largest_difference']:.1e}")
    lines += _drift_lines(fold.get("drift", {}), manifest.precision)
    if int8 := manifest.source.get("int8"):
        lines.append(f"INT8: {described(int8)}")
    if report.ranges:
        name = max(report.ranges, key=lambda each: report.ranges[each])
        lines.append(f"largest float16 value: {report.ranges[name]:,.0f} of 65,504, {name}")
    return "\n".join(lines)


def _drift_lines(drift: Mapping[str, Mapping[str, float]], precision: str) -> list[str]:
    return [
        f"drift of {precision}, {name}: cosine {apart['cosine']:.6f}, largest difference {apart['difference']:.1e}"
        for name, apart in drift.items()
    ]
