"""What an engine consists of, as its layers tell: precision of its products, and which attentions are one kernel."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from acd_edge.errors import EngineError

__all__ = ["UNKNOWN", "Layer", "LayerSummary", "layers_from_json", "summary_of", "type_of"]

UNKNOWN = "unknown"
FUSED_ATTENTION = "_gemm_mha_v2"  # one kernel for both products and the softmax between them; v1 is a slower way

# TensorRT's words for a type, in JSON and in the log, over the releases; "Row major linear FP16 format" is 8.6's way.
_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "int8": "int8", "bfloat16": "bf16", "bf16": "bf16", "half": "fp16", "fp16": "fp16", "float16": "fp16",
        "float": "fp32", "fp32": "fp32", "float32": "fp32",
    }
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z]+\d*")
_STRENGTH = ("int8", "bf16", "fp16", "fp32")  # a product with several input types computes in the first of these
_PRODUCT = re.compile(r"gemm|mha|matmul|matrix_?multiply|correlation|convolution|cask", re.IGNORECASE)
_FULLY_CONNECTED = re.compile(r"(?:_|[a-z])Fc(?:[A-Z_]|$)")  # __myl_FcAddMulSigmMul_: a product with what follows it


@dataclass(frozen=True)
class Layer:
    """One kernel of an engine.

    Attributes:
        name, kind, tactic: as the compiler calls it, its type and its kernel.
        inputs: precision of each input that has one, in order; weights are not among them.
    """

    name: str
    kind: str
    tactic: str
    inputs: tuple[str, ...]

    @property
    def is_attention(self) -> bool:
        """Whether it is a whole attention: both products and the softmax."""
        return FUSED_ATTENTION in self.name or FUSED_ATTENTION in self.tactic

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves."""
        words = f"{self.name} {self.kind} {self.tactic}"
        return bool(_PRODUCT.search(words) or _FULLY_CONNECTED.search(self.name))

    @property
    def precision(self) -> str:
        """What it computes in; `unknown` where its inputs tell no type."""
        return next((each for each in _STRENGTH if each in self.inputs), UNKNOWN)


@dataclass(frozen=True)
class LayerSummary:
    """An engine in four numbers.

    Attributes:
        precision: `int8` where any product is; else that of most products (of most layers, where there is no product).
        layers, fused_attentions, int8_products: how many of each.
    """

    precision: str
    layers: int
    fused_attentions: int
    int8_products: int


def summary_of(layers: Iterable[Layer]) -> LayerSummary:
    """Count the layers."""
    every = list(layers)
    products = [each for each in every if each.is_product]
    int8 = sum(each.precision == "int8" for each in products)
    return LayerSummary(
        precision="int8" if int8 else _most(products) if _most(products) != UNKNOWN else _most(every),
        layers=len(every),
        fused_attentions=sum(each.is_attention for each in every),
        int8_products=int8,
    )


def layers_from_json(text: str) -> list[Layer]:
    """Layers from `EngineInspector.get_engine_information` as JSON.

    Raises:
        EngineError: it is no such JSON.
    """
    try:
        listed = json.loads(text, strict=False)["Layers"]  # names are joined by control characters
        return [_layer(each) for each in listed]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"the engine's inspector gave no list of layers ({error})") from error


def _layer(values: Any) -> Layer:
    if isinstance(values, str):  # an engine of low verbosity gives names only
        return Layer(values, "", "", ())
    inputs = values.get("Inputs") or []
    types = [type_of(" ".join(str(each.get(key, "")) for key in _TYPE_KEYS)) for each in inputs]
    return Layer(
        name=str(values.get("Name", "")),
        kind=str(values.get("LayerType", "")),
        tactic=str(values.get("TacticName", "")),
        inputs=tuple(each for each in types if each),
    )


_TYPE_KEYS = ("Datatype", "Format/Datatype", "Format")


def type_of(words: str) -> str | None:
    """The precision that the first known word names, or None for types such as uint8 that no product has."""
    return next((_TYPES[each.lower()] for each in _WORD.findall(words) if each.lower() in _TYPES), None)


def _most(layers: Iterable[Layer]) -> str:
    known = Counter(each.precision for each in layers if each.precision != UNKNOWN)
    return known.most_common(1)[0][0] if known else UNKNOWN
