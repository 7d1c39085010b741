"""`acd-edge prompts`: the products of a bundle."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acd_edge.cli.backend import BackendFlags, backend_flags, prepare
from acd_edge.cli.once import OnceGroup
from acd_edge.errors import BundleError, ConfigError, UnknownProduct, UsageError
from acd_edge.terminal import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from acd_edge.runtime.bundle import Bundle

_OWN = "export one of your own: acd-edge export --with-text-encoder -o BUNDLE"


@click.group(cls=OnceGroup)
def command() -> None:
    """List, add and remove the products of a bundle."""


@command.command("list")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: product to words.")
def list_command(bundle: Path | None, as_json: bool) -> None:
    """Show the products of BUNDLE, the built-in one unless given."""
    from acd_edge.runtime.bundle import Bundle, builtin_bundle

    with Bundle.open(bundle or builtin_bundle()) as opened:
        products = dict(opened.manifest.products)
    width = max(map(len, products)) + 2
    lines = [printable(f"{name:<{width}}{words}") for name, words in products.items()]
    click.echo(json.dumps(products, ensure_ascii=False) if as_json else "\n".join(lines))


@command.command("add")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("products", metavar="NAME[='words']...", nargs=-1, required=True)
@click.option("--from", "checkpoint", type=click.Path(path_type=Path), metavar="CKPT",
              help="Checkpoint the bundle was made from, for a bundle without a text encoder.")  # fmt: skip
@click.option("--clip-weights", type=click.Path(path_type=Path), help="CLIP weights, where they have moved.")
@click.option("--force", is_flag=True, help="Replace a product that is there; its threshold goes.")
@backend_flags
def add_command(
    bundle: Path,
    products: tuple[str, ...],
    checkpoint: Path | None,
    clip_weights: Path | None,
    force: bool,
    how: BackendFlags,
) -> None:
    """Add products to BUNDLE, with its own text encoder or a checkpoint."""
    from acd_edge.runtime.bundle import Bundle, check_not_builtin
    from acd_edge.runtime.prompts import parse_products

    check_not_builtin(bundle, _OWN)
    if checkpoint is not None and how.given:
        raise UsageError(f"{how.given[0]} is for the bundle's own text encoder, --from uses the checkpoint's")
    if clip_weights is not None and checkpoint is None:
        raise UsageError("--clip-weights is for the checkpoint: give --from CKPT too")
    words = parse_products(products)
    with Bundle.open(bundle) as opened:
        if (known := [name for name in words if name in opened.manifest.products]) and not force:
            raise ConfigError(f"{', '.join(known)} is in {bundle} already; add --force to replace it")
        made = _features(opened, words, how) if checkpoint is None else _features_from(
            opened, words, checkpoint, clip_weights
        )  # fmt: skip
        _rewrite(opened, {**opened.manifest.products, **words}, {**opened.text_features, **made}, stale=list(words))
    click.echo(f"{bundle}: added {', '.join(words)}")


@command.command("remove")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("products", metavar="NAME...", nargs=-1, required=True)
def remove_command(bundle: Path, products: tuple[str, ...]) -> None:
    """Remove products from BUNDLE, with their thresholds."""
    from acd_edge.runtime.bundle import Bundle, check_not_builtin
    from acd_edge.runtime.prompts import DEFAULT_PRODUCT

    check_not_builtin(bundle, _OWN)
    if DEFAULT_PRODUCT in products:
        raise ConfigError(f"{DEFAULT_PRODUCT} cannot be removed, it is always there")
    with Bundle.open(bundle) as opened:
        for name in products:
            _known(name, opened.manifest.products)
        kept = {name: words for name, words in opened.manifest.products.items() if name not in products}
        _rewrite(opened, kept, {name: opened.text_features[name] for name in kept}, stale=products)
    click.echo(f"{bundle}: removed {', '.join(products)}")


def _known(name: str, products: Mapping[str, str]) -> None:
    if name not in products:
        near = difflib.get_close_matches(name, products, n=3, cutoff=0.4) or sorted(products)
        raise UnknownProduct(f"there is no product {name!r} in it; there is {', '.join(near)}")


def _features(bundle: Bundle, words: Mapping[str, str], how: BackendFlags) -> dict[str, NDArray[np.float32]]:
    """By the bundle's own text encoder, without torch."""
    from acd_edge.runtime.text import TextEncoder

    if bundle.text_encoder_file is None:
        raise BundleError(
            f"{bundle.path} carries no text encoder; name the checkpoint it was made from with --from CKPT, "
            "or export it again with --with-text-encoder"
        )
    prepare(bundle, how, model=False, text_encoder=True)
    encoder = TextEncoder(
        bundle.text_encoder_file, bundle.tokenizer_path, bundle.manifest, backend=how.backend, options=how.options
    )
    try:
        return {name: encoder.features(phrase) for name, phrase in words.items()}
    finally:
        encoder.close()


def _features_from(
    bundle: Bundle, words: Mapping[str, str], checkpoint: Path, clip_weights: Path | None
) -> dict[str, NDArray[np.float32]]:
    """By the checkpoint that the bundle was made from; another one would give features of another space."""
    from acd_edge.export.references import made_from

    made_from(bundle, checkpoint)
    from acd_edge.checkpoint import load_checkpoint
    from acd_edge.export.bundle import encode_product
    from acd_edge.model.weights import tokenizer_for

    model = load_checkpoint(checkpoint, clip_weights=clip_weights)
    tokenize, prompts = tokenizer_for(model.config), bundle.manifest.prompts
    return {name: encode_product(model, tokenize, phrase, prompts) for name, phrase in words.items()}


def _rewrite(bundle: Bundle, products: Mapping[str, str], features: Mapping[str, Any], *, stale: Sequence[str]) -> None:
    """Write the bundle again, whole or not at all; thresholds of `stale` products were for other features."""
    from acd_edge.runtime.bundle import write_bundle
    from acd_edge.runtime.bundle_files import CALIBRATION, FEATURES, GOLDEN

    own = (CALIBRATION, FEATURES, GOLDEN)
    files: dict[str, Path | bytes] = {n: bundle.root / n for n in bundle.manifest.files if n not in own}
    calibration: dict[str, Any] | None = dict(bundle.calibration) or None
    if calibration is not None and "products" in calibration:
        thresholds = calibration["products"].items()
        calibration["products"] = {name: entry for name, entry in thresholds if name not in stale}
    write_bundle(
        bundle.path,
        replace(bundle.manifest, products=dict(products)),
        files=files,
        text_features=features,
        golden=bundle.golden,
        calibration=calibration,
        force=True,
    )
