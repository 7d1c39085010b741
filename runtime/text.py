"""Text features of a product that the bundle has never seen, without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acd_edge.errors import BundleError
from acd_edge.lazy import require
from acd_edge.runtime.backends import Backend, BackendOptions, GraphFile, check_feed, open_backend
from acd_edge.runtime.manifest import Manifest
from acd_edge.runtime.prompts import product_features

Ids = NDArray[np.int64]
FloatArray = NDArray[np.float32]


class TextEncoder:
    """The bundle's text tower: a product's words to its features; each is computed once.

    Args:
        graph, tokenizer, manifest: the bundle's.
        backend, options: see `open_backend`; those of the bundle's graph, so that a device needs one library.
    """

    def __init__(
        self,
        graph: GraphFile,
        tokenizer: Path,
        manifest: Manifest,
        *,
        backend: str = "auto",
        options: BackendOptions = BackendOptions(),  # noqa: B008  # frozen
    ) -> None:
        self._tokenizer = BundleTokenizer(tokenizer.read_text(encoding="utf-8"), manifest.context_length)
        self._backend: Backend = open_backend(graph, backend=backend, options=options)
        self._manifest = manifest
        self._known: dict[str, FloatArray] = {}

    def features(self, words: str) -> FloatArray:
        """Features of a product from the words of its prompts, (N, 2, D) unit norm."""
        if words not in self._known:
            normal, abnormal = self._manifest.prompts.sentences(words)
            each = self.encode([*normal, *abnormal])
            self._known[words] = product_features(each[: len(normal)], each[len(normal) :]).astype(np.float32)
        return self._known[words]

    def encode(self, sentences: Sequence[str]) -> FloatArray:
        """Features of sentences, (P, N, D), each L2-normalised by the graph."""
        ids, mask = self._tokenizer(sentences)
        given = {"input_ids": ids, "attention_mask": mask}
        feed = {name: given[name] for name in self._backend.inputs if name in given}
        check_feed(feed, self._backend.inputs)
        features = self._backend.run(feed)["prompt_features"]
        want = (len(sentences), self._manifest.groups, self._manifest.feature_dim)
        if features.shape != want or not np.isfinite(features).all():
            raise BundleError(f"the text encoder gave {features.shape} or NaN, want {want}; export the bundle again")
        return features

    def close(self) -> None:
        """Free the graph; twice is fine."""
        self._backend.close()


class BundleTokenizer:
    """A `tokenizers` JSON, padded and cut to one length."""

    def __init__(self, text: str, length: int) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a handful of sentences; and it warns after a fork
        tokenizers = require("tokenizers", "cpu")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"tokenizer.json cannot be read: {error}; export the bundle again") from error
        padding = self._tokenizer.padding or {}
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(
            length=length, pad_id=padding.get("pad_id", 0), pad_token=padding.get("pad_token", "[PAD]")
        )

    def __call__(self, sentences: Sequence[str]) -> tuple[Ids, Ids]:
        """Token ids and mask (1 where a token is), both (P, L)."""
        encoded = self._tokenizer.encode_batch(list(sentences))
        return (
            np.array([entry.ids for entry in encoded], np.int64),
            np.array([entry.attention_mask for entry in encoded], np.int64),
        )
