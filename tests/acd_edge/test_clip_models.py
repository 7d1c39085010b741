"""Which CLIP models of open_clip are supported, and their tokenizer, which equals open_clip's."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import tokenizers

from acd_edge.config import ModelConfig
from acd_edge.errors import AcdEdgeError, ConfigError
from acd_edge.model import _clip
from acd_edge.model.weights import tokenizer_for, tokenizer_json


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RN50", "a ResNet as vision tower"),
        ("coca_ViT-B-32", "CoCa's attentional pooling"),
        ("roberta-ViT-B-32", r"a Hugging Face text tower \(roberta-base\)"),
        ("EVA02-L-14", "a vision tower of timm"),
        ("ViT-L-14-CLIPA", "the tokenizer of bert-base-uncased"),
        ("ViT-L14", "open_clip has no model 'ViT-L14'; near it: ViT-L-14"),
        ("hf-hub:some/where", "open_clip has no model 'hf-hub:some/where'"),
    ],
)
def test_unsupported_model_says_why(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        _clip.clip_specs(ModelConfig(backbone=f"clip:{name}"))


def test_every_plain_vit_of_open_clip_is_supported() -> None:
    plain = [name for name in open_clip.list_models() if name.startswith("ViT-")]
    supported = {name for name in plain if not _why(name)}
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-g-14", "ViT-bigG-14"} <= supported
    assert all("CLIPA" in n or "worldwide" in n or "SigLIP" in n or "HTxt" in n for n in set(plain) - supported)


def _why(name: str) -> str:
    try:
        _clip.clip_specs(ModelConfig(backbone=f"clip:{name}"))
    except AcdEdgeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "pretrained", "preset", "activation"),
    [
        ("ViT-L-14-336", "openai", "reference", "gelu"),  # the authors' way
        ("ViT-L-14-336", "openai", "paper", "quick_gelu"),
        ("ViT-B-32", "laion2b_s34b_b79k", "paper", "gelu"),
        ("ViT-B-32", "laion400m_e32", "reference", "quick_gelu"),  # its entry says so
        ("ViT-L-14-quickgelu", "my own", "reference", "quick_gelu"),
    ],
)
def test_activation(name: str, pretrained: str, preset: str, activation: str) -> None:
    config = ModelConfig(backbone=f"clip:{name}", pretrained=pretrained, preset=preset)
    vision, text = _clip.clip_specs(config)
    assert vision.block.activation == text.block.activation == activation


@pytest.mark.parametrize(
    ("name", "pretrained", "mean", "std"),
    [
        ("ViT-L-14", "openai", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("ViT-L-14", "laion2b_s32b_b82k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("ViT-L-14", "my own", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ],
)
def test_normalisation(name: str, pretrained: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    vision, _ = _clip.clip_specs(ModelConfig(backbone=f"clip:{name}", pretrained=pretrained))
    assert (vision.mean, vision.std) == (mean, std)


PLAIN = [
    "a photo of a damaged asphalt road.",
    "",
    "   ",
    "oval white pill with small red speckles and the letters 'FF' engraved",
    "don't WE'LL they'd I'VE x'RE",
    "tabs\tand\nnew\r\nlines\x0b \u2028 \u00a0",
    "1234567890 3.14 50% $5",
    "c_under_score--dash… a.b,c;d:e!f?g",
    "<start_of_text> in the text <end_of_text> there",
    "word " * 200,
    "a" * 300,
]
ODD = [
    "AT&amp;T &lt;b&gt; &amp;lt; &#233; &eacute; &#x2122; &quot;x&quot; &apos;s &nbsp;y",
    "Ünïcödé “curly” ‘quotes’ it’s",
    "ﬁligree ﬂow ＰＣＢ１２３　ｶﾀ，！",
    "日本語のテキスト 电路板 печатная плата schräg: 5µm Ø3 10°",
    "emoji 😀👩‍👩‍👧 ✅ ½ ² ⅷ ① ŉ ǆ ﬅ ﬆ ĳ",
    "e\u0301 cafe\u0301 İstanbul ß ẞ",
    "\x00null\x07bell x\ufeffy z\u200bw",
]


@pytest.mark.parametrize("text", PLAIN + ODD)
def test_clip_tokenizer_equals_open_clip(text: str) -> None:
    ids, mask = tokenizer_for(ModelConfig(backbone="clip:ViT-L-14-336"))([text])
    reference = open_clip.tokenize([text]).numpy()
    np.testing.assert_array_equal(ids, reference)
    used = int(reference[0].nonzero()[0].max()) + 1
    assert mask[0].tolist() == [1] * used + [0] * (77 - used)


def test_clip_tokenizer_json_is_all_a_device_needs() -> None:
    json_text = tokenizer_json(ModelConfig(backbone="clip:ViT-B-16"))
    encoding = tokenizers.Tokenizer.from_str(json_text).encode("a broken tile.")
    assert encoding.ids == open_clip.tokenize(["a broken tile."])[0].tolist()
    assert len(encoding.attention_mask) == 77
    assert tokenizers.Tokenizer.from_str(json_text).get_vocab_size() == 49408
