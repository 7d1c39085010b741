"""Tokenizers of the text towers, each as the one JSON that training, export and the device share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as _Tokenizer

Ids = npt.NDArray[np.int64]
Tokenize = Callable[[Sequence[str]], tuple[Ids, Ids]]
"""What `Tokenizer` does: prompts to (ids, mask), each int64 (P, L)."""


class Tokenizer:
    """Prompts to token ids, padded and truncated to one length.

    Args:
        json: what `tokenizers` writes; the length stands in it.

    Attributes:
        context_length: tokens per prompt, L.
    """

    def __init__(self, json: str) -> None:
        self._tokenizer = _Tokenizer.from_str(json)
        limit = self._tokenizer.truncation or {}
        self.context_length = int(limit["max_length"])

    def __call__(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """(ids, mask), both int64 (P, L); the mask is 1 on tokens and 0 on padding."""
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = np.array([e.ids for e in encoded], dtype=np.int64).reshape(-1, self.context_length)
        mask = np.array([e.attention_mask for e in encoded], dtype=np.int64).reshape(-1, self.context_length)
        return ids, mask


def with_length(json: str, context_length: int, pad_token: str) -> str:
    """The same tokenizer, padding and truncating to `context_length` tokens, special ones included."""
    tokenizer = _Tokenizer.from_str(json)
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(length=context_length, pad_id=tokenizer.token_to_id(pad_token), pad_token=pad_token)
    return tokenizer.to_str()
