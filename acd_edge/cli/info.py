"""`acd-edge info`: what a bundle or a checkpoint holds, read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from acd_edge.cli.once import OnceCommand
from acd_edge.terminal import printable

if TYPE_CHECKING:
    from acd_edge.runtime.bundle import Bundle

_WIDTH, _TEXT_WIDTH = 14, 100  # of the left column, and of what stands right of it where it is long


@click.command(cls=OnceCommand)
@click.argument("path", metavar="[BUNDLE|CKPT]", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def command(path: Path | None, as_json: bool) -> None:
    """Show what a bundle or a checkpoint holds; the built-in bundle unless a path is given.

    Every file of a bundle is compared with its digest first.
    """
    from acd_edge.checkpoint import CONFIG
    from acd_edge.runtime.bundle import Bundle, builtin_bundle
    from acd_edge.runtime.bundle_files import MANIFEST

    place = builtin_bundle() if path is None else path
    if (place / CONFIG).is_file() and not (place / MANIFEST).is_file():
        values = _checkpoint_values(place)
        rows = _checkpoint_rows(values)
    else:
        with Bundle.open(place) as bundle:
            values = _bundle_values(bundle)
        rows = _bundle_rows(values)
    click.echo(json.dumps(values, ensure_ascii=False) if as_json else _table(rows))


def _bundle_values(bundle: Bundle) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(bundle.manifest.to_json())
    thresholds = {name: entry["threshold"] for name, entry in bundle.calibration.get("products", {}).items()}
    return {"kind": "bundle", "path": str(bundle.path), **values, "thresholds": thresholds}


def _checkpoint_values(path: Path) -> dict[str, Any]:
    from acd_edge.checkpoint import ADAPTERS, checkpoint_digest, read_info
    from acd_edge.cli.export import weights_licence

    info = read_info(path)
    return {
        "kind": "checkpoint",
        "path": str(path),
        "model": info.config.to_dict(),
        "training": dict(info.training),
        "backbone": info.backbone.to_dict(),
        "embedded": info.embedded,
        "sha256": checkpoint_digest(path),
        "bytes": (path / ADAPTERS).stat().st_size,
        "license": weights_licence(path, info.training),
    }


def _bundle_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, source, files = values["model"], values["source"], values["files"]
    mix = values["score_mix"]
    return [
        ("bundle", f"{values['name']}  ({values['path']})"),
        ("licence", _licence(values["license"])),
        ("graph", f"{values['precision']}, opset {values['opset']}, {values['size']} x {values['size']} pixels"),
        ("model", _model(model, values["preset"])),
        ("domain", f"{values['domain']}: score = {mix['class']} class + {mix['map']} max of the map"),
        *_listed("products", [_product(name, words, values) for name, words in values["products"].items()]),
        ("new products", "yes, it carries a text encoder" if "text_encoder.onnx" in files else "no text encoder"),
        ("made from", f"checkpoint {_short(source.get('checkpoint_sha256'))} on {_backbone(source.get('backbone'))}"),
        ("trained on", ", ".join(source.get("data_sets") or []) or "not recorded"),
        *_fold_rows(values["fold"]),
        *_precision_rows(source, values["fold"]),
        *_listed("files", [f"{record['bytes'] / 1e6:>8.2f} MB  {name}" for name, record in sorted(files.items())]),
        ("tools", ", ".join(f"{name} {number}" for name, number in values["tools"].items()) or "not recorded"),
    ]


def _checkpoint_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, backbone = values["model"], values["backbone"]
    embedded = "inside the checkpoint" if values["embedded"] else backbone["found_at"]
    training = [line for name, value in values["training"].items() if name != "license" for line in _said(name, value)]
    return [
        ("checkpoint", f"{values['path']}  ({_short(values['sha256'])}, {values['bytes'] / 1e6:.1f} MB)"),
        ("licence", _licence(values["license"])),
        ("model", _model(model, model["preset"])),
        ("input", f"{model['size']} x {model['size']} pixels, {model['domain']}"),
        ("backbone", f"{backbone['name']} {_short(backbone['sha256'])}, {embedded}"),
        *_listed("training", training or ["not recorded"]),
    ]


def _licence(named: str | None) -> str:
    return f"of the weights: {named}" if named else "of the weights: not recorded"


def _model(model: Mapping[str, Any], preset: str) -> str:
    rows = f"{model.get('vision_adapter', '?')}, {model.get('fusion', '?')}"
    return f"{model.get('backbone', '?')}, {model.get('groups', '?')} levels, preset {preset}, {rows}"


def _product(name: str, words: str, values: Mapping[str, Any]) -> str:
    threshold = values["thresholds"].get(name)
    return f"{name} = '{words}'" + ("" if threshold is None else f", threshold {threshold:.4g}")


def _fold_rows(fold: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not {"parameters_after", "macs_after", "largest_difference"} <= set(fold):
        return []
    numbers = f"{fold['parameters_after'] / 1e6:.2f} M parameters, {fold['macs_after'] / 1e9:.2f} G multiply-adds"
    return [("folded", f"{numbers}; largest difference {fold['largest_difference']:.1e}")]


def _precision_rows(source: Mapping[str, Any], fold: Mapping[str, Any]) -> list[tuple[str, str]]:
    from acd_edge.cli.export_precision import described

    rows = [("int8", described(source["int8"]))] if "int8" in source else []
    if apart := fold.get("drift", {}).get("anomaly_map"):
        rows.append(("drift", f"of the map: cosine {apart['cosine']:.6f}, at most {apart['difference']:.1e}"))
    return rows


def _backbone(record: Mapping[str, Any] | str | None) -> str:
    if isinstance(record, Mapping):
        return f"{record.get('name', '?')} {_short(record.get('sha256'))}"
    return record or "a backbone that is not recorded"


def _said(name: str, value: object) -> list[str]:
    """A setting in words, on as many lines as it takes."""
    text = f"{name.replace('_', ' ')}: {_plain(value)}"
    return wrap(text, _TEXT_WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')}={_plain(each)}" for name, each in value.items())
    return " / ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(digest: object) -> str:
    return str(digest)[:12] if digest else "not recorded"


def _listed(title: str, lines: list[str]) -> list[tuple[str, str]]:
    return [(title if not index else "", line) for index, line in enumerate(lines)]


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{title:<{_WIDTH}}{printable(text)}" for title, text in rows)
