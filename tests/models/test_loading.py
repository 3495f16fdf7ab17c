"""Weights into memory: what is hashed is what is computed with, and nothing of the files is needed afterwards."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.core.errors import UserError
from evals.models import loading, weights
from tests.support.tiny_checkpoint import write_tiny_model
from tests.support.weight_files import one_line

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def write_tiny_gguf(path: Path) -> Path:
    """A Llama of one layer with random float32 weights, and a byte-level tokenizer of a few tokens."""
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(40)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|end|>", *"abcdefghijklmnopqrstuvwxyz", "ab", *(f"x{n}" for n in range(12))])
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, *[1] * 39])
    writer.add_eos_token_id(0)
    square, wide = (32, 32), (64, 32)
    shapes = {"token_embd": (40, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.attn_{name}": square for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": wide, "blk.0.ffn_up": wide, "blk.0.ffn_down": (32, 64)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.normal(size=shape).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    os.utime(file, (0, 0))  # so that any write since has another time, however soon it comes
    return file


def load(path: Path, dtype: str = "float32") -> loading.LoadedModel:
    return loading.load(path, CPU, dtype)


def logits(loaded: loading.LoadedModel) -> bytes:
    with torch.no_grad():
        return loaded.model(torch.arange(20)[None]).logits.numpy().tobytes()


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# What is hashed


def test_the_fingerprint_is_of_the_files(model: Path, gguf_file: Path) -> None:
    (model / "README.md").write_text("not part of the model")
    files = sorted(file for file in model.iterdir() if file.name != "README.md")
    listing = "".join(f"{digest(file)}  {file.name}\n" for file in files)
    assert load(model).fingerprint == f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
    assert load(gguf_file).fingerprint == f"sha256:{digest(gguf_file)}"


def test_shards_are_read_and_hashed_like_one_file(model: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    load(model).model.save_pretrained(shards, max_shard_size="20KB")
    for file in model.iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, shards)
    assert len(weights.find(shards)) > 1
    before = load(shards)
    assert logits(before) == logits(load(model))
    tensors = load_file(weights.find(shards)[-1])
    save_file({name: one + 1 for name, one in tensors.items()}, weights.find(shards)[-1], {"format": "pt"})
    assert load(shards).fingerprint != before.fingerprint


def test_the_fingerprint_is_of_content_and_not_of_place(model: Path, gguf_file: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "deep" / "elsewhere"))
    os.utime(other / "config.json", (0, 0))
    assert load(other).fingerprint == load(model).fingerprint
    shutil.copy(gguf_file, other / "b.gguf")
    (other / "chat_template.jinja").write_text("beside a GGUF file, and no part of it")
    one, same = load(gguf_file), load(other / "b.gguf")
    assert one.fingerprint == same.fingerprint
    assert same.tokenizer.chat_template is None


@pytest.mark.parametrize(
    "change",
    [
        lambda path: overwrite(path / "model.safetensors"),
        lambda path: (path / "config.json").write_text((path / "config.json").read_text() + "\n"),
        lambda path: (path / "tokenizer.json").write_text((path / "tokenizer.json").read_text() + "\n"),
        lambda path: (path / "generation_config.json").unlink(),
        lambda path: (path / "chat_template.jinja").write_text("hi"),
        lambda path: (path / "added_tokens.json").write_text("{}"),
    ],
)
def test_any_change_of_the_model_is_another_fingerprint(model: Path, change: Callable[[Path], None]) -> None:
    before = load(model).fingerprint
    change(model)
    assert load(model).fingerprint != before


# What changes after and during loading


def overwrite(file: Path) -> None:
    """Other numbers, into the same file, as a training writes them."""
    with file.open("r+b") as opened:
        opened.seek(-400, os.SEEK_END)
        opened.write(np.full(100, 0.5, "float32").tobytes())


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("change", [overwrite, cut, Path.unlink])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_happens_to_the_files_after_loading_changes_nothing(
    model: Path, change: Callable[[Path], None], dtype: str
) -> None:
    loaded, undisturbed = load(model, dtype), load(model, dtype)
    for file in model.iterdir():
        change(file) if file.suffix == ".safetensors" else cut(file)
    with torch.no_grad():
        ours, expected = (one.model(torch.arange(20)[None]).logits for one in (loaded, undisturbed))
    assert torch.equal(ours, expected)
    assert loaded.tokenizer("Hello")["input_ids"] == undisturbed.tokenizer("Hello")["input_ids"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the list of mapped files is Linux's")
def test_no_file_stays_mapped(model: Path, gguf_file: Path) -> None:
    kept = [load(model), load(gguf_file)]
    mapped = Path("/proc/self/maps").read_text()
    assert str(model) not in mapped
    assert "tiny.gguf" not in mapped
    assert len(kept) == 2


@pytest.mark.parametrize("change", [overwrite, cut])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "tiny.gguf"])
@pytest.mark.parametrize("moment", ["check", "find"])
def test_a_change_while_the_files_are_read_is_one_line(
    model: Path,
    gguf_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    name: str,
    moment: str,
) -> None:
    """The change comes right after the headers were checked, or just before; all is real but its moment."""
    path = gguf_file if name.endswith(".gguf") else model
    original, calls = getattr(weights, moment), []

    def then_changed(*given: Path) -> object:
        found = original(*given)
        calls.append(given)
        if len(calls) == {"check": 1, "find": 2}[moment]:
            change(gguf_file if path is gguf_file else model / name)
        return found

    monkeypatch.setattr(weights, moment, then_changed)
    with pytest.raises(UserError, match="changed while they were read") as caught:
        load(path)
    one_line(caught.value)


def test_what_was_broken_from_the_start_keeps_its_own_line(model: Path) -> None:
    cut(model / "model.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        load(model)


# What is refused


def test_no_room_for_copies_is_not_laid_to_the_weights(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free some") as caught:
        load(model)
    one_line(caught.value)


def test_weights_that_are_not_whole_are_refused(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not whole: model\.layers\.1\.mlp\.up_proj\.weight missing"):
        load(model)


def with_code(model: Path, kind: str) -> Path:
    config = json.loads((model / "config.json").read_text())
    config |= {
        "model_type": kind,
        "auto_map": {"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"},
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "code.py").write_text("raise SystemExit('code that came with a model was run')")
    return model


def test_code_that_is_not_needed_is_a_note(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(with_code(model, "llama"))
    assert "not run" in caplog.text


def test_code_that_is_needed_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match="not run") as caught:
        load(with_code(model, "mine"))
    one_line(caught.value)


def test_a_reader_that_would_open_the_gguf_file_itself_finds_it_empty(gguf_file: Path) -> None:
    """What happens with a release of transformers or gguf that does not read through numpy.memmap."""
    with loading._gguf_in_memory(gguf_file, {}) as place:
        assert place.read_bytes() == b""
        assert np.memmap(place).tobytes() == gguf_file.read_bytes()  # type: ignore[type-var]
    assert np.memmap(gguf_file, mode="r").size == gguf_file.stat().st_size


def test_the_gguf_loader_makes_its_table_of_names_once(gguf_file: Path) -> None:
    arch, original = gguf.MODEL_ARCH.LLAMA, gguf.get_tensor_name_map
    with loading._gguf_in_memory(gguf_file, {}):
        assert gguf.get_tensor_name_map(arch, 2) is gguf.get_tensor_name_map(arch, 2)
        assert gguf.get_tensor_name_map(arch, 3).get_name("model.layers.2.mlp.up_proj") == "blk.2.ffn_up"
    assert gguf.get_tensor_name_map is original
    assert gguf.get_tensor_name_map(arch, 2) is not gguf.get_tensor_name_map(arch, 2)


# What is loaded is what transformers loads by itself


def same_as_transformers(file: Path, texts: list[str]) -> None:
    """The loader's shortcuts change no number, token or setting of a GGUF file."""
    ours, place = load(file), {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    own = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**place)
    wanted, found = own.state_dict(), ours.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    place_of_it = ("_name_or_path", "quantization_config")  # theirs names the file
    settings, others = (
        {key: value for key, value in one.config.to_dict().items() if key not in place_of_it}
        for one in (ours.model, own)
    )
    assert settings == others
    assert ours.model.generation_config.to_dict() == own.generation_config.to_dict()
    assert ours.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert ours.tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert ours.tokenizer.special_tokens_map == tokenizer.special_tokens_map
    assert ours.tokenizer.chat_template == tokenizer.chat_template
    assert ours.tokenizer(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_a_gguf_file_is_what_transformers_makes_of_it(gguf_file: Path) -> None:
    same_as_transformers(gguf_file, ["abc", "ab x1", "<|end|>a"])


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.data
def test_the_embedded_file_is_what_transformers_makes_of_it(embedded_path: Path, data_dir: Path) -> None:
    import pyarrow.parquet as parquet

    files = [data_dir / "piqa" / "validation.parquet", *sorted((data_dir / "ifeval").glob("*.parquet"))]
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    same_as_transformers(
        embedded_path, [text for row in rows for text in row.values() if isinstance(text, str)]
    )
