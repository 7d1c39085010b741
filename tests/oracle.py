"""What the authors' code computes, in eager torch from plain state dicts: the tests' oracle, the benchmark's baseline.

Written from the design's table and from reading what their code does, and on purpose unlike the model under test: no
modules, the sequence first, attention as `nn.MultiheadAttention` runs it (its weights computed and averaged over the
heads in every block), adapters unfolded, a logit map per state and level, two-channel softmaxes. It shares no function
with `acd_edge`.

`seeded_clip` and `seeded_adapter` make weights in the two formats that it reads, open_clip's state dict and the
authors' checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
Pixels = npt.NDArray[np.uint8]
Regime = Literal["initial", "trained"]

NORMAL = ("{}", "a {}", "the {}")
ABNORMAL = ("a damaged {}", "a broken {}", "a {} with flaw", "a {} with defect", "a {} with damage")
TEMPLATES = ("{}.", "a photo of {}.")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD = 64  # channels of an attention head, in both towers


@dataclass(frozen=True)
class ClipShape:
    """The shapes of a CLIP model: pictures of `image` pixels at pretraining, `depth` and `text_depth` blocks."""

    width: int = 1024
    depth: int = 24
    patch: int = 14
    image: int = 336
    text_width: int = 768
    text_depth: int = 12
    vocabulary: int = 49408
    context: int = 77
    dim: int = 768

    def open_clip_config(self) -> dict[str, Any]:
        """What open_clip's list of models would hold for it."""
        vision = {"image_size": self.image, "layers": self.depth, "width": self.width, "patch_size": self.patch}
        text = {"context_length": self.context, "vocab_size": self.vocabulary, "width": self.text_width}
        text |= {"heads": self.text_width // HEAD, "layers": self.text_depth}
        return {"embed_dim": self.dim, "vision_cfg": vision, "text_cfg": text}


VIT_L_14_336 = ClipShape()
SMALL = ClipShape(width=128, depth=12, patch=14, image=70, text_width=64, text_depth=12, dim=32)


class Oracle:
    """Text features, maps and scores of one model.

    Args:
        clip: CLIP's state dict under open_clip's names.
        adapter: `{"epoch", "image_adapter", "text_adapter"}`.
        size: side S of the input in pixels.
        medical: smoothing and score mix of the medical domain.
        smooth: smooth the logits, as at inference; in training they are not.
    """

    def __init__(
        self, clip: Weights, adapter: dict[str, Any], *, size: int = 518, medical: bool = False, smooth: bool = True
    ) -> None:
        self.clip, self.image, self.text = clip, adapter["image_adapter"], adapter["text_adapter"]
        self.size, self.medical, self.smooth = size, medical, smooth
        self.patch = clip["visual.conv1.weight"].shape[-1]
        self.groups = sum(name.startswith("m_i_w.") for name in self.image)
        self.positions = resized_table(clip["visual.positional_embedding"], size // self.patch)

    @torch.no_grad()
    def text_features(self, ids: Tensor, states: tuple[int, int]) -> Tensor:
        """(N, D, 2) of one product.

        Args:
            ids: tokens (P, L) of its normal prompts and then its abnormal ones.
            states: how many are normal and how many abnormal.
        """
        x = (self.clip["token_embedding.weight"][ids] + self.clip["positional_embedding"]).permute(1, 0, 2)
        mask = torch.full((len(x), len(x)), float("-inf")).triu(1)
        ends, levels = ids.argmax(dim=-1), []
        depth = count(self.clip, "transformer.resblocks.")
        for index in range(depth):
            x = self._block(x, f"transformer.resblocks.{index}.", mask)
            if (index + 1) % (depth // self.groups) == 0:
                level = index // (depth // self.groups)
                lora = f"lora_adapters.{level}.lora_"
                delta = x @ self.text[lora + "A"] @ self.text[lora + "B"]
                delta = delta * (2.0 / self.text[lora + "A"].shape[1] ** 0.5)
                x = blend(x, delta, self.text[f"m_t_w.{level}.i_w"])
                normed = layer_norm(x.permute(1, 0, 2), self.text, f"layer_norms.{level}.")
                levels.append(normed[torch.arange(len(ids)), ends])
        return torch.stack(
            [torch.stack([ensemble(f) for f in torch.split(level, list(states))], dim=1) for level in levels]
        )

    @torch.no_grad()
    def levels(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Segmentation tokens (B, P, D) and detection features (B, D) of every level, from (B, 3, S, S)."""
        x = F.conv2d(pixels, self.clip["visual.conv1.weight"], stride=self.patch).flatten(2).permute(0, 2, 1)
        first = self.clip["visual.class_embedding"].expand(len(x), 1, -1)
        x = layer_norm(torch.cat([first, x], dim=1) + self.positions, self.clip, "visual.ln_pre.").permute(1, 0, 2)
        segment, detect = [], []
        depth = count(self.clip, "visual.transformer.resblocks.")
        for index in range(depth):
            x = self._block(x, f"visual.transformer.resblocks.{index}.", None)
            if (index + 1) % (depth // self.groups) == 0:
                level = index // (depth // self.groups)
                patches = x[1:]
                patches = blend(patches, self._conv_lora(patches, level), self.image[f"m_i_w.{level}.i_w"])
                x = torch.cat([x[:1], patches], dim=0)
                segment.append(self._head(patches.permute(1, 0, 2), "seg", level))
                detect.append(self._head(patches.permute(1, 0, 2), "det", level).mean(dim=1))
        return segment, detect

    @torch.no_grad()
    def decode(self, segment: list[Tensor], detect: list[Tensor], text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, S, S), class score (B,) and score (B,) from `levels` and one product's `text_features`."""
        text = text.unsqueeze(1).repeat(1, len(segment[0]), 1, 1)  # (N, B, D, 2)
        classes = torch.stack([(d.unsqueeze(1) @ t).squeeze(1) for d, t in zip(detect, text, strict=True)]).mean(0)
        class_score = classes.softmax(dim=1)[:, 1]
        maps = [self._level_map(tokens, level, text) for level, tokens in enumerate(segment)]
        anomaly_map = torch.stack(maps).mean(dim=0).softmax(dim=1)[:, 1]
        top = anomaly_map.flatten(1).max(dim=1).values
        score = 0.5 * class_score + 0.5 * top if self.medical else 0.9 * class_score + 0.1 * top
        return anomaly_map, class_score, score

    def predict(self, image: Pixels, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`decode` of one RGB picture of any size, (H, W, 3)."""
        return self.decode(*self.levels(self.pixels(image)), text)

    def pixels(self, image: Pixels) -> Tensor:
        """(1, 3, S, S): resized by Pillow, scaled and normalised."""
        resized = Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BICUBIC)
        scaled = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div(255)
        return ((scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).unsqueeze(0)

    def _block(self, x: Tensor, name: str, mask: Tensor | None) -> Tensor:
        w, normed = self.clip, layer_norm(x, self.clip, name + "ln_1.")
        attended, _ = F.multi_head_attention_forward(
            query=normed,
            key=normed,
            value=normed,
            embed_dim_to_check=x.shape[-1],
            num_heads=x.shape[-1] // HEAD,
            in_proj_weight=w[name + "attn.in_proj_weight"],
            in_proj_bias=w[name + "attn.in_proj_bias"],
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=w[name + "attn.out_proj.weight"],
            out_proj_bias=w[name + "attn.out_proj.bias"],
            training=False,
            need_weights=True,
            attn_mask=mask,
        )
        x = x + attended
        hidden = F.linear(layer_norm(x, w, name + "ln_2."), w[name + "mlp.c_fc.weight"], w[name + "mlp.c_fc.bias"])
        return x + F.linear(F.gelu(hidden), w[name + "mlp.c_proj.weight"], w[name + "mlp.c_proj.bias"])

    def _conv_lora(self, patches: Tensor, level: int) -> Tensor:
        name = f"lora_adapters.{level}."
        side, outputs = round(len(patches) ** 0.5), []
        for branch in range(count(self.image, f"{name}conv_lora_blocks.")):
            prefix = f"{name}conv_lora_blocks.{branch}."
            down, up = self.image[prefix + "conv_lora_A.weight"], self.image[prefix + "conv_lora_B.weight"]
            low = (patches @ self.image[prefix + "lora_A"]).permute(1, 2, 0).unflatten(2, (side, side))
            middle = F.conv2d(low, down, padding=down.shape[-1] // 2)
            high = F.conv2d(middle, up, padding=up.shape[-1] // 2) * (2.0 / len(down))
            tokens = high.flatten(2).permute(2, 0, 1) @ self.image[prefix + "lora_B"] * (2.0 / down.shape[1] ** 0.5)
            outputs.append(tokens.permute(1, 2, 0).unflatten(2, (side, side)))
        fused = F.conv2d(torch.cat(outputs, dim=1), self.image[name + "fusion_conv.weight"])
        return fused.flatten(2).permute(2, 0, 1)

    def _head(self, tokens: Tensor, kind: str, level: int) -> Tensor:
        w, name = self.image, f"{kind}_proj.{level}.fc."
        hidden = F.leaky_relu(F.linear(tokens, w[name + "0.weight"], w[name + "0.bias"]), 0.01)
        out = F.linear(hidden, w[name + "2.weight"], w[name + "2.bias"])
        return F.normalize(layer_norm(out, w, f"{kind}_layer_norms.{level}."), dim=-1)

    def _level_map(self, tokens: Tensor, level: int, text: Tensor) -> Tensor:
        """Logits (B, 2, S, S) of one level: gate, product with the fused text, blur, bilinear."""
        w, name = self.image, f"vision_text_gate.{level}."
        hidden = F.gelu(F.linear(tokens.mean(dim=1), w[name + "0.weight"], w[name + "0.bias"]))
        gate = F.linear(hidden, w[name + "2.weight"], w[name + "2.bias"]).view(-1, self.groups, 2).softmax(dim=1)
        fused = (text.permute(1, 0, 2, 3) * gate.unsqueeze(2)).sum(dim=1)  # (B, D, 2)
        side = round(tokens.shape[1] ** 0.5)
        logits = (10 * tokens @ fused).permute(0, 2, 1).reshape(-1, 2, side, side)
        if self.smooth:
            logits = gaussian(logits, 9, 1.5) if self.medical else gaussian(logits, 7, 1.0)
        return F.interpolate(logits, size=self.size, mode="bilinear", align_corners=True)


def sentences(words: str) -> tuple[list[str], tuple[int, int]]:
    """Prompts of a product, normal and then abnormal, and how many of each."""
    states = [
        [template.format(state.format(words)) for state in of for template in TEMPLATES] for of in (NORMAL, ABNORMAL)
    ]
    return states[0] + states[1], (len(states[0]), len(states[1]))


def resized_table(table: Tensor, grid: int) -> Tensor:
    """The position table for a grid of another side: bicubic, antialiased, the class token kept."""
    side = round((len(table) - 1) ** 0.5)
    if side == grid:
        return table
    square = table[1:].T.reshape(1, -1, side, side)
    square = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], square.reshape(-1, grid * grid).T])


def blend(x: Tensor, delta: Tensor, weight: Tensor) -> Tensor:
    """Delta with the norm of x, mixed in channel by channel."""
    delta = delta * x.norm(dim=-1, keepdim=True) / delta.norm(dim=-1, keepdim=True)
    return (1 - weight) * x + weight * delta


def ensemble(features: Tensor) -> Tensor:
    """(P, D) -> (D,): normalise, average, normalise."""
    mean = (features / features.norm(dim=-1, keepdim=True)).mean(dim=0)
    return mean / mean.norm()


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    """CLIP's LayerNorm, and the adapters'."""
    return F.layer_norm(x, x.shape[-1:], weights[name + "weight"], weights[name + "bias"], 1e-5)


def gaussian(maps: Tensor, taps: int, sigma: float) -> Tensor:
    """One two-dimensional kernel over a reflected border."""
    steps = torch.arange(taps, dtype=maps.dtype) - taps // 2
    line = torch.exp(-steps.pow(2) / (2 * sigma**2))
    kernel = torch.outer(line / line.sum(), line / line.sum())
    padded = F.pad(maps, [taps // 2] * 4, mode="reflect")
    return F.conv2d(padded, kernel.expand(maps.shape[1], 1, taps, taps), groups=maps.shape[1])


def count(weights: Weights, prefix: str) -> int:
    """How many numbered items follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})


def seeded_clip(shape: ClipShape, seed: int, regime: Regime = "initial") -> Weights:
    """A CLIP state dict under open_clip's names.

    `initial` has open_clip's initial scales, with LayerNorms and biases stirred so that none can be forgotten unseen.
    `trained` is rougher, as trained weights are: sharper attention, uneven LayerNorms, a few channels far above the
    rest.
    """
    make = _Maker(seed, regime)
    w: Weights = {
        "visual.class_embedding": make.normal((shape.width,), shape.width**-0.5),
        "visual.positional_embedding": make.table((shape.image // shape.patch) ** 2 + 1, shape.width),
        "visual.conv1.weight": make.normal((shape.width, 3, shape.patch, shape.patch), (3 * shape.patch**2) ** -0.5),
        "visual.proj": make.normal((shape.width, shape.dim), shape.width**-0.5),
        "positional_embedding": make.normal((shape.context, shape.text_width), 0.01),
        "token_embedding.weight": make.normal((shape.vocabulary, shape.text_width), 0.02),
        "text_projection": make.normal((shape.text_width, shape.dim), shape.text_width**-0.5),
        "logit_scale": torch.tensor(4.6),
    }
    for name, width in (
        ("visual.ln_pre", shape.width),
        ("visual.ln_post", shape.width),
        ("ln_final", shape.text_width),
    ):
        w |= make.layer_norm(name, width)
    for index in range(shape.depth):
        w |= make.block(f"visual.transformer.resblocks.{index}.", shape.width, shape.depth)
    for index in range(shape.text_depth):
        w |= make.block(f"transformer.resblocks.{index}.", shape.text_width, shape.text_depth)
    return w


def seeded_adapter(
    shape: ClipShape, groups: int, seed: int, *, rank: int = 16, conv_rank: int = 8, hidden: int = 256
) -> dict[str, Any]:
    """A checkpoint in the authors' format, as after some training: no blend weight is equal to another."""
    make = _Maker(seed, "initial")
    image: Weights = {}
    text: Weights = {}
    c, d = shape.width, shape.text_width
    for level in range(groups):
        image[f"m_i_w.{level}.i_w"] = 0.2 + make.normal((1, 1, c), 0.03)
        text[f"m_t_w.{level}.i_w"] = 0.2 + make.normal((1, 1, d), 0.03)
        name = f"lora_adapters.{level}."
        for branch, kernel in enumerate((3, 5)):
            block = f"{name}conv_lora_blocks.{branch}."
            image[block + "lora_A"] = make.normal((c, rank), c**-0.5)
            image[block + "lora_B"] = make.normal((rank, c), 0.02)
            image[block + "conv_lora_A.weight"] = make.normal((conv_rank, rank, kernel, kernel), 0.1)
            image[block + "conv_lora_B.weight"] = make.normal((rank, conv_rank, kernel, kernel), 0.1)
        image[name + "fusion_conv.weight"] = make.normal((c, 2 * c, 1, 1), (2 * c) ** -0.5)
        text[name + "lora_A"] = make.normal((d, rank), d**-0.5)
        text[name + "lora_B"] = make.normal((rank, d), 0.02)
        text |= make.layer_norm(f"layer_norms.{level}", d)
        for kind in ("seg", "det"):
            image |= make.layer_norm(f"{kind}_layer_norms.{level}", d)
            image |= make.linear(f"{kind}_proj.{level}.fc.0", c, hidden) | make.linear(
                f"{kind}_proj.{level}.fc.2", hidden, d
            )
        image |= make.linear(f"vision_text_gate.{level}.0", d, hidden, gain=20)
        image |= make.linear(f"vision_text_gate.{level}.2", hidden, 2 * groups, gain=3)
    return {"epoch": 7, "image_adapter": image, "text_adapter": text}


def seeded_picture(height: int, width: int, seed: int) -> Pixels:
    """A picture with edges, slopes and noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.sin(rows / height * 5)[..., None] * np.cos(columns[..., None] / width * np.array([3, 5, 7]))
    spots = np.kron(random.random((7, 7)), np.ones((-(-height // 7), -(-width // 7))))[:height, :width, None]
    return np.clip(90 + 60 * waves + 80 * (spots > 0.7) + random.normal(0, 8, (height, width, 3)), 0, 255).astype(
        np.uint8
    )


class _Maker:
    """Random tensors in a fixed order."""

    def __init__(self, seed: int, regime: Regime) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rough = regime == "trained"

    def normal(self, shape: tuple[int, ...], std: float) -> Tensor:
        return torch.empty(shape).normal_(0, std, generator=self.generator)

    def table(self, rows: int, width: int) -> Tensor:
        """A position table that is smooth over the grid, with noise."""
        side = round((rows - 1) ** 0.5)
        coarse = self.normal((1, width, 4, 4), 2 * width**-0.5)
        grid = F.interpolate(coarse, size=(side, side), mode="bilinear").flatten(2)[0].T
        return torch.cat([self.normal((1, width), width**-0.5), grid]) + self.normal((rows, width), 0.3 * width**-0.5)

    def layer_norm(self, name: str, width: int) -> Weights:
        spread = 0.3 if self.rough else 0.1
        weight = torch.exp(self.normal((width,), spread))
        if self.rough:
            weight[torch.randperm(width, generator=self.generator)[:3]] *= 10
        return {f"{name}.weight": weight, f"{name}.bias": self.normal((width,), spread / 3)}

    def linear(self, name: str, inputs: int, outputs: int, *, gain: float = 1.0) -> Weights:
        weight = self.normal((outputs, inputs), gain * inputs**-0.5)
        return {f"{name}.weight": weight, f"{name}.bias": self.normal((outputs,), 0.02)}

    def block(self, name: str, width: int, depth: int) -> Weights:
        sharp = 1.5 if self.rough else 1.0
        branch = width**-0.5 * (2 * depth) ** -0.5
        w = {
            f"{name}attn.in_proj_weight": self.normal((3 * width, width), sharp * width**-0.5),
            f"{name}attn.in_proj_bias": self.normal((3 * width,), 0.02),
            f"{name}attn.out_proj.weight": self.normal((width, width), branch),
            f"{name}attn.out_proj.bias": self.normal((width,), 0.01),
            f"{name}mlp.c_fc.weight": self.normal((4 * width, width), (2 * width) ** -0.5),
            f"{name}mlp.c_fc.bias": self.normal((4 * width,), 0.02),
            f"{name}mlp.c_proj.weight": self.normal((width, 4 * width), branch),
            f"{name}mlp.c_proj.bias": self.normal((width,), 0.01),
        }
        return w | self.layer_norm(f"{name}ln_1", width) | self.layer_norm(f"{name}ln_2", width)
