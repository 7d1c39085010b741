"""Parameters and multiply-adds, counted from the code that runs and not from a formula."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acd_edge.export.graph import FoldedAcdClip
from acd_edge.export.trace import state_of
from acd_edge.model import AcdClip

TEXT_SIDE = ("text.", "text_adapters.", "text_norms.")


def count_multiply_adds(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of all matrix products and convolutions in one run, on shapes alone (torch's meta device)."""
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in state_of(module).items()}
    feed = tuple(torch.empty_like(tensor, device="meta") for tensor in inputs)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        torch.func.functional_call(module, state, feed)
    return int(counter.get_total_flops()) // 2


def count_parameters(module: nn.Module) -> int:
    """Numbers in the parameters that the graph needs: of a model, its vision side."""
    skipped = TEXT_SIDE if isinstance(module, AcdClip) else ()
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith(skipped))


def fold_counts(model: AcdClip, folded: FoldedAcdClip) -> dict[str, Any]:
    """Parameters and multiply-adds of one picture before and after the fold, as the manifest keeps them."""
    size, kind = folded.size, model.vision.positions.dtype
    image = torch.empty(1, size, size, 3, dtype=torch.uint8, device="meta")
    pixels = torch.empty(1, 3, size, size, dtype=kind, device="meta")
    text = torch.empty(1, model.config.groups, 2, model.feature_dim, dtype=kind, device="meta")
    tokens = torch.empty(1, model.vision.grid**2, model.vision.width, dtype=kind, device="meta")
    return {
        "parameters_before": count_parameters(model),
        "parameters_after": count_parameters(folded),
        "macs_before": count_multiply_adds(model, pixels, text),
        "macs_after": count_multiply_adds(folded, image, text),
        "adapter_macs_before": sum(count_multiply_adds(each, tokens) for each in model.vision_adapters),
        "adapter_macs_after": sum(count_multiply_adds(each, tokens) for each in folded.adapters),
    }
