"""CLIP's byte-pair tokenizer as the JSON of the package `tokenizers`, so that a device needs nothing else.

open_clip cleans a text before it splits it: ftfy repairs it, HTML entities are resolved, whitespace is collapsed, and
capitals become small. `tokenizers` has no ftfy: what it does to ordinary text is written as rules here (composed
characters, curly quotes, ligatures, full-width forms, HTML entities, control characters). Left out are the repair of
wrongly decoded text ("Ã©" for "é"), entities beyond HTML 4's or without their semicolon, and Greek's final sigma.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from html.entities import codepoint2name
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from acd_edge.errors import MissingExtra
from acd_edge.model.tokenizers import with_length

START, END, PAD = "<start_of_text>", "<end_of_text>", "!"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_MERGES = 49152 - 256 - 2  # the file holds more than CLIP was trained with


def clip_tokenizer_json(context_length: int) -> str:
    """The tokenizer of every CLIP model with CLIP's own vocabulary of 49408, padding with 0 to `context_length`.

    Raises:
        MissingExtra: open_clip, whose package carries the vocabulary, is not installed.
    """
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("CLIP's vocabulary comes with open_clip; install it with: pip install 'acd-edge[train]'")
    file = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]
    return with_length(json.dumps(_tokenizer([tuple(line.split()) for line in lines])), context_length, PAD)


def byte_letters() -> list[str]:
    """One printable letter for each byte, in the order of the vocabulary: printable bytes first, then the others.

    >>> byte_letters()[0], len(set(byte_letters()))
    ('!', 256)
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + index) for index in range(len(hidden))]


def _tokenizer(merges: list[tuple[str, ...]]) -> dict[str, Any]:
    letters = byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocabulary = {word: index for index, word in enumerate(words)}
    special = [_added(token, vocabulary[token]) for token in (START, END)]
    split = {
        "type": "Split",
        "pattern": {"Regex": f"(?i:{START}|{END}|{_WORDS})"},
        "behavior": "Removed",
        "invert": True,
    }
    letters_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": _cleaning()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, letters_of]},
        "post_processor": _template(vocabulary),
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in merges],
        },
    }


def _added(token: str, index: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": True}
    return {"id": index, "content": token, **flags}


def _template(vocabulary: dict[str, int]) -> dict[str, Any]:
    ends = {token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in (START, END)}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [{"SpecialToken": {"id": START, "type_id": 0}}, text, {"SpecialToken": {"id": END, "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": ends}


def _cleaning() -> list[dict[str, Any]]:
    """The cleaning of ftfy and open_clip, in their order."""
    rules = [_replace({"Regex": pattern}, text) for pattern, text in _entities()]
    rules += [_replace({"String": old}, new) for old, new in _characters().items()]
    rules += [_replace({"Regex": r"[\x00-\x08\x0e-\x1b\x7f\x{feff}\x{206a}-\x{206f}\x{fff9}-\x{fffb}]"}, "")]
    rules += [{"type": "NFC"}, _replace({"Regex": r"\s+"}, " ")]
    return [*rules, {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Lowercase"}]


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _entities() -> list[tuple[str, str]]:
    """(pattern, character) of HTML 4's entities, by name and by number; the ampersand first: it may hide another."""
    codes = {39: "apos", **codepoint2name}
    ordered = sorted(codes, key=lambda code: code != ord("&"))
    return [(rf"&(?:{codes[code]}|#0*{code}|#[xX]0*(?i:{code:x}));", chr(code)) for code in ordered]


def _characters() -> dict[str, str]:
    """Characters that ftfy writes plainly: Latin ligatures, full- and half-width forms, curly quotes."""
    ligatures = ["\u0132", "\u0133", "\u0149", *map(chr, range(0x01C4, 0x01CD)), *map(chr, range(0x01F1, 0x01F4))]
    ligatures += map(chr, range(0xFB00, 0xFB05))
    wide = ["\u3000", *map(chr, range(0xFF01, 0xFFF0))]
    plain = {char: unicodedata.normalize("NFKC", char) for char in ligatures + wide}
    plain |= {"\ufb05": "\u017ft", "\ufb06": "st"}
    quotes = dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'") | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
    return {char: text for char, text in (plain | quotes).items() if text != char}
