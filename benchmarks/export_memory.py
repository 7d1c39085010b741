"""Peak memory of exporting ViT-L/14 at 518 x 518, N = 3, seeded weights. The bar: 8 GB, everything included.

python benchmarks/export_memory.py [FOLDER]    (keeps weights, checkpoint and bundles in FOLDER)
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))
from tests.oracle import VIT_L_14_336, seeded_adapter, seeded_clip

BAR_GB = 8.0
SEED = 7


def make_weights(folder: Path) -> tuple[Path, Path]:
    """CLIP weights and an authors' adapter file, seeded; made once."""
    clip, adapter = folder / "clip.safetensors", folder / "adapter.pth"
    if not clip.is_file():
        state = seeded_clip(VIT_L_14_336, SEED, "trained")
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, clip)
    if not adapter.is_file():
        torch.save(seeded_adapter(VIT_L_14_336, 3, SEED), adapter)
    return clip, adapter


def peak_of(*arguments: str) -> dict[str, float]:
    """Largest resident size in GB and seconds of one `acd-edge` process."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "acd_edge", *arguments], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"acd-edge {' '.join(arguments)} failed")
    return {"peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2), "seconds": round(time.perf_counter() - began, 1)}


def measure(folder: Path) -> dict[str, object]:
    """Convert, then export in both precisions."""
    clip, adapter = make_weights(folder)
    ckpt = str(folder / "ckpt")
    found = {"convert": peak_of("convert", str(adapter), "--clip-weights", str(clip), "-o", ckpt, "--force")}
    for precision in ("fp32", "fp16"):
        target = str(folder / f"vit-l-{precision}")
        found[precision] = peak_of("export", ckpt, f"--{precision}", "--with-text-encoder", "-o", target, "--force")
    machine = (
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    return {"machine": machine, **found, "bar_gb": BAR_GB}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        place = Path(sys.argv[1])
        place.mkdir(parents=True, exist_ok=True)
        result = measure(place)
    else:
        with tempfile.TemporaryDirectory() as made:
            result = measure(Path(made))
    print(json.dumps(result, indent=2))
    sys.exit(max(result[kind]["peak_gb"] for kind in ("fp32", "fp16")) > BAR_GB)  # type: ignore[index]
