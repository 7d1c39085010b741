"""`acd-edge convert`: from a checkpoint of the authors' code to one of ours."""

from __future__ import annotations

from pathlib import Path

import click

from acd_edge.cli.once import OnceCommand
from acd_edge.config import DOMAINS, Domain

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=OnceCommand)
@click.argument("adapter", type=_FILE)
@click.option("--clip-weights", type=_FILE, help="The CLIP weights; open_clip's cache is searched without it.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the new checkpoint.")
@click.option("--size", type=click.IntRange(min=1), default=518, show_default=True, help="Input side S in pixels.")
@click.option(
    "--domain", type=click.Choice(DOMAINS), default="industrial", show_default=True, help="Default of its use."
)
@click.option("--backbone", default="clip:ViT-L-14-336", show_default=True, help="The CLIP model it was trained on.")
@click.option("--alpha", type=float, default=2.0, show_default=True, help="LoRA's alpha, which no file tells.")
@click.option("--conv-alpha", type=float, default=2.0, show_default=True, help="The convolutions' alpha, likewise.")
@click.option("--embed", is_flag=True, help="Copy the CLIP weights into the checkpoint.")
@click.option("--trust", is_flag=True, help="Read a TorchScript archive that OpenAI did not publish.")
@click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")
def command(
    adapter: Path,
    clip_weights: Path | None,
    output: Path,
    size: int,
    domain: Domain,
    backbone: str,
    alpha: float,
    conv_alpha: float,
    embed: bool,
    trust: bool,
    force: bool,
) -> None:
    """Read ADAPTER, a checkpoint of the authors' code, and write one of ours.

    N, the ranks and the kernels come from the shapes of its tensors. Nothing in the files is run.
    """
    from acd_edge.checkpoint import check_target, save_checkpoint
    from acd_edge.convert import authors_config, convert, read_authors
    from acd_edge.model.weights import sha256_of

    check_target(output, force=force)
    authors = read_authors(adapter)
    config = authors_config(
        authors.tensors, backbone=backbone, size=size, domain=domain, alpha=alpha, conv_alpha=conv_alpha
    )
    model = convert(authors, config, clip_weights=clip_weights, trust=trust, source=adapter.name)
    training = {"converted_from": adapter.name, "sha256": sha256_of(adapter), "epoch": authors.epoch}
    save_checkpoint(output, model, training=training, force=force, embed=embed)
    click.echo(
        f"{output}: {config.backbone}, N = {config.groups}, rank {config.rank} and {config.conv_rank}, "
        f"kernels {', '.join(map(str, config.kernels))}, {size} x {size}, {domain}"
    )
