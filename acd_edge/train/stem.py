"""The part of both towers before the first adapter: frozen, so that it needs no gradient and can be kept.

A picture's stem is the stream after the first group of blocks; so is a prompt's. Whatever is kept was computed from
that picture or product alone, so that a run which was resumed with nothing kept sees the same numbers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acd_edge.data.sampling import Item
from acd_edge.errors import OutputError
from acd_edge.model import AcdClip

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where what is known of pictures may be kept, per process: it changes the speed of a training, never its numbers.

    Attributes:
        memory: bytes of memory, for decoded pictures where they are augmented and for stems where they are not.
        folder: where a file takes the stems that memory does not, as many as there are pictures; None for no file. The
            file has no name, and its space is free again when the process ends, however it ends.
    """

    memory: int = 2 * GIB
    folder: Path | None = None


class Store:
    """Tensors of one shape by key: in memory up to a bound, then in a memory-mapped file, then not at all.

    Args:
        shape, dtype: of each tensor.
        count: how many keys there can be.
        room: the bounds.

    Raises:
        OutputError: the file cannot be made, or the disk has no room for all that it may have to take.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, count: int, room: Room) -> None:
        self.shape, self.dtype = tuple(shape), dtype
        cost = int(np.prod(self.shape)) * dtype.itemsize
        in_memory = min(count, room.memory // cost)
        self._in_file = count - in_memory if room.folder else 0
        self._limit = in_memory + self._in_file
        self._of_memory = in_memory
        self._memory: list[Tensor] = []
        self._file = (
            _mapped(room.folder, (self._in_file, *self.shape), dtype) if room.folder and self._in_file else None
        )
        self._places: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: Hashable) -> Tensor | None:
        """The tensor of a key, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        if place < self._of_memory:
            return self._memory[place]
        assert self._file is not None
        return self._file[place - self._of_memory]

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Keep a tensor, where there is still room."""
        place = len(self._places)
        if key in self._places or place >= self._limit:
            return
        if place < self._of_memory:
            self._memory.append(tensor.detach().to("cpu", self.dtype, copy=True))
        else:
            assert self._file is not None
            self._file[place - self._of_memory].copy_(tensor)
        self._places[key] = place


class PictureStems:
    """Stems of a batch's pictures, without gradients.

    Args:
        model: its vision tower's first group is used.
        store: keeps the stems of pictures that come again; None computes each.
    """

    def __init__(self, model: AcdClip, store: Store | None = None) -> None:
        self.model, self.store = model, store
        self.blocks = model.vision.depth // model.config.groups

    @torch.no_grad()
    def __call__(self, items: Sequence[Item]) -> Tensor:
        """The stream (B, 1 + G*G, C) after `blocks` blocks; a picture that is kept is not even decoded."""
        if self.store is None or all(item.key is None for item in items):
            return self._compute([item.image() for item in items])
        made = [item for item in items if item.key is None]
        fresh = iter(self._compute([item.image() for item in made]) if made else ())
        return torch.stack([next(fresh) if item.key is None else self._kept(item, self.store) for item in items])

    def _kept(self, item: Item, store: Store) -> Tensor:
        """The stem of one picture in the store's type, whether it is in the store or not."""
        device = self.model.vision.positions.device
        found = store.get(item.key)
        if found is None:
            found = self._compute([item.image()])[0].to(store.dtype)
            store.put(item.key, found)
        return found.to(device, torch.float32, non_blocking=True)

    def _compute(self, images: Sequence[np.ndarray]) -> Tensor:
        vision = self.model.vision
        pixels = torch.from_numpy(np.stack(images)).to(vision.positions.device, non_blocking=True)
        tokens = vision.embed(self.model.normalise(pixels))
        for block in vision.blocks[: self.blocks]:
            tokens = block(tokens)
        return tokens


class PromptStems:
    """Stems of products' prompts, without gradients, kept in memory up to a bound.

    Args:
        model: its text tower's first group is used.
        tokenise: words -> ids and mask (P, L) of all their prompts, L as short as they allow.
        memory: bytes; products that do not fit are computed each time.
    """

    def __init__(
        self, model: AcdClip, tokenise: Callable[[str], tuple[Tensor, Tensor]], memory: int = GIB // 4
    ) -> None:
        self.model, self._tokenise, self._left = model, tokenise, memory
        self.blocks = model.text.depth // model.config.groups
        self._kept: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, words: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Stream (P, L, C), ids and mask (P, L) of the prompts of all `words`, one product after another.

        A shorter product is lengthened to the longest: by its own last column, which its mask hides. Zeros would not
        do: a token without a norm cannot be rescaled, and what is hidden must still be a number.
        """
        stems = [self._stem(product) for product in words]
        longest = max(ids.shape[1] for _, ids, _ in stems)
        tokens, ids, masks = zip(*(_lengthened(*stem, longest) for stem in stems), strict=True)
        return torch.cat(tokens), torch.cat(ids), torch.cat(masks)

    @torch.no_grad()
    def _stem(self, product: str) -> tuple[Tensor, Tensor, Tensor]:
        if product in self._kept:
            return self._kept[product]
        text = self.model.text
        ids, mask = (part.to(text.positions.device) for part in self._tokenise(product))
        tokens, bias = text.embed(ids), text.attention_bias(mask)
        for block in text.blocks[: self.blocks]:
            tokens = block(tokens, bias)
        if tokens.nbytes <= self._left:
            self._kept[product], self._left = (tokens, ids, mask), self._left - tokens.nbytes
        return tokens, ids, mask


def store_for(model: AcdClip, kept: str, count: int, room: Room) -> Store | None:
    """The store for `count` pictures of a model, or None where nothing is to be kept.

    Args:
        model: its stems have (1 + G*G, C).
        kept: `TrainConfig.cache`.
        count: different pictures.
        room: the bounds.
    """
    if kept == "off" or not count or not (room.memory or room.folder):
        return None
    vision = model.vision
    return Store((1 + vision.grid**2, vision.width), DTYPES[kept], count, room)


def _lengthened(tokens: Tensor, ids: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    more = length - ids.shape[1]
    if not more:
        return tokens, ids, mask
    last = tokens[:, -1:].expand(-1, more, -1)
    empty = ids.new_zeros(len(ids), more)
    return torch.cat([tokens, last], dim=1), torch.cat([ids, empty], dim=1), torch.cat([mask, empty], dim=1)


def _mapped(folder: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in a nameless file; its space is taken at once, since a full disk would kill the process later."""
    numbers = int(np.prod(shape))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="acd-edge-stems-", dir=folder)
    except OSError as error:
        raise OutputError(f"no file for the cache in {folder}: {error.strerror or error}") from error
    try:
        os.posix_fallocate(handle, 0, numbers * dtype.itemsize)
        return torch.from_file(name, shared=True, size=numbers, dtype=dtype).view(shape)
    except OSError as error:
        size = numbers * dtype.itemsize / 1e9
        raise OutputError(
            f"{folder} has no room for a cache of {size:.1f} GB ({error.strerror or error}); "
            "free some, name another --cache-dir, or leave it away"
        ) from error
    finally:
        os.close(handle)
        os.unlink(name)
